//! From an encoded image to upright RGB pixels, within limits that are checked on the header,
//! before anything is decoded.
//!
//! JPEG goes through a decoder that gives libjpeg-turbo's pixels bit for bit, as Pillow does: other
//! decoders differ by a few levels, which is enough to change the top-1 class of one photo in sixty.

#[cfg(feature = "avif-decoder")]
pub(crate) mod avif;

use std::{error::Error, io::Cursor, panic};

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage,
    metadata::Orientation,
};
use libjpeg_turbo_rs::{
    DecodeLimits, Decoder as JpegDecoder, JpegError, PixelFormat, common::types::ComponentInfo,
};

/// Pixels that a JPEG has on a side at most. Only PNG may have more, and what is resized of a strip of millions takes more memory
/// than a device has.
const MAX_SIDE: u32 = 65_535;

/// Formats that [`decode`] of this build takes.
pub const DECODED_FORMATS: &[&str] = &[
    "jpeg",
    "png",
    "webp",
    #[cfg(feature = "avif-decoder")]
    "avif",
];

/// Bounds on what is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Largest encoded size in bytes.
    pub max_bytes: usize,
    /// Largest width × height, where a pixel takes four bytes at most; where it takes more, as with 16 bits a channel, so much
    /// less.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    /// 32 MiB and 64 megapixels: above what phone cameras make, and what a device with 1 GB has room for.
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
    /// More memory for the pixels than so many of four bytes take.
    #[error(
        "the image has {width}×{height} pixels of {bytes} bytes, over the limit of {limit} of 4: save it with 8 bits a channel, shrink it or raise the limit"
    )]
    WidePixels {
        /// Width from the header.
        width: u32,
        /// Height from the header.
        height: u32,
        /// Bytes of a pixel.
        bytes: u8,
        /// The limit on pixels.
        limit: u64,
    },
    /// More pixels in a row or a column than any format for photos has.
    #[error(
        "the image has {width}×{height} pixels, more than {MAX_SIDE} on a side: cut it into pieces"
    )]
    LongSide {
        /// Width from the header.
        width: u32,
        /// Height from the header.
        height: u32,
    },
    /// The bytes begin like no known format.
    #[error("the image is neither JPEG, PNG, WebP nor AVIF")]
    Format,
    /// The format is known and the content broken.
    #[error("the image is corrupt or truncated")]
    Corrupt(#[source] Box<dyn Error + Send + Sync>),
    /// The format is known and this use of it is not.
    #[error("the image uses a part of its format that is not supported")]
    Unsupported(#[source] Box<dyn Error + Send + Sync>),
}

/// Decodes a JPEG, PNG or WebP image, or with the feature `avif-decoder` an AVIF one, to 8-bit RGB, upright by its EXIF
/// orientation.
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
    match image::guess_format(encoded) {
        Ok(ImageFormat::Jpeg) => decode_jpeg(encoded, limits),
        Ok(format @ (ImageFormat::Png | ImageFormat::WebP)) => {
            decode_other(encoded, format, limits)
        }
        #[cfg(feature = "avif-decoder")]
        Ok(ImageFormat::Avif) => avif::decode(encoded, limits),
        #[cfg(not(feature = "avif-decoder"))]
        Ok(ImageFormat::Avif) => Err(DecodeError::Unsupported(
            "this build reads no AVIF: build with `--features avif`".into(),
        )),
        _ => Err(DecodeError::Format),
    }
}

fn decode_jpeg(encoded: &[u8], limits: &ImageLimits) -> Result<RgbImage, DecodeError> {
    // Fuzzing found damaged files that the decoder panics over. There may be more: what it panics over is no image.
    panic::catch_unwind(|| jpeg_pixels(encoded, limits))
        .unwrap_or_else(|_| Err(DecodeError::Corrupt("the decoder gave it up".into())))
}

