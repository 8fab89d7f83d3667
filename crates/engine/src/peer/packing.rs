//! How an image is encoded before it is sent: as it was read, or shrunk to what is seen of it and encoded anew.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use outpost_cascade::{EncoderChoice, EncoderProfile, Link, ProfileError};
use outpost_offload::Failure;
use outpost_runtime::{Codec, EncodeError, Encoder, Fit, Manifest, without_metadata};
use serde::Deserialize;

use crate::picture::Picture;

/// Name of the profile in a network's folder.
const PROFILE: &str = "encoders.json";
/// Whose turn it is to encode AVIF, for which 7 MB are needed at a time. A link for which it is chosen takes longer to carry it.
static AVIF: Mutex<()> = Mutex::new(());

/// How encoded images are sent, as configuration files have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Encoding {
    /// As they were read.
    #[default]
    Original,
    /// Shrunk to what the network sees, with one encoder.
    With(Encoder),
    /// The same, with the encoder that has the image there first over the present link.
    Auto,
}

/// Why a text names no encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no encoding: give original, auto, jpeg@QUALITY, webp@QUALITY or avif@QUALITY with a quality of 1 to 100"
)]
pub struct UnknownEncoding(String);

/// As what an image was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SentAs {
    /// The file as it was read.
    Original,
    /// What an encoder made of it.
    Encoded(Encoder),
    /// Its pixels, since it came as such.
    Pixels,
    /// The network's input.
    Tensor,
}

/// Why an encoder cannot be chosen by a profile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodersError {
    /// There is no profile.
    #[error(
        "`encoding = \"auto\"` needs a profile of the network {network:?}, and there is no {}: make one with `lab encoders --network {network} --out FILE` and give it as `encoders`, or choose an `encoding`",
        path.display()
    )]
    Missing {
        /// The network.
        network: String,
        /// Where one would be.
        path: PathBuf,
    },
    /// The profile cannot be read.
    #[error("cannot read the encoder profile {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The profile does not parse.
    #[error("the encoder profile {} does not parse", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The profile is of a network that is not asked, or of other weights.
    #[error(
        "the encoder profile {} is of {found}, and the network asked is {wanted}: make one with `lab encoders --network {wanted}`",
        path.display()
    )]
    Network {
        /// The file.
        path: PathBuf,
        /// Whose profile it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// The profile is of no use.
    #[error("cannot use the encoder profile {}", path.display())]
    Profile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ProfileError,
    },
}

/// What a peer's configuration says about encoding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PackingConfig {
    pub(super) encoding: Encoding,
    /// A profile in place of the network's own.
    pub(super) encoders: Option<PathBuf>,
    /// Points.
    pub(super) max_accuracy_loss: f64,
    pub(super) keep_metadata: bool,
}

/// How images are made ready for a network elsewhere, or for the rest of a cascade.
pub(crate) struct Packing {
    encoding: Choice,
    keep_metadata: bool,
}

enum Choice {
    Original,
    With(Fit, Encoder),
    Auto(Fit, Mutex<EncoderChoice<Encoder>>),
}

/// An image ready to be sent.
pub(super) struct Packed {
    /// The encoded image; `None` where the picture came as pixels and is sent so.
    pub(super) encoded: Option<Bytes>,
    pub(super) sent_as: SentAs,
}

/// The formats that a server says it takes; `None` where it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Formats(Option<Vec<Codec>>);

impl FromStr for Encoding {
    type Err = UnknownEncoding;

    fn from_str(text: &str) -> Result<Self, UnknownEncoding> {
        match text {
            "original" => Ok(Self::Original),
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(encoder) => Ok(Self::With(encoder)),
                Err(_) => Err(UnknownEncoding(text.to_owned())),
            },
        }
    }
}

impl TryFrom<String> for Encoding {
    type Error = UnknownEncoding;

    fn try_from(text: String) -> Result<Self, UnknownEncoding> {
        text.parse()
    }
}

impl fmt::Display for SentAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Original => f.write_str("original"),
            Self::Encoded(encoder) => encoder.fmt(f),
            Self::Pixels => f.write_str("pixels"),
            Self::Tensor => f.write_str("tensor"),
        }
    }
}

impl Formats {
    /// Of the property in which a server lists them.
    pub(super) fn listed(property: Option<&String>) -> Self {
        let codec = |name: &str| Codec::ALL.into_iter().find(|c| c.as_str() == name.trim());
        Self(property.map(|list| list.split(',').filter_map(codec).collect()))
    }

    /// Whether an image may be sent so without being told to: AVIF only where the server says that it takes it.
    fn take(&self, codec: Codec) -> bool {
        match &self.0 {
            Some(listed) => listed.contains(&codec),
            None => codec != Codec::Avif,
        }
    }

    fn refuse(&self, codec: Codec) -> bool {
        self.0
            .as_ref()
            .is_some_and(|listed| !listed.contains(&codec))
    }
}

impl Packing {
    /// As images were read.
    pub(crate) fn original() -> Self {
        Self {
            encoding: Choice::Original,
            keep_metadata: false,
        }
    }

    /// As a peer's configuration has it, for the networks that may see the images, which are one at least.
    pub(super) fn new(
        config: &PackingConfig,
        seen_by: &[&Manifest],
    ) -> Result<Self, EncodersError> {
        let fit = || {
            let inputs = seen_by.iter().map(|manifest| &manifest.input);
            Fit::new(inputs).expect("a network sees the images")
        };
        let encoding = match config.encoding {
            Encoding::Original => Choice::Original,
            Encoding::With(encoder) => Choice::With(fit(), encoder),
            Encoding::Auto => Choice::Auto(fit(), Mutex::new(choice(config, seen_by)?)),
        };
        Ok(Self {
            encoding,
            keep_metadata: config.keep_metadata,
        })
    }

