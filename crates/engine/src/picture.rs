//! An image as it was read and as it was decoded.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use bytes::Bytes;
use outpost_runtime::{DecodeError, ImageLimits, RgbImage, decode};

/// An image as it was read and as it was decoded.
pub struct Picture {
    /// The file's bytes; `None` where it came as pixels.
    pub encoded: Option<Bytes>,
    /// Its pixels, upright.
    pub pixels: RgbImage,
}

/// Why a file became no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The file cannot be read.
    #[error("cannot read the image: {0}")]
    Read(#[from] io::Error),
    /// The file is no image, or too large a one.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Picture {
    /// Reads and decodes a file; blocks.
    ///
    /// # Errors
    /// [`PictureError`] when it cannot be read, is no image or breaks a limit.
    pub fn read(path: &Path, limits: &ImageLimits) -> Result<Self, PictureError> {
        let file = File::open(path)?;
        // One byte over the limit is enough to know; a device file or pipe may have no end.
        let mut encoded = Vec::new();
        file.take(limits.max_bytes as u64 + 1)
            .read_to_end(&mut encoded)?;
        Ok(Self::decode(encoded.into(), limits)?)
    }

    /// Decodes a file's bytes; blocks.
    ///
    /// # Errors
    /// [`DecodeError`] when they are no image or break a limit.
    pub fn decode(encoded: Bytes, limits: &ImageLimits) -> Result<Self, DecodeError> {
        let pixels = decode(&encoded, limits)?;
        Ok(Self {
            encoded: Some(encoded),
            pixels,
        })
    }
}
