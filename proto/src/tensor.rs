//! Tensor contents: typed fields and raw little-endian bytes, both ways.
//!
//! A request or response carries its elements either in the typed field of each tensor's
//! `contents`, or as raw little-endian bytes, one entry a tensor, beside them; the protocol forbids a
//! mixture. FP16 has no typed field and travels raw only. Every function checks that shape, datatype
//! and the number of elements agree, so that a [`Tensor`] is always consistent.

use std::{fmt, str::FromStr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use half::f16;

use crate::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse,
    model_infer_request::InferInputTensor, model_infer_response::InferOutputTensor,
};

/// A named tensor whose shape and data agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    name: String,
    shape: Vec<usize>,
    data: TensorData,
}

impl Tensor {
    /// Checks that `shape` and `data` agree.
    ///
    /// # Errors
    /// [`TensorError::ElementCount`] when they do not, [`TensorError::Shape`] when the shape's product
    /// overflows.
    pub fn new(
        name: impl Into<String>,
        shape: Vec<usize>,
        data: TensorData,
    ) -> Result<Self, TensorError> {
        let name = name.into();
        let expected = shape
            .iter()
            .try_fold(1_usize, |product, &dimension| {
                product.checked_mul(dimension)
            })
            .ok_or_else(|| TensorError::Shape {
                tensor: name.clone(),
                shape: shape.iter().map(|&d| d as i64).collect(),
            })?;
        if expected != data.len() {
            return Err(TensorError::ElementCount {
                tensor: name,
                expected,
                found: data.len(),
            });
        }
        Ok(Self { name, shape, data })
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tensor's dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensor's elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// Gives the elements up, in row-major order.
    pub fn into_data(self) -> TensorData {
        self.data
    }

    fn wire_shape(&self) -> Vec<i64> {
        self.shape.iter().map(|&d| d as i64).collect()
    }
}

/// Elements of a tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// Unsigned bytes, such as pixels.
    Uint8(Bytes),
    /// 64-bit signed integers.
    Int64(Vec<i64>),
    /// Half-precision floats.
    Fp16(Vec<f16>),
    /// Single-precision floats.
    Fp32(Vec<f32>),
    /// Byte strings, such as encoded images.
    Bytes(Vec<Bytes>),
}

impl TensorData {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Uint8(elements) => elements.len(),
            Self::Int64(elements) => elements.len(),
            Self::Fp16(elements) => elements.len(),
            Self::Fp32(elements) => elements.len(),
            Self::Bytes(elements) => elements.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The datatype of the elements.
    pub fn datatype(&self) -> Datatype {
        match self {
            Self::Uint8(_) => Datatype::Uint8,
            Self::Int64(_) => Datatype::Int64,
            Self::Fp16(_) => Datatype::Fp16,
            Self::Fp32(_) => Datatype::Fp32,
            Self::Bytes(_) => Datatype::Bytes,
        }
    }
}

/// An element type, by its name in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// `UINT8`
    Uint8,
    /// `INT64`
    Int64,
    /// `FP16`
    Fp16,
    /// `FP32`
    Fp32,
    /// `BYTES`
    Bytes,
}

impl Datatype {
    /// The name in the protocol, such as `"FP32"`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uint8 => "UINT8",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Bytes => "BYTES",
        }
    }

    /// Bytes an element takes in raw contents; `None` where it varies.
    const fn element_bytes(self) -> Option<usize> {
        match self {
            Self::Uint8 => Some(1),
            Self::Fp16 => Some(2),
            Self::Fp32 => Some(4),
            Self::Int64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Datatype {
    type Err = UnknownDatatype;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [
            Self::Uint8,
            Self::Int64,
            Self::Fp16,
            Self::Fp32,
            Self::Bytes,
        ]
        .into_iter()
        .find(|datatype| datatype.as_str() == name)
        .ok_or(UnknownDatatype)
    }
}

/// A datatype name that Outpost does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the datatype is none of UINT8, INT64, FP16, FP32 and BYTES")]
pub struct UnknownDatatype;

/// How contents travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentsKind {
    /// In the typed field of each tensor. FP16 has none and makes the whole message raw.
    Typed,
    /// As little-endian bytes beside the tensors: smaller and faster.
    Raw,
}