    /// What is seen of images that are encoded anew; none where they are sent as they were read.
    pub(super) fn fit(&self) -> Option<&Fit> {
        match &self.encoding {
            Choice::Original => None,
            Choice::With(fit, _) | Choice::Auto(fit, _) => Some(fit),
        }
    }

    /// Whether the encoder depends on the link.
    pub(super) fn follows_the_link(&self) -> bool {
        matches!(self.encoding, Choice::Auto(..))
    }

    /// Makes an image ready to be sent over `link` to a server that takes `formats`. Costs CPU time.
    pub(super) fn pack(
        &self,
        picture: &Picture,
        link: Option<&Link>,
        formats: &Formats,
    ) -> Result<Packed, Failure> {
        let started = Instant::now();
        let (fit, encoder) = match &self.encoding {
            Choice::Original => return self.original_of(picture),
            Choice::With(fit, encoder) => {
                if formats.refuse(encoder.codec) {
                    return Err(Failure::unsendable(format!(
                        "the server takes no {}: choose another `encoding`",
                        encoder.codec
                    )));
                }
                (fit, *encoder)
            }
            Choice::Auto(fit, choice) => {
                let chosen = lock(choice).choose(link, |encoder| formats.take(encoder.codec));
                match chosen {
                    Some(encoder) => (fit, encoder),
                    None => return self.original_of(picture),
                }
            }
        };
        let pixels = picture.pixels().map_err(Failure::unsendable)?;
        let fitted = fit.apply(&pixels);
        let waiting = Instant::now();
        let turn = (encoder.codec == Codec::Avif).then(|| lock(&AVIF));
        let waited = waiting.elapsed();
        let encoded = encoder.encode(&fitted);
        drop(turn);
        let encoded = match encoded {
            Ok(encoded) => encoded,
            // A strip, longer than the format takes.
            Err(EncodeError::Size { .. }) => return self.original_of(picture),
            Err(error) => return Err(Failure::unsendable(error)),
        };
        if let Choice::Auto(_, choice) = &self.encoding {
            // Others' turns say nothing of how fast this machine is.
            let took = picture.shrinking() + started.elapsed() - waited;
            lock(choice).took(encoder, took.as_secs_f64());
        }
        // A small image may be smaller as it was read.
        if picture
            .encoded()
            .is_some_and(|read| read.len() <= encoded.len())
            && let Ok(original) = self.original_of(picture)
        {
            return Ok(original);
        }
        Ok(Packed {
            encoded: Some(encoded.into()),
            sent_as: SentAs::Encoded(encoder),
        })
    }

    fn original_of(&self, picture: &Picture) -> Result<Packed, Failure> {
        let (encoded, sent_as) = match picture.encoded() {
            None => (None, SentAs::Pixels),
            Some(encoded) if self.keep_metadata => (Some(encoded.clone()), SentAs::Original),
            Some(encoded) => {
                let bare = without_metadata(encoded).ok_or_else(|| {
                    Failure::unsendable(
                        "the image's metadata cannot be taken out: choose an `encoding`, which sends its pixels alone",
                    )
                })?;
                (Some(bare), SentAs::Original)
            }
        };
        Ok(Packed { encoded, sent_as })
    }
}

/// The choice among the encoders of the profile that the configuration names, or that lies with the largest of the
/// networks.
fn choice(
    config: &PackingConfig,
    seen_by: &[&Manifest],
) -> Result<EncoderChoice<Encoder>, EncodersError> {
    let largest = seen_by.iter().max_by_key(|manifest| manifest.multiply_adds);
    let largest = largest.expect("a network sees the images");
    let path = match &config.encoders {
        Some(path) => path.clone(),
        None => largest.folder.join(PROFILE),
    };
    let profile = read(&path).map_err(|error| match error {
        EncodersError::Read { path, source }
            if source.kind() == io::ErrorKind::NotFound && config.encoders.is_none() =>
        {
            let network = largest.name.clone();
            EncodersError::Missing { network, path }
        }
        error => error,
    })?;
    let is_of = |manifest: &&&Manifest| {
        (&profile.network, &profile.digest) == (&manifest.name, &manifest.sha256)
    };
    if !seen_by.iter().any(|manifest| is_of(&manifest)) {
        let is_renewed = seen_by.iter().any(|one| one.name == profile.network);
        let of = if is_renewed {
            " with other weights"
        } else {
            ""
        };
        return Err(EncodersError::Network {
            path,
            found: format!("{}{of}", profile.network),
            wanted: largest.name.clone(),
        });
    }
    let is_built = |encoder: Encoder| encoder.codec.is_built();
    let choice = EncoderChoice::new(&profile, config.max_accuracy_loss, is_built)
        .map_err(|source| EncodersError::Profile { path, source })?;
    if let Some(encoder) = choice.choose(None, |_| true) {
        tracing::info!(network = largest.name, %encoder, "encodes so until the link is known");
    }
    Ok(choice)
}

fn read(path: &Path) -> Result<EncoderProfile<Encoder>, EncodersError> {
    let text = fs::read(path).map_err(|source| EncodersError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| EncodersError::Parse {
        path: path.to_owned(),
        source,
    })
}

/// What is behind the lock is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