fn jpeg_pixels(encoded: &[u8], limits: &ImageLimits) -> Result<RgbImage, DecodeError> {
    let bounds = DecodeLimits {
        // A progressive image needs its coefficients beside its pixels.
        max_memory: Some(limits.max_pixels.saturating_mul(16)),
        ..DecodeLimits::default()
    };
    let mut decoder = JpegDecoder::new_with_limits(encoded, bounds).map_err(jpeg_error)?;
    let header = decoder.header();
    if header.width == 0 || header.height == 0 {
        // The format allows the height to come after the lines.
        let error = "its header says that it has no lines or no columns";
        return Err(DecodeError::Unsupported(error.into()));
    }
    check_pixels(header.width.into(), header.height.into(), limits)?;
    check_sampling(&header.components)?;
    decoder.set_output_format(PixelFormat::Rgb);
    let orientation = decoder.exif_orientation();
    let decoded = decoder.decode_image().map_err(jpeg_error)?;
    let (width, height) = (decoded.width as u32, decoded.height as u32);
    let image = RgbImage::from_raw(width, height, decoded.data)
        .expect("three bytes a pixel were asked for");
    let orientation = orientation.and_then(Orientation::from_exif);
    Ok(upright(DynamicImage::ImageRgb8(image), orientation))
}

/// Refuses samplings that no encoder in use writes, and that the decoder does not take: another component finer than
/// the first, or factors other than 1, 2 and 4, of four components 1 and 2.
fn check_sampling(components: &[ComponentInfo]) -> Result<(), DecodeError> {
    let Some(first) = components.first() else {
        return Ok(());
    };
    let factors: &[u8] = match components.len() {
        4.. => &[1, 2],
        _ => &[1, 2, 4],
    };
    let fits = |factor: u8, finest: u8| factors.contains(&factor) && factor <= finest;
    let fits = |c: &ComponentInfo| {
        fits(c.horizontal_sampling, first.horizontal_sampling)
            && fits(c.vertical_sampling, first.vertical_sampling)
    };
    match components.iter().all(fits) {
        true => Ok(()),
        false => Err(DecodeError::Unsupported(
            "its components are sampled in a way that no camera writes".into(),
        )),
    }
}

fn decode_other(
    encoded: &[u8],
    format: ImageFormat,
    limits: &ImageLimits,
) -> Result<RgbImage, DecodeError> {
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    // Decoders may hold more than what they give, of which there are at most 4 bytes a pixel.
    let mut allocation = image::Limits::default();
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(16));
    reader.limits(allocation);
    let mut decoder = reader.into_decoder().map_err(image_error)?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, limits)?;
    let bytes = decoder.color_type().bytes_per_pixel();
    if decoder.total_bytes() > limits.max_pixels.saturating_mul(4) {
        return Err(DecodeError::WidePixels {
            width,
            height,
            bytes,
            limit: limits.max_pixels,
        });
    }
    // An unreadable EXIF block costs the orientation, not the image.
    let orientation = decoder.orientation().ok();
    let image = DynamicImage::from_decoder(decoder).map_err(image_error)?;
    Ok(upright(image, orientation))
}

fn check_pixels(width: u32, height: u32, limits: &ImageLimits) -> Result<(), DecodeError> {
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(DecodeError::TooManyPixels {
            width,
            height,
            limit: limits.max_pixels,
        });
    }
    if width.max(height) > MAX_SIDE {
        return Err(DecodeError::LongSide { width, height });
    }
    Ok(())
}

fn upright(image: DynamicImage, orientation: Option<Orientation>) -> RgbImage {
    // As it is wanted first: turning makes a copy.
    let mut image = DynamicImage::ImageRgb8(image.into_rgb8());
    image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    image.into_rgb8()
}

fn jpeg_error(error: JpegError) -> DecodeError {
    match error {
        JpegError::Unsupported(_) => DecodeError::Unsupported(error.into()),
        error => DecodeError::Corrupt(error.into()),
    }
}

fn image_error(error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(_) => DecodeError::Unsupported(error.into()),
        error => DecodeError::Corrupt(error.into()),
    }
}

#[cfg(test)]
mod tests;