/// Why tensor contents were refused. Every message names the tensor and what to send instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The datatype is unknown here.
    #[error("tensor {tensor:?} has datatype {datatype:?}: send UINT8, INT64, FP16, FP32 or BYTES")]
    Datatype {
        /// Name of the tensor.
        tensor: String,
        /// The datatype as received.
        datatype: String,
    },
    /// A dimension is negative, or the product of the dimensions overflows.
    #[error("tensor {tensor:?} has the impossible shape {shape:?}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// The shape as received.
        shape: Vec<i64>,
    },
    /// The number of elements is not the product of the shape.
    #[error("tensor {tensor:?} needs {expected} elements by its shape and carries {found}")]
    ElementCount {
        /// Name of the tensor.
        tensor: String,
        /// Product of the shape.
        expected: usize,
        /// Elements carried.
        found: usize,
    },
    /// Raw contents do not divide into elements.
    #[error("raw contents of tensor {tensor:?} are malformed at byte {offset} of {length}")]
    RawContents {
        /// Name of the tensor.
        tensor: String,
        /// Where they stop making sense.
        offset: usize,
        /// Their length in bytes.
        length: usize,
    },
    /// The numbers of tensors and of raw entries differ.
    #[error(
        "the message has {tensors} tensors and {raw} raw contents: send one raw entry a tensor, or none"
    )]
    RawCount {
        /// Tensors in the message.
        tensors: usize,
        /// Raw entries in the message.
        raw: usize,
    },
    /// Typed and raw contents in one message.
    #[error("tensor {tensor:?} has typed contents in a message with raw contents: send one kind")]
    MixedContents {
        /// Name of the tensor.
        tensor: String,
    },
    /// Elements stand in the field of another datatype, or do not fit the datatype.
    #[error("typed contents of tensor {tensor:?} are not in the field or range of {datatype}")]
    TypedContents {
        /// Name of the tensor.
        tensor: String,
        /// The datatype declared.
        datatype: Datatype,
    },
}

/// Makes an inference request for `model`.
pub fn infer_request(
    model: &str,
    id: &str,
    inputs: impl IntoIterator<Item = Tensor>,
    kind: ContentsKind,
) -> ModelInferRequest {
    let (inputs, raw_input_contents) = encode(inputs, kind);
    ModelInferRequest {
        model_name: model.to_owned(),
        id: id.to_owned(),
        inputs: inputs
            .into_iter()
            .map(|header| InferInputTensor {
                name: header.name,
                datatype: header.datatype,
                shape: header.shape,
                contents: header.contents,
                ..Default::default()
            })
            .collect(),
        raw_input_contents,
        ..Default::default()
    }
}

/// Makes an inference response.
pub fn infer_response(
    model: &str,
    version: &str,
    id: &str,
    outputs: impl IntoIterator<Item = Tensor>,
    kind: ContentsKind,
) -> ModelInferResponse {
    let (outputs, raw_output_contents) = encode(outputs, kind);
    ModelInferResponse {
        model_name: model.to_owned(),
        model_version: version.to_owned(),
        id: id.to_owned(),
        outputs: outputs
            .into_iter()
            .map(|header| InferOutputTensor {
                name: header.name,
                datatype: header.datatype,
                shape: header.shape,
                contents: header.contents,
                ..Default::default()
            })
            .collect(),
        raw_output_contents,
        ..Default::default()
    }
}

/// The kind of contents that a request carries, so that the answer can come in kind.
pub fn contents_kind(request: &ModelInferRequest) -> ContentsKind {
    if request.raw_input_contents.is_empty() {
        ContentsKind::Typed
    } else {
        ContentsKind::Raw
    }
}

