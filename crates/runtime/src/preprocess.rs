//! From pixels to the tensor that a network wants: resize, crop, reorder, normalise.

use std::fmt;

use image::RgbImage;
use ndarray::{Array4, ArrayViewMut3, Axis};

use crate::{
    manifest::{ChannelOrder, Filter, InputSpec, Resize},
    resample::{Resampling, SourceBox},
};

/// Longest aspect that is resized whole where only the centre is kept; the crop and the filter's
/// support lie well within it.
const MAX_ASPECT: u32 = 8;

/// Makes a network's input tensor from images.
#[derive(Clone)]
pub struct Preprocessor {
    spec: InputSpec,
    /// For each channel of the tensor what each value of a pixel becomes: exact divisions stay out of the loop.
    normalised: Box<[[f32; 256]; 3]>,
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

impl fmt::Debug for Preprocessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Preprocessor").field(&self.spec).finish()
    }
}

impl Preprocessor {
    /// Follows `spec`, which a [`crate::Manifest`] has checked.
    pub fn new(spec: InputSpec) -> Self {
        let channel = |channel: usize| {
            let (mean, deviation) = (spec.mean[channel], spec.deviation[channel]);
            std::array::from_fn(|pixel| (pixel as f32 - mean) / deviation)
        };
        Self {
            normalised: Box::new(std::array::from_fn(channel)),
            spec,
        }
    }

    /// The conventions followed.
    pub fn spec(&self) -> &InputSpec {
        &self.spec
    }

    /// The input tensor of one image, `[1, 3, size, size]`.
    ///
    /// # Errors
    /// [`PreprocessError`] when the image is empty.
    pub fn tensor(&self, image: &RgbImage) -> Result<Array4<f32>, PreprocessError> {
        let size = self.spec.size as usize;
        let mut tensor = Array4::zeros((1, 3, size, size));
        self.fill(image, tensor.index_axis_mut(Axis(0), 0))?;
        Ok(tensor)
    }

    /// Writes the input of one image into `target`, `[3, size, size]`, whatever was in it.
    ///
    /// # Errors
    /// [`PreprocessError`] when the image is empty.
    ///
    /// # Panics
    /// Where `target` has another shape.
    pub(crate) fn fill(
        &self,
        image: &RgbImage,
        mut target: ArrayViewMut3<'_, f32>,
    ) -> Result<(), PreprocessError> {
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 {
            return Err(PreprocessError::NoPixels { width, height });
        }
        let size = self.spec.size as usize;
        assert_eq!(target.shape(), [3, size, size], "a network's input");
        let mut rows = target.axis_iter_mut(Axis(1));
        seen(&self.spec, image).each_row(image, |pixels| {
            let mut row = rows.next().expect("as many rows as are seen");
            let channels = row.axis_iter_mut(Axis(0)).zip(&*self.normalised);
            for (channel, (mut values, normalised)) in channels.enumerate() {
                let source = match self.spec.channel_order {
                    ChannelOrder::Rgb => channel,
                    ChannelOrder::Bgr => 2 - channel,
                };
                for (value, pixel) in values.iter_mut().zip(pixels.chunks_exact(3)) {
                    *value = normalised[usize::from(pixel[source])];
                }
            }
        });
        Ok(())
    }
}

/// How what a network sees of an image, which has pixels, comes of it.
pub(crate) fn seen(spec: &InputSpec, image: &RgbImage) -> Resampling {
    let geometry = geometry(spec, image.width(), image.height());
    let (left, top) = geometry.crop;
    Resampling {
        source: geometry.source,
        size: geometry.resized,
        columns: left..left + spec.size,
        rows: top..top + spec.size,
        filter: filter(spec.resize),
    }
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
