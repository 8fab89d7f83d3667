//! From the input tensor of a request to a network's batch.
//!
//! | datatype | shape | meaning |
//! | --- | --- | --- |
//! | `BYTES` | `[n]` or `[n, 1]` | encoded images, decoded and pre-processed here |
//! | `UINT8` | `[n, height, width, 3]` | RGB pixels of any size, pre-processed here |
//! | `UINT8`, `FP16`, `FP32` | `[n, 3, size, size]` | the network's input as it is |

use bytes::Bytes;
use ndarray::{Array4, ArrayView4, Axis, concatenate};
use outpost_engine::Picture;
use outpost_proto::{Tensor, TensorData};
use outpost_runtime::{Classifier, ImageLimits, Manifest, RgbImage, decode};
use outpost_transport::Deadline;

use crate::{config::Limits, error::ServiceError};

/// Finds the one input of a network among `tensors`.
pub(crate) fn only_input(
    manifest: &Manifest,
    tensors: Vec<Tensor>,
) -> Result<Tensor, ServiceError> {
    let wanted = &manifest.input.tensor;
    match <[Tensor; 1]>::try_from(tensors) {
        Ok([tensor]) if tensor.name() == wanted => Ok(tensor),
        Ok([tensor]) => Err(ServiceError::Inputs {
            wanted: wanted.clone(),
            found: vec![tensor.name().to_owned()],
        }),
        Err(tensors) => Err(ServiceError::Inputs {
            wanted: wanted.clone(),
            found: tensors
                .iter()
                .map(|tensor| tensor.name().to_owned())
                .collect(),
        }),
    }
}

/// Checks the number of images before anything is decoded.
pub(crate) fn image_count(tensor: &Tensor, limits: &Limits) -> Result<usize, ServiceError> {
    let found = tensor.shape().first().copied().unwrap_or(0);
    if (1..=limits.max_batch).contains(&found) {
        Ok(found)
    } else {
        Err(ServiceError::BatchSize {
            found,
            limit: limits.max_batch,
        })
    }
}

/// An image that a cascade takes, before it is decoded: decoded images are large, so that each is when its turn has
/// come.
#[derive(Debug)]
pub(crate) struct Undecoded {
    tensor: String,
    index: usize,
    image: Image,
}

#[derive(Debug)]
enum Image {
    Encoded(Bytes),
    Pixels {
        rgb: Bytes,
        width: usize,
        height: usize,
    },
}

impl Undecoded {
    /// Decodes. Costs CPU time: call it on a blocking thread.
    pub(crate) fn decode(
        self,
        limits: &ImageLimits,
        deadline: Option<Deadline>,
    ) -> Result<Picture, ServiceError> {
        match self.image {
            Image::Encoded(encoded) => {
                let pixels = decoded(&self.tensor, self.index, &encoded, limits, deadline)?;
                Ok(Picture::new(Some(encoded), pixels))
            }
            Image::Pixels { rgb, width, height } => {
                let mut images = rgb_images(&rgb, height, width);
                let pixels = images.next().expect("the pixels of one image");
                Ok(Picture::new(None, pixels))
            }
        }
    }
}

/// The images of a tensor that a cascade takes.
pub(crate) fn undecoded(
    tensor: Tensor,
    limits: &ImageLimits,
) -> Result<Vec<Undecoded>, ServiceError> {
    let name = tensor.name().to_owned();
    let shape = tensor.shape().to_vec();
    let images: Vec<Image> = match tensor.into_data() {
        TensorData::Bytes(images) if is_list(&shape) => {
            images.into_iter().map(Image::Encoded).collect()
        }
        TensorData::Uint8(pixels) => {
            let (height, width) = pixel_size(&name, &shape, None, limits)?;
            let bytes = height * width * 3;
            let starts = (0..pixels.len() / bytes).map(|index| index * bytes);
            let image = |start| Image::Pixels {
                rgb: pixels.slice(start..start + bytes),
                width,
                height,
            };
            starts.map(image).collect()
        }
        _ => return Err(ServiceError::NoImages { tensor: name }),
    };
    let numbered = images.into_iter().enumerate();
    let undecoded = numbered.map(|(index, image)| Undecoded {
        tensor: name.clone(),
        index,
        image,
    });
    Ok(undecoded.collect())
}

fn is_list(shape: &[usize]) -> bool {
    matches!(shape, [_] | [_, 1])
}

fn decoded(
    tensor: &str,
    index: usize,
    encoded: &[u8],
    limits: &ImageLimits,
    deadline: Option<Deadline>,
) -> Result<RgbImage, ServiceError> {
    check_deadline(deadline)?;
    decode(encoded, limits).map_err(|source| ServiceError::Image {
        tensor: tensor.to_owned(),
        index,
        source,
    })
}

