//! Refuses messages that would take far more memory than bytes on the wire, before they are decoded.
//!
//! A repeated field costs a peer two bytes an entry, or one a number, and its receiver a string, a tensor or a map's
//! entry. The size of a message alone therefore bounds nothing.

use std::marker::PhantomData;

use bytes::Buf;
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::inference;

/// Fields that a message may have, those of its tensors included: some thousand encoded images, each an entry, and
/// some 10 MB of memory in entries.
pub const MAX_FIELDS: usize = 1 << 16;
/// Bytes of numbers that grow by being decoded (`bool`, `int32`, `int64`, `uint64`, and shapes): at most eight-fold.
/// No tensor of an image is among them.
pub const MAX_PACKED_BYTES: usize = 1 << 20;

/// What is known of the fields of a message: all others are a number, or bytes that cost what they weigh; the numbers of
/// `uint_contents`, in which UINT8 travels, up to four times as much.
type Schema = &'static [(u32, Field)];

#[derive(Clone, Copy)]
enum Field {
    /// A message whose own fields count too.
    Message(Schema),
    /// Numbers of varying length.
    Packed,
}

const FLAT: Schema = &[];
const CONTENTS: Schema = &[
    (1, Field::Packed),
    (2, Field::Packed),
    (3, Field::Packed),
    (5, Field::Packed),
];
const TENSOR: Schema = &[
    (3, Field::Packed),
    (4, Field::Message(FLAT)),
    (5, Field::Message(CONTENTS)),
];
const WANTED_OUTPUT: Schema = &[(2, Field::Message(FLAT))];
const INFER_REQUEST: Schema = &[
    (4, Field::Message(FLAT)),
    (5, Field::Message(TENSOR)),
    (6, Field::Message(WANTED_OUTPUT)),
];
const INFER_RESPONSE: Schema = &[(4, Field::Message(FLAT)), (5, Field::Message(TENSOR))];

/// Why a message is not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TooMany {
    /// More fields than [`MAX_FIELDS`].
    #[error(
        "the message has more than {MAX_FIELDS} fields: send fewer tensors, images and parameters"
    )]
    Fields,
    /// More bytes of numbers than [`MAX_PACKED_BYTES`].
    #[error(
        "`contents` and `shape` hold more than {MAX_PACKED_BYTES} bytes of integers: send FP32, FP16 or UINT8, or encoded images"
    )]
    Packed,
}

/// A message whose fields are counted before it is decoded.
pub trait Bounded: Message + Default + 'static {
    /// Counts the fields of an encoded message. Bytes that are no message pass: decoding says what is wrong with
    /// them, and it stops at the same place.
    ///
    /// # Errors
    /// [`TooMany`].
    fn check(encoded: &[u8]) -> Result<(), TooMany>;
}

macro_rules! bounded {
    ($($message:ident: $schema:expr,)*) => {
        $(impl Bounded for inference::$message {
            fn check(encoded: &[u8]) -> Result<(), TooMany> {
                Count::default().walk(encoded, $schema)
            }
        })*
    };
}

bounded! {
    ModelInferRequest: INFER_REQUEST,
    ModelInferResponse: INFER_RESPONSE,
    ServerLiveRequest: FLAT,
    ServerLiveResponse: FLAT,
    ServerReadyRequest: FLAT,
    ServerReadyResponse: FLAT,
    ServerMetadataRequest: FLAT,
    ServerMetadataResponse: FLAT,
    ModelReadyRequest: FLAT,
    ModelReadyResponse: FLAT,
    ModelMetadataRequest: FLAT,
    ModelMetadataResponse: FLAT,
    ModelStatisticsRequest: FLAT,
    ModelStatisticsResponse: FLAT,
    RepositoryIndexRequest: FLAT,
    RepositoryIndexResponse: FLAT,
    RepositoryModelLoadRequest: FLAT,
    RepositoryModelLoadResponse: FLAT,
    RepositoryModelUnloadRequest: FLAT,
    RepositoryModelUnloadResponse: FLAT,
}

#[derive(Default)]
struct Count {
    fields: usize,
    packed_bytes: usize,
}

