//! An image as it was read and as it was decoded.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use outpost_runtime::{DecodeError, Fit, ImageLimits, RgbImage, decode};

/// An image as it was read and as it was decoded.
pub struct Picture {
    encoded: Option<Bytes>,
    pixels: Pixels,
    /// Time that shrinking them took, where only what is seen elsewhere is left of them.
    shrunk_in: Option<Duration>,
}

enum Pixels {
    Here(Arc<RgbImage>),
    /// Let go, or never decoded; how many there are of them at most.
    InFile(u64),
}

/// What is seen of an image's pixels elsewhere.
pub(crate) struct Seen {
    pixels: Arc<RgbImage>,
    /// Time that shrinking them took.
    took: Duration,
}

impl Seen {
    /// By networks of this fit. Costs CPU time.
    pub(crate) fn of(pixels: &Arc<RgbImage>, fit: &Fit) -> Self {
        let started = Instant::now();
        let seen = match fit.apply(pixels) {
            Cow::Owned(seen) => Arc::new(seen),
            Cow::Borrowed(_) => pixels.clone(),
        };
        Self {
            pixels: seen,
            took: started.elapsed(),
        }
    }
}

/// What becomes of the pixels once a network here has seen them. They are 3 MB where a network's input is 0.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Who comes next may want them: they stay.
    Keep,
    /// Who comes next wants the file, or what is seen of them already: they go, where there is a file.
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
            shrunk_in: None,
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

    /// Of the bytes of a file that was decoded before: its pixels are decoded where somebody wants them.
    pub fn undecoded(encoded: Bytes, limits: &ImageLimits) -> Self {
        Self {
            encoded: Some(encoded),
            pixels: Pixels::InFile(limits.max_pixels),
            shrunk_in: None,
        }
    }

    /// The file's bytes; `None` where it came as pixels.
    pub fn encoded(&self) -> Option<&Bytes> {
        self.encoded.as_ref()
    }

    /// Its pixels, upright, or what [`Self::shrink`] left of them; those that are not there are decoded, which blocks.
    ///
    /// # Errors
    /// [`DecodeError`], where they are not there and cannot be decoded: limits were changed, or there is no memory.
    pub fn pixels(&self) -> Result<Cow<'_, RgbImage>, DecodeError> {
        match &self.pixels {
            Pixels::Here(pixels) => Ok(Cow::Borrowed(pixels)),
            &Pixels::InFile(max_pixels) => {
                let encoded = self.encoded.as_deref().unwrap_or_default();
                let limits = ImageLimits {
                    max_bytes: encoded.len(),
                    max_pixels,
                };
                decode(encoded, &limits).map(Cow::Owned)
            }
        }
    }

    /// Its pixels for a network here, who may be the last to have them.
    pub(crate) fn lend(&mut self, then: Then) -> Result<Arc<RgbImage>, DecodeError> {
        let pixels = match &self.pixels {
            Pixels::Here(pixels) => pixels.clone(),
            Pixels::InFile(_) => Arc::new(self.pixels()?.into_owned()),
        };
        if then == Then::LetGo {
            self.let_go();
        }
        Ok(pixels)
    }

    /// Lets the pixels go, where there is a file to decode them from again.
    pub(crate) fn let_go(&mut self) {
        if let (Pixels::Here(pixels), Some(_)) = (&self.pixels, &self.encoded) {
            let (width, height) = pixels.dimensions();
            self.pixels = Pixels::InFile(u64::from(width) * u64::from(height));
        }
    }

    /// Keeps of the pixels what is seen of them elsewhere. Costs CPU time.
    ///
    /// # Errors
    /// As [`Self::pixels`].
    pub(crate) fn shrink(&mut self, fit: &Fit) -> Result<(), DecodeError> {
        if !self.is_shrunk() {
            let pixels = self.lend(Then::LetGo)?;
            self.keep(Seen::of(&pixels, fit));
        }
        Ok(())
    }

    /// Keeps what is seen elsewhere in place of its pixels.
    pub(crate) fn keep(&mut self, seen: Seen) {
        self.pixels = Pixels::Here(seen.pixels);
        self.shrunk_in = Some(seen.took);
    }

    /// Whether only what is seen elsewhere is left of its pixels.
    pub(crate) fn is_shrunk(&self) -> bool {
        self.shrunk_in.is_some()
    }

    /// Time that shrinking it took.
    pub(crate) fn shrinking(&self) -> Duration {
        self.shrunk_in.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use outpost_runtime::ModelFolder;

    use super::*;

    fn photo() -> Bytes {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let photos = models.join("samples/photos").read_dir().unwrap();
        let mut photos = photos.map(|entry| entry.unwrap().path());
        let photo = photos.find(|path| path.extension().is_some_and(|e| e == "jpg"));
        std::fs::read(photo.unwrap()).unwrap().into()
    }

    /// What EfficientNet-Lite2 sees.
    fn fit() -> Fit {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let manifest = ModelFolder::new(models).manifest("efficientnet-lite2");
        Fit::new([&manifest.unwrap().input]).unwrap()
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
    fn what_is_seen_elsewhere_stays_of_pixels_and_is_not_shrunk_again() {
        let fit = fit();
        let mut picture = Picture::decode(photo(), &ImageLimits::default()).unwrap();
        let seen = fit.apply(&picture.pixels().unwrap()).into_owned();
        assert!(seen.as_raw().len() < picture.pixels().unwrap().as_raw().len());
        picture.shrink(&fit).unwrap();
        assert_eq!(*picture.pixels().unwrap(), seen);
        let took = picture.shrinking();
        assert!(!took.is_zero());
        picture.shrink(&fit).unwrap();
        assert_eq!(
            (&*picture.pixels().unwrap(), picture.shrinking()),
            (&seen, took)
        );
    }

    #[test]
    fn what_is_seen_elsewhere_is_decoded_where_it_is_not_there() {
        let (limits, photo, fit) = (ImageLimits::default(), photo(), fit());
        let mut picture = Picture::undecoded(photo.clone(), &limits);
        picture.shrink(&fit).unwrap();
        let mut decoded = Picture::decode(photo.clone(), &limits).unwrap();
        decoded.shrink(&fit).unwrap();
        assert_eq!(*picture.pixels().unwrap(), *decoded.pixels().unwrap());
        let narrow = ImageLimits {
            max_pixels: 1,
            ..limits
        };
        let mut picture = Picture::undecoded(photo, &narrow);
        assert!(picture.shrink(&fit).is_err() && picture.pixels().is_err());
    }

    #[test]
    fn pixels_without_a_file_stay() {
        let mut picture = Picture::new(None, RgbImage::new(3, 2));
        let pixels = picture.lend(Then::LetGo).unwrap();
        picture.let_go();
        assert_eq!(*picture.pixels().unwrap(), *pixels);
    }
}