/// Height and width of the images `[n, height, width, 3]` of a tensor; `size` is that of a network that would also
/// take `[n, 3, size, size]`.
fn pixel_size(
    tensor: &str,
    shape: &[usize],
    size: Option<usize>,
    limits: &ImageLimits,
) -> Result<(usize, usize), ServiceError> {
    let wrong = |expected| wrong_shape(tensor.to_owned(), shape.to_vec(), expected);
    let &[_, height, width, 3] = shape else {
        let or = size
            .map(|size| format!("[n, 3, {size}, {size}], or "))
            .unwrap_or_default();
        return Err(wrong(format!("{or}[n, height, width, 3] for pixels")));
    };
    if height == 0 || width == 0 {
        return Err(wrong("images with pixels".to_owned()));
    }
    let is_over = height
        .checked_mul(width)
        .is_none_or(|area| area as u64 > limits.max_pixels);
    if is_over {
        return Err(wrong(format!(
            "images of at most {} pixels",
            limits.max_pixels
        )));
    }
    Ok((height, width))
}

fn rgb_images(pixels: &[u8], height: usize, width: usize) -> impl Iterator<Item = RgbImage> + '_ {
    pixels
        .chunks_exact(height * width * 3)
        .filter_map(move |pixels| RgbImage::from_raw(width as u32, height as u32, pixels.to_vec()))
}

/// Refuses work whose caller no longer waits.
pub(crate) fn check_deadline(deadline: Option<Deadline>) -> Result<(), ServiceError> {
    match deadline {
        Some(deadline) if deadline.remaining().is_zero() => Err(ServiceError::DeadlinePassed),
        _ => Ok(()),
    }
}

/// Makes the batch, `[n, 3, size, size]`, unless the deadline passes between two images. Costs CPU
/// time: call it on a blocking thread.
pub(crate) fn prepare(
    model: &Classifier,
    tensor: Tensor,
    limits: &ImageLimits,
    deadline: Option<Deadline>,
) -> Result<Array4<f32>, ServiceError> {
    let name = tensor.name().to_owned();
    let shape = tensor.shape().to_vec();
    let size = model.manifest().input.size as usize;
    let is_network_input = matches!(shape[..], [_, 3, h, w] if (h, w) == (size, size));
    match tensor.into_data() {
        TensorData::Bytes(images) if is_list(&shape) => {
            let images = images
                .iter()
                .enumerate()
                .map(|(index, encoded)| decoded(&name, index, encoded, limits, deadline));
            preprocess(model, &name, images)
        }
        TensorData::Bytes(_) => Err(wrong_shape(name, shape, "[n] for encoded images".into())),
        TensorData::Fp32(values) if is_network_input => Ok(as_is(values, &shape)),
        TensorData::Fp16(values) if is_network_input => {
            let wide = values.iter().map(|value| value.to_f32()).collect();
            Ok(as_is(wide, &shape))
        }
        TensorData::Uint8(pixels) if is_network_input => {
            let wide = pixels.iter().map(|&pixel| f32::from(pixel)).collect();
            Ok(as_is(wide, &shape))
        }
        TensorData::Uint8(pixels) => {
            let (height, width) = pixel_size(&name, &shape, Some(size), limits)?;
            let images = rgb_images(&pixels, height, width).map(Ok);
            preprocess(model, &name, images)
        }
        TensorData::Fp32(_) | TensorData::Fp16(_) => {
            Err(wrong_shape(name, shape, format!("[n, 3, {size}, {size}]")))
        }
        data @ TensorData::Int64(_) => Err(ServiceError::Datatype {
            tensor: name,
            datatype: data.datatype(),
        }),
    }
}

fn preprocess(
    model: &Classifier,
    tensor: &str,
    images: impl Iterator<Item = Result<RgbImage, ServiceError>>,
) -> Result<Array4<f32>, ServiceError> {
    let inputs = images
        .enumerate()
        .map(|(index, image)| {
            model
                .preprocessor()
                .tensor(&image?)
                .map_err(|source| ServiceError::Preprocess {
                    tensor: tensor.to_owned(),
                    index,
                    source,
                })
        })
        .collect::<Result<Vec<_>, _>>()?;
    // One image, the usual case, is its own batch without a copy.
    match <[Array4<f32>; 1]>::try_from(inputs) {
        Ok([only]) => Ok(only),
        Err(inputs) => {
            let views: Vec<ArrayView4<'_, f32>> = inputs.iter().map(|input| input.view()).collect();
            Ok(concatenate(Axis(0), &views).expect("every input has the network's shape"))
        }
    }
}

fn as_is(values: Vec<f32>, shape: &[usize]) -> Array4<f32> {
    let dimensions = (shape[0], shape[1], shape[2], shape[3]);
    Array4::from_shape_vec(dimensions, values)
        .expect("a tensor's elements are the product of its shape")
}

fn wrong_shape(tensor: String, found: Vec<usize>, expected: String) -> ServiceError {
    ServiceError::Shape {
        tensor,
        expected,
        found,
    }
}

#[cfg(test)]
mod tests;