impl Count {
    fn walk(&mut self, mut bytes: &[u8], schema: Schema) -> Result<(), TooMany> {
        while let Ok((tag, wire_type)) = decode_key(&mut bytes) {
            self.fields += 1;
            if self.fields > MAX_FIELDS {
                return Err(TooMany::Fields);
            }
            let length = match wire_type {
                WireType::Varint => match decode_varint(&mut bytes) {
                    Ok(_) => 0,
                    Err(_) => return Ok(()),
                },
                WireType::SixtyFourBit => 8,
                WireType::ThirtyTwoBit => 4,
                WireType::LengthDelimited => match decode_varint(&mut bytes) {
                    Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
                    Err(_) => return Ok(()),
                },
                // Fields within a group count as its message's own.
                WireType::StartGroup | WireType::EndGroup => 0,
            };
            let Some((content, rest)) = bytes.split_at_checked(length) else {
                return Ok(());
            };
            bytes = rest;
            if wire_type != WireType::LengthDelimited {
                continue;
            }
            match schema.iter().find(|(known, _)| *known == tag) {
                Some((_, Field::Message(schema))) => self.walk(content, schema)?,
                Some((_, Field::Packed)) => {
                    self.packed_bytes = self.packed_bytes.saturating_add(length);
                    if self.packed_bytes > MAX_PACKED_BYTES {
                        return Err(TooMany::Packed);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// The codec of the generated client and server: prost's, with the count before it.
#[derive(Debug, Clone)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Bounded + Send> Codec for BoundedCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::default())
    }
}

/// Prost's decoder, with the count before it.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Bounded> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let whole = source.chunk();
        if whole.len() != source.remaining() {
            return Err(Status::internal("a message lies in several pieces"));
        }
        U::check(whole).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.0.decode(source)
    }
}

#[cfg(test)]
mod tests {
    use inference::{
        InferTensorContents, ModelInferRequest, RepositoryModelLoadRequest,
        model_infer_request::InferInputTensor,
    };
    use proptest::prelude::*;

    use super::*;

    fn request(contents: InferTensorContents) -> ModelInferRequest {
        ModelInferRequest {
            inputs: vec![InferInputTensor {
                contents: Some(contents),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn requests_as_people_send_them_pass() {
        let images = request(InferTensorContents {
            bytes_contents: vec![vec![7; 1000].into(); 1024],
            ..Default::default()
        });
        let pixels = request(InferTensorContents {
            fp32_contents: vec![0.5; 1 << 21],
            ..Default::default()
        });
        for request in [images, pixels] {
            ModelInferRequest::check(&request.encode_to_vec()).unwrap();
        }
    }

    #[test]
    fn what_grows_in_memory_is_refused() {
        let tensors = ModelInferRequest {
            inputs: vec![InferInputTensor::default(); MAX_FIELDS + 1],
            ..Default::default()
        };
        let images = request(InferTensorContents {
            bytes_contents: vec![Default::default(); MAX_FIELDS],
            ..Default::default()
        });
        let integers = request(InferTensorContents {
            int64_contents: vec![1; MAX_PACKED_BYTES + 1],
            ..Default::default()
        });
        let shape = ModelInferRequest {
            inputs: vec![InferInputTensor {
                shape: vec![1; MAX_PACKED_BYTES + 1],
                ..Default::default()
            }],
            ..Default::default()
        };
        for (request, error) in [
            (tensors, TooMany::Fields),
            (images, TooMany::Fields),
            (integers, TooMany::Packed),
            (shape, TooMany::Packed),
        ] {
            let found = ModelInferRequest::check(&request.encode_to_vec());
            assert_eq!(found.unwrap_err(), error);
        }
        let parameters = (0..=MAX_FIELDS).map(|index| (index.to_string(), Default::default()));
        let load = RepositoryModelLoadRequest {
            parameters: parameters.collect(),
            ..Default::default()
        };
        let found = RepositoryModelLoadRequest::check(&load.encode_to_vec());
        assert_eq!(found.unwrap_err(), TooMany::Fields);
    }

    proptest! {
        /// Fields are found as prost finds them: no more entries come out than were counted.
        #[test]
        fn nothing_comes_out_that_was_not_counted(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut count = Count::default();
            prop_assert!(count.walk(&bytes, INFER_REQUEST).is_ok());
            if let Ok(request) = ModelInferRequest::decode(&*bytes) {
                let entries = request.inputs.len()
                    + request.outputs.len()
                    + request.raw_input_contents.len()
                    + request.parameters.len();
                prop_assert!(entries <= count.fields);
            }
        }
    }
}
