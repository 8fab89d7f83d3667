//! From pixels to an encoded image, as small as its quality allows: what is sent in place of a file as it was read.
//!
//! What comes out holds pixels alone: no metadata, thumbnails or profiles.

#[cfg(feature = "avif-encoder")]
mod avif;

use std::{error::Error, fmt, str::FromStr};

use image::RgbImage;
use libjpeg_turbo_rs::{Encoder as JpegEncoder, PixelFormat, Subsampling};
use serde::{Deserialize, Serialize};

/// Effort of the WebP encoder, 0 to 6. At the size of a network's input it takes a third of the time of the default, 4,
/// for 1 to 4 % more bytes; 0 takes a third of that again, for 7 to 21 % more.
const WEBP_METHOD: i32 = 2;
/// Longest side that every decoder of WebP takes.
const WEBP_MAX_SIDE: u32 = 16_383;
/// Longest side in the format of JPEG.
const JPEG_MAX_SIDE: u32 = 65_500;
/// Longest side in the levels of AV1 that decoders are built for; longer ones would take gigabytes of memory.
const AVIF_MAX_SIDE: u32 = 8_192;

/// A format that images can be encoded in, with losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// JPEG, colours at the full resolution.
    Jpeg,
    /// Lossy WebP.
    WebP,
    /// AVIF, colours at the full resolution; needs the feature `avif-encoder`.
    Avif,
}

/// A quality, 1 to 100, on the scale that each format's encoders are used to. Equal numbers of two formats are not
/// equally good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Quality(u8);

/// A way to encode an image: a format at a quality, `FORMAT@QUALITY` in files and on command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Encoder {
    /// The format.
    pub codec: Codec,
    /// The quality.
    pub quality: Quality,
}

/// Why a text names no encoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no encoder: give jpeg@QUALITY, webp@QUALITY or avif@QUALITY with a quality of 1 to 100"
)]
pub struct UnknownEncoder(pub String);

/// Why an image was not encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A side is longer than the format takes, or there are no pixels.
    #[error("{codec} takes no image of {width}×{height} pixels")]
    Size {
        /// The format.
        codec: Codec,
        /// Width of the image.
        width: u32,
        /// Height of the image.
        height: u32,
    },
    /// This build cannot encode the format.
    #[error("this build has no {0}: build with `--features avif`")]
    NotBuilt(Codec),
    /// The encoder failed.
    #[error("the {codec} encoder failed")]
    Failed {
        /// The format.
        codec: Codec,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl Codec {
    /// All, those that most decoders take first.
    pub const ALL: [Self; 3] = [Self::Jpeg, Self::WebP, Self::Avif];

    /// Its word in files and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::WebP => "webp",
            Self::Avif => "avif",
        }
    }

    /// Whether this build can encode it.
    pub const fn is_built(self) -> bool {
        match self {
            Self::Jpeg | Self::WebP => true,
            Self::Avif => cfg!(feature = "avif-encoder"),
        }
    }

    const fn max_side(self) -> u32 {
        match self {
            Self::Jpeg => JPEG_MAX_SIDE,
            Self::WebP => WEBP_MAX_SIDE,
            Self::Avif => AVIF_MAX_SIDE,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Quality {
    /// A quality of 1 to 100.
    pub fn new(quality: u8) -> Option<Self> {
        (1..=100).contains(&quality).then_some(Self(quality))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Encoder {
    /// Encodes an image; costs CPU time.
    ///
    /// # Errors
    /// [`EncodeError`], where the image is too large for the format or this build has no encoder for it.
    pub fn encode(&self, image: &RgbImage) -> Result<Vec<u8>, EncodeError> {
        let Self { codec, quality } = *self;
        let (width, height) = image.dimensions();
        let sides = 1..=codec.max_side();
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(EncodeError::Size {
                codec,
                width,
                height,
            });
        }
        let encoded = match codec {
            Codec::Jpeg => jpeg(image, quality),
            Codec::WebP => webp(image, quality),
            #[cfg(feature = "avif-encoder")]
            Codec::Avif => avif::encode(image, quality),
            #[cfg(not(feature = "avif-encoder"))]
            Codec::Avif => return Err(EncodeError::NotBuilt(codec)),
        };
        encoded.map_err(|source| EncodeError::Failed { codec, source })
    }
}

impl fmt::Display for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.codec, self.quality.0)
    }
}

impl FromStr for Encoder {
    type Err = UnknownEncoder;

    fn from_str(text: &str) -> Result<Self, UnknownEncoder> {
        let parse = || {
            let (codec, quality) = text.split_once('@')?;
            Some(Self {
                codec: *Codec::ALL.iter().find(|known| known.as_str() == codec)?,
                quality: Quality::new(quality.parse().ok()?)?,
            })
        };
        parse().ok_or_else(|| UnknownEncoder(text.to_owned()))
    }
}