/// Takes the input tensors out of a request.
///
/// # Errors
/// A [`TensorError`] that names the first tensor at fault.
pub fn take_inputs(request: ModelInferRequest) -> Result<Vec<Tensor>, TensorError> {
    let headers = request.inputs.into_iter().map(|input| Header {
        name: input.name,
        datatype: input.datatype,
        shape: input.shape,
        contents: input.contents,
    });
    decode(headers, request.raw_input_contents)
}

/// Takes the output tensors out of a response.
///
/// # Errors
/// A [`TensorError`] that names the first tensor at fault.
pub fn take_outputs(response: ModelInferResponse) -> Result<Vec<Tensor>, TensorError> {
    let headers = response.outputs.into_iter().map(|output| Header {
        name: output.name,
        datatype: output.datatype,
        shape: output.shape,
        contents: output.contents,
    });
    decode(headers, response.raw_output_contents)
}

/// What input and output tensors have in common on the wire.
struct Header {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    contents: Option<InferTensorContents>,
}

fn encode(
    tensors: impl IntoIterator<Item = Tensor>,
    kind: ContentsKind,
) -> (Vec<Header>, Vec<Bytes>) {
    let tensors: Vec<Tensor> = tensors.into_iter().collect();
    let raw = kind == ContentsKind::Raw
        || tensors
            .iter()
            .any(|tensor| tensor.data.datatype() == Datatype::Fp16);
    let mut raw_contents = Vec::new();
    let headers = tensors
        .into_iter()
        .map(|tensor| {
            let datatype = tensor.data.datatype().as_str().to_owned();
            let shape = tensor.wire_shape();
            let contents = if raw {
                raw_contents.push(encode_raw(tensor.data));
                None
            } else {
                Some(encode_typed(tensor.data))
            };
            Header {
                name: tensor.name,
                datatype,
                shape,
                contents,
            }
        })
        .collect();
    (headers, raw_contents)
}

fn encode_raw(data: TensorData) -> Bytes {
    match data {
        TensorData::Uint8(elements) => elements,
        TensorData::Int64(elements) => little_endian(&elements, i64::to_le_bytes),
        TensorData::Fp16(elements) => little_endian(&elements, f16::to_le_bytes),
        TensorData::Fp32(elements) => little_endian(&elements, f32::to_le_bytes),
        TensorData::Bytes(elements) => {
            let length = elements.iter().map(|element| element.len() + 4).sum();
            let mut raw = BytesMut::with_capacity(length);
            for element in elements {
                raw.put_u32_le(element.len() as u32);
                raw.put(element);
            }
            raw.freeze()
        }
    }
}

/// Generic over the function, as [`elements`].
fn little_endian<T: Copy, const N: usize>(
    elements: &[T],
    to_bytes: impl Fn(T) -> [u8; N],
) -> Bytes {
    let mut raw = vec![0; elements.len() * N];
    let (chunks, _) = raw.as_chunks_mut::<N>();
    for (chunk, &element) in chunks.iter_mut().zip(elements) {
        *chunk = to_bytes(element);
    }
    raw.into()
}

fn encode_typed(data: TensorData) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    match data {
        TensorData::Uint8(elements) => {
            contents.uint_contents = elements.iter().map(|&element| element.into()).collect();
        }
        TensorData::Int64(elements) => contents.int64_contents = elements,
        TensorData::Fp32(elements) => contents.fp32_contents = elements,
        TensorData::Bytes(elements) => contents.bytes_contents = elements,
        TensorData::Fp16(_) => unreachable!("`encode` sends FP16 raw"),
    }
    contents
}

fn decode(
    headers: impl ExactSizeIterator<Item = Header>,
    raw_contents: Vec<Bytes>,
) -> Result<Vec<Tensor>, TensorError> {
    let is_raw = !raw_contents.is_empty();
    if is_raw && headers.len() != raw_contents.len() {
        return Err(TensorError::RawCount {
            tensors: headers.len(),
            raw: raw_contents.len(),
        });
    }
    let mut raw_contents = raw_contents.into_iter();
    headers
        .map(|header| decode_one(header, raw_contents.next()))
        .collect()
}

