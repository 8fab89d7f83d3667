//! From pixels to the tensor that a network wants: resize, crop, reorder, normalise.

use image::RgbImage;
use ndarray::{Array4, ArrayViewMut3, Axis};

use crate::{
    manifest::{ChannelOrder, Filter, InputSpec, Resize},
    resample::{SourceBox, resample},
};

/// Longest aspect that is resized whole where only the centre is kept; the crop and the filter's
/// support lie well within it.
const MAX_ASPECT: u32 = 8;

/// Makes a network's input tensor from images.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    spec: InputSpec,
}

/// Why an image could not become a tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// The image has no pixels.
    #[error("the image has no pixels ({width}×{height})")]
    NoPixels {
        /// Width of the image.
        width: u32,
        /// Height of the image.
        height: u32,
    },
}

/// The part of the source that is resized, the size it gets, and where the crop begins in it.
struct Geometry {
    source: SourceBox,
    /// Width and height after resampling.
    resized: (u32, u32),
    /// Left and top of the crop of the network's size.
    crop: (u32, u32),
}

impl Preprocessor {
    /// Follows `spec`, which a [`crate::Manifest`] has checked.
    pub fn new(spec: InputSpec) -> Self {
        Self { spec }
    }

    /// The conventions followed.
    pub fn spec(&self) -> &InputSpec {
        &self.spec
    }

    /// The input tensor of one image, `[1, 3, size, size]`.
    ///
    /// # Errors
    /// [`PreprocessError`] when the image is empty or cannot be resampled.
    pub fn tensor(&self, image: &RgbImage) -> Result<Array4<f32>, PreprocessError> {
        let size = self.spec.size as usize;
        let mut tensor = Array4::zeros((1, 3, size, size));
        self.fill(image, tensor.index_axis_mut(Axis(0), 0))?;
        Ok(tensor)
    }

    /// Writes the input of one image into `target`, `[3, size, size]`.
    fn fill(
        &self,
        image: &RgbImage,
        mut target: ArrayViewMut3<'_, f32>,
    ) -> Result<(), PreprocessError> {
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 {
            return Err(PreprocessError::NoPixels { width, height });
        }
        let (resized, (left, top)) = resized(&self.spec, image);
        let row_bytes = resized.width() as usize * 3;
        let size = self.spec.size as usize;
        let left = left as usize * 3;
        for (channel, mut plane) in target.axis_iter_mut(Axis(0)).enumerate() {
            let source_channel = match self.spec.channel_order {
                ChannelOrder::Rgb => channel,
                ChannelOrder::Bgr => 2 - channel,
            };
            let mean = self.spec.mean[channel];
            let deviation = self.spec.deviation[channel];
            // A table of all 256 values keeps the exact division out of the loop.
            let value: [f32; 256] = std::array::from_fn(|pixel| (pixel as f32 - mean) / deviation);
            for (y, mut row) in plane.axis_iter_mut(Axis(0)).enumerate() {
                let start = (y + top as usize) * row_bytes + left;
                let pixels = &resized.as_raw()[start..start + size * 3];
                for (target, pixel) in row.iter_mut().zip(pixels.chunks_exact(3)) {
                    *target = value[usize::from(pixel[source_channel])];
                }
            }
        }
        Ok(())
    }
}

/// An image with pixels at the size from which a network's input is cut, and where the cut begins: its left and top.
pub(crate) fn resized(spec: &InputSpec, image: &RgbImage) -> (RgbImage, (u32, u32)) {
    let geometry = geometry(spec, image.width(), image.height());
    let filter = filter(spec.resize);
    let resized = resample(image, geometry.source, geometry.resized, filter);
    (resized, geometry.crop)
}

fn filter(resize: Resize) -> Filter {
    match resize {
        Resize::Stretch { filter, .. }
        | Resize::ShortSide { filter, .. }
        | Resize::CentreSquare { filter, .. } => filter,
    }
}

fn geometry(spec: &InputSpec, width: u32, height: u32) -> Geometry {
    let whole = SourceBox {
        left: 0.0,
        top: 0.0,
        width: width.into(),
        height: height.into(),
    };
    let centred = |resized: (u32, u32), source| Geometry {
        source,
        resized,
        crop: ((resized.0 - spec.size) / 2, (resized.1 - spec.size) / 2),
    };
    match spec.resize {
        Resize::Stretch { to, .. } => centred((to, to), whole),
        Resize::ShortSide { to, .. } => {
            let short = width.min(height);
            // Only the centre is kept in the end, so the ends of a very long strip are left out
            // before they are resized: memory stays bounded for an image of 1 × 10,000,000.
            let (wide, high) = (
                width.min(short.saturating_mul(MAX_ASPECT)),
                height.min(short.saturating_mul(MAX_ASPECT)),
            );
            let centre = SourceBox {
                left: ((width - wide) / 2).into(),
                top: ((height - high) / 2).into(),
                width: wide.into(),
                height: high.into(),
            };
            // The long side rounds down, as torchvision and the ONNX zoo's scripts have it.
            let scaled = |side: u32| (u64::from(side) * u64::from(to) / u64::from(short)) as u32;
            centred((scaled(wide), scaled(high)), centre)
        }
        Resize::CentreSquare { fraction, .. } => {
            let side = f64::from(width.min(height)) * fraction;
            let square = SourceBox {
                left: (f64::from(width) - side) / 2.0,
                top: (f64::from(height) - side) / 2.0,
                width: side,
                height: side,
            };
            centred((spec.size, spec.size), square)
        }
    }
}

#[cfg(test)]
mod tests;