impl TryFrom<String> for Encoder {
    type Error = UnknownEncoder;

    fn try_from(text: String) -> Result<Self, UnknownEncoder> {
        text.parse()
    }
}

impl From<Encoder> for String {
    fn from(encoder: Encoder) -> Self {
        encoder.to_string()
    }
}

/// Why an encoder failed, in its words.
type Failure = Box<dyn Error + Send + Sync>;
type Encoded = Result<Vec<u8>, Failure>;

fn jpeg(image: &RgbImage, quality: Quality) -> Encoded {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let encoded = JpegEncoder::new(image.as_raw(), width, height, PixelFormat::Rgb)
        .quality(quality.0)
        // At the size of a network's input, colours at half the resolution cost accuracy that the bytes they save do not
        // buy back by a better quality.
        .subsampling(Subsampling::S444)
        .optimize_huffman(true)
        .encode()?;
    Ok(encoded)
}

fn webp(image: &RgbImage, quality: Quality) -> Encoded {
    let mut config = webp::WebPConfig::new().map_err(|()| "its version does not fit")?;
    config.quality = quality.0.into();
    config.method = WEBP_METHOD;
    let encoder = webp::Encoder::from_rgb(image.as_raw(), image.width(), image.height());
    let encoded = encoder.encode_advanced(&config);
    Ok(encoded.map_err(|error| format!("{error:?}"))?.to_vec())
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::{DECODED_FORMATS, ImageLimits, decode};

    /// Slopes and edges, as photos have.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let edge = if (x / 16 + y / 24) % 2 == 0 { 60 } else { 0 };
            Rgb([(x % 190) as u8 + edge, (y % 180) as u8 + edge, 90])
        })
    }

    fn mean_difference(a: &RgbImage, b: &RgbImage) -> f64 {
        let differences = a.as_raw().iter().zip(b.as_raw());
        let sum: f64 = differences.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        sum / a.as_raw().len() as f64
    }

    #[test]
    fn what_is_encoded_decodes_to_nearly_the_same_pixels_and_less_quality_takes_fewer_bytes() {
        let image = picture(133, 97);
        let is_built =
            |codec: &Codec| codec.is_built() && DECODED_FORMATS.contains(&codec.as_str());
        for codec in Codec::ALL.into_iter().filter(is_built) {
            let at = |quality| {
                let quality = Quality::new(quality).unwrap();
                Encoder { codec, quality }.encode(&image).unwrap()
            };
            let (good, poor) = (at(95), at(30));
            assert!(poor.len() < good.len(), "{codec}");
            let decoded = decode(&good, &ImageLimits::default()).unwrap();
            assert_eq!(decoded.dimensions(), image.dimensions(), "{codec}");
            let difference = mean_difference(&decoded, &image);
            assert!(difference < 4.0, "{codec}: {difference}");
        }
    }

    #[test]
    fn encoders_are_written_as_format_and_quality_and_nonsense_is_refused() {
        for text in ["jpeg@95", "webp@1", "avif@100"] {
            assert_eq!(text.parse::<Encoder>().unwrap().to_string(), text);
        }
        for nonsense in [
            "", "jpeg", "jpeg@", "jpeg@0", "jpeg@101", "jpeg@-5", "jpeg@9.5", "png@90", "jpeg@90@",
            "JPEG@90", "@90",
        ] {
            let refused = nonsense.parse::<Encoder>();
            assert_eq!(refused, Err(UnknownEncoder(nonsense.into())));
        }
    }

    #[test]
    fn sizes_that_a_format_does_not_take_are_refused() {
        for (encoder, width, height) in [
            ("jpeg@90", 65_501, 1),
            ("webp@90", 1, 16_384),
            ("avif@90", 8_193, 1),
        ] {
            let encoder: Encoder = encoder.parse().unwrap();
            let refused = encoder.encode(&RgbImage::new(width, height));
            assert!(matches!(refused, Err(EncodeError::Size { .. })));
        }
        let encoder: Encoder = "jpeg@90".parse().unwrap();
        assert!(encoder.encode(&RgbImage::new(0, 7)).is_err());
    }

    #[test]
    #[cfg(not(feature = "avif-encoder"))]
    fn a_build_without_avif_says_what_to_do() {
        let encoder: Encoder = "avif@65".parse().unwrap();
        let refused = encoder.encode(&picture(8, 8)).unwrap_err();
        assert!(refused.to_string().contains("--features avif"), "{refused}");
    }
}