fn decode_one(header: Header, raw: Option<Bytes>) -> Result<Tensor, TensorError> {
    let Header {
        name,
        datatype,
        shape,
        contents,
    } = header;
    let Ok(datatype) = datatype.parse::<Datatype>() else {
        return Err(TensorError::Datatype {
            tensor: name,
            datatype,
        });
    };
    let dimensions = shape
        .iter()
        .map(|&dimension| usize::try_from(dimension))
        .collect::<Result<Vec<_>, _>>();
    let Ok(dimensions) = dimensions else {
        return Err(TensorError::Shape {
            tensor: name,
            shape,
        });
    };
    let data = match (raw, contents) {
        (Some(_), Some(contents)) if contents != InferTensorContents::default() => {
            return Err(TensorError::MixedContents { tensor: name });
        }
        (Some(raw), _) => decode_raw(&name, datatype, &dimensions, raw)?,
        (None, contents) => decode_typed(&name, datatype, contents.unwrap_or_default())?,
    };
    Tensor::new(name, dimensions, data)
}

fn decode_raw(
    tensor: &str,
    datatype: Datatype,
    dimensions: &[usize],
    mut raw: Bytes,
) -> Result<TensorData, TensorError> {
    let length = raw.len();
    let malformed = |offset| TensorError::RawContents {
        tensor: tensor.to_owned(),
        offset,
        length,
    };
    if let Some(size) = datatype.element_bytes()
        && !length.is_multiple_of(size)
    {
        return Err(malformed(length - length % size));
    }
    Ok(match datatype {
        Datatype::Uint8 => TensorData::Uint8(raw),
        Datatype::Int64 => TensorData::Int64(elements(&raw, i64::from_le_bytes)),
        Datatype::Fp16 => TensorData::Fp16(elements(&raw, f16::from_le_bytes)),
        Datatype::Fp32 => TensorData::Fp32(elements(&raw, f32::from_le_bytes)),
        Datatype::Bytes => {
            let expected = dimensions
                .iter()
                .fold(1_usize, |product, &d| product.saturating_mul(d));
            let mut elements = Vec::new();
            while raw.has_remaining() {
                let offset = length - raw.remaining();
                // Empty elements are cheap to send and not to hold: no more than the shape says.
                if elements.len() == expected {
                    return Err(malformed(offset));
                }
                let size = raw.try_get_u32_le().map_err(|_| malformed(offset))? as usize;
                if size > raw.remaining() {
                    return Err(malformed(offset));
                }
                elements.push(raw.split_to(size));
            }
            TensorData::Bytes(elements)
        }
    })
}

/// Generic over the function, so that it is inlined and the loop is one over vectors.
fn elements<T, const N: usize>(raw: &[u8], from_bytes: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = raw.as_chunks::<N>();
    chunks.iter().map(|&chunk| from_bytes(chunk)).collect()
}

fn decode_typed(
    tensor: &str,
    datatype: Datatype,
    mut contents: InferTensorContents,
) -> Result<TensorData, TensorError> {
    let refused = || TensorError::TypedContents {
        tensor: tensor.to_owned(),
        datatype,
    };
    let data = match datatype {
        Datatype::Uint8 => std::mem::take(&mut contents.uint_contents)
            .into_iter()
            .map(u8::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map(|elements| TensorData::Uint8(elements.into()))
            .map_err(|_| refused())?,
        Datatype::Int64 => TensorData::Int64(std::mem::take(&mut contents.int64_contents)),
        Datatype::Fp32 => TensorData::Fp32(std::mem::take(&mut contents.fp32_contents)),
        Datatype::Bytes => TensorData::Bytes(std::mem::take(&mut contents.bytes_contents)),
        Datatype::Fp16 => return Err(refused()),
    };
    if contents != InferTensorContents::default() {
        return Err(refused());
    }
    Ok(data)
}

#[cfg(test)]
mod tests;
