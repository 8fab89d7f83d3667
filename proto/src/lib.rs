//! The wire: the [Open Inference Protocol v2] over gRPC, as Triton, KServe and MLServer speak it.
//!
//! [`inference`] holds the generated messages, client and server; [`tensor`] converts between their
//! contents and [`Tensor`], which knows its datatype and shape. Nothing here decides, connects or
//! serves.
//!
//! ```
//! use outpost_proto::{ContentsKind, Tensor, TensorData, tensor};
//!
//! let image = Tensor::new("image", vec![1], TensorData::Bytes(vec![b"a JPEG file".as_slice().into()]))?;
//! let request = tensor::infer_request("efficientnet-lite2", "request-1", [image], ContentsKind::Raw);
//! assert_eq!(tensor::take_inputs(request)?[0].shape(), [1]);
//! # Ok::<(), outpost_proto::TensorError>(())
//! ```
//!
//! [Open Inference Protocol v2]: https://github.com/kserve/open-inference-protocol

pub mod bounded;
pub mod parameter;
pub mod tensor;

pub use tensor::{ContentsKind, Datatype, Tensor, TensorData, TensorError};

/// Messages, client and server generated from `open_inference.proto` (package `inference`).
#[allow(missing_docs, clippy::all)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// The encoded `FileDescriptorSet` of the protocol, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("open_inference");

/// The model metadata property under which a server names the datatype of the encoded images that a
/// model takes in place of its tensor.
///
/// `properties` is a free-form map of the protocol, so that other clients pass it over.
pub const ENCODED_IMAGE_PROPERTY: &str = "encoded_image";

/// The model metadata property under which a server lists the formats of encoded images that it takes: `jpeg`, `png`,
/// `webp`, `avif`, separated by commas.
pub const IMAGE_FORMATS_PROPERTY: &str = "encoded_image_formats";

/// The model metadata property under which a server tells which network it serves by that name: the SHA-256 of its weights, as
/// its manifest has it, in 64 lower-case hexadecimal digits.
pub const WEIGHTS_DIGEST_PROPERTY: &str = "weights_sha256";
