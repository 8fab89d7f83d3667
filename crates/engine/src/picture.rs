//! An image as it was read and as it was decoded.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use outpost_runtime::{DecodeError, ImageLimits, RgbImage, decode};

/// An image as it was read and as it was decoded.
pub struct Picture {
    encoded: Option<Bytes>,
    pixels: Pixels,
}

enum Pixels {
    Here(Arc<RgbImage>),
    /// Let go; how many there are of them.
    Gone(u64),
}

/// What becomes of the pixels once a network here has seen them. They are 3 MB where a network's input is 0.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Who comes next may want them: they stay.
    Keep,
    /// Who comes next wants the file, if anything: they go, where there is one.
    LetGo,
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
    /// Of a file's bytes, `None` where it came as pixels, and the pixels, upright.
    pub fn new(encoded: Option<Bytes>, pixels: RgbImage) -> Self {
        Self {
            encoded,
            pixels: Pixels::Here(Arc::new(pixels)),
        }
    }

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
        Ok(Self::new(Some(encoded), pixels))
    }

    /// The file's bytes; `None` where it came as pixels.
    pub fn encoded(&self) -> Option<&Bytes> {
        self.encoded.as_ref()
    }

    /// Its pixels, upright; those that were let go are decoded again, which blocks.
    ///
    /// # Errors
    /// [`DecodeError`], where they were let go and there is no memory to decode them.
    pub fn pixels(&self) -> Result<Cow<'_, RgbImage>, DecodeError> {
        match &self.pixels {
            Pixels::Here(pixels) => Ok(Cow::Borrowed(pixels)),
            Pixels::Gone(count) => {
                let encoded = self.encoded.as_deref().unwrap_or_default();
                // It kept the limits before.
                let limits = ImageLimits {
                    max_bytes: encoded.len(),
                    max_pixels: *count,
                };
                decode(encoded, &limits).map(Cow::Owned)
            }
        }
    }

    /// Its pixels for a network here, who may be the last to have them.
    pub(crate) fn lend(&mut self, then: Then) -> Result<Arc<RgbImage>, DecodeError> {
        let pixels = match &self.pixels {
            Pixels::Here(pixels) => pixels.clone(),
            Pixels::Gone(_) => Arc::new(self.pixels()?.into_owned()),
        };
        if then == Then::LetGo && self.encoded.is_some() {
            let (width, height) = pixels.dimensions();
            self.pixels = Pixels::Gone(u64::from(width) * u64::from(height));
        }
        Ok(pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photo() -> Bytes {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let photos = models.join("samples/photos").read_dir().unwrap();
        let mut photos = photos.map(|entry| entry.unwrap().path());
        let photo = photos.find(|path| path.extension().is_some_and(|e| e == "jpg"));
        std::fs::read(photo.unwrap()).unwrap().into()
    }

    #[test]
    fn pixels_that_were_let_go_are_decoded_again() {
        let mut picture = Picture::decode(photo(), &ImageLimits::default()).unwrap();
        let kept = picture.lend(Then::Keep).unwrap();
        assert!(matches!(picture.pixels().unwrap(), Cow::Borrowed(_)));
        let last = picture.lend(Then::LetGo).unwrap();
        assert!(Arc::ptr_eq(&last, &kept));
        drop(kept);
        assert_eq!(Arc::strong_count(&last), 1, "nobody else has them");
        let again = picture.pixels().unwrap();
        assert!(matches!(again, Cow::Owned(_)));
        assert_eq!(*again, *last);
        assert_eq!(picture.lend(Then::Keep).unwrap(), last);
    }

    #[test]
    fn pixels_without_a_file_stay() {
        let mut picture = Picture::new(None, RgbImage::new(3, 2));
        let pixels = picture.lend(Then::LetGo).unwrap();
        assert_eq!(*picture.pixels().unwrap(), *pixels);
    }
}
