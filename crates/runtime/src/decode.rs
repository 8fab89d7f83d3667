//! From an encoded image to upright RGB pixels, within limits that are checked on the header,
//! before anything is decoded.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, RgbImage, error::LimitErrorKind};

/// Bounds on what is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Largest encoded size in bytes.
    pub max_bytes: usize,
    /// Largest width × height.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    /// 32 MiB and 64 megapixels: above what phone cameras make, below what hurts a 1 GB device.
    fn default() -> Self {
        Self {
            max_bytes: 32 << 20,
            max_pixels: 64_000_000,
        }
    }
}

/// Why an image was not decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There are no bytes.
    #[error("the image is empty")]
    Empty,
    /// More encoded bytes than the limit.
    #[error("the image has {bytes} bytes, over the limit of {limit}: shrink it or raise the limit")]
    TooManyBytes {
        /// Size of the image.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More pixels than the limit.
    #[error(
        "the image has {width}×{height} pixels, over the limit of {limit}: shrink it or raise the limit"
    )]
    TooManyPixels {
        /// Width from the header.
        width: u32,
        /// Height from the header.
        height: u32,
        /// The limit on their product.
        limit: u64,
    },
    /// The bytes begin like no known format.
    #[error("the image is neither JPEG, PNG nor WebP")]
    Format,
    /// The format is known and the content broken.
    #[error("the image is corrupt or truncated")]
    Corrupt(#[source] ImageError),
}

/// Decodes a JPEG, PNG or WebP image to 8-bit RGB, upright by its EXIF orientation.
///
/// Grey is spread over the three channels; alpha is dropped, as Pillow's `convert("RGB")` does.
///
/// # Errors
/// A [`DecodeError`]; a limit is checked before any pixel is decoded.
pub fn decode(encoded: &[u8], limits: &ImageLimits) -> Result<RgbImage, DecodeError> {
    if encoded.is_empty() {
        return Err(DecodeError::Empty);
    }
    if encoded.len() > limits.max_bytes {
        return Err(DecodeError::TooManyBytes {
            bytes: encoded.len(),
            limit: limits.max_bytes,
        });
    }
    let mut reader = ImageReader::new(Cursor::new(encoded))
        .with_guessed_format()
        .map_err(|_| DecodeError::Format)?;
    if reader.format().is_none() {
        return Err(DecodeError::Format);
    }
    // 16-bit RGBA, the widest layout, takes 8 bytes a pixel; decoders may hold a second copy.
    let mut allocation = image::Limits::default();
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(16));
    reader.limits(allocation);
    let mut decoder = reader.into_decoder().map_err(corrupt)?;
    let (width, height) = decoder.dimensions();
    let too_many_pixels = || DecodeError::TooManyPixels {
        width,
        height,
        limit: limits.max_pixels,
    };
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(too_many_pixels());
    }
    // An unreadable EXIF block costs the orientation, not the image.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| match &error {
        ImageError::Limits(limit) if matches!(limit.kind(), LimitErrorKind::InsufficientMemory) => {
            too_many_pixels()
        }
        _ => corrupt(error),
    })?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

fn corrupt(error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(_) => DecodeError::Format,
        error => DecodeError::Corrupt(error),
    }
}
