//! The file of identities, read and checked.

use std::{
    collections::HashMap,
    fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use governor::Quota;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::TokenDigest;

/// What an identity may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Ask the networks, and about them.
    Infer,
    /// Load and unload networks, where the repository's mode is `explicit`.
    Manage,
}

impl Permission {
    /// Its name in the file of identities.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Manage => "manage",
        }
    }
}

/// The identities that may call, as a file has them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identities {
    #[serde(default, rename = "identity")]
    entries: Vec<Entry>,
}

/// An identity.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Its name, in logs and metrics.
    pub(super) name: String,
    /// SHA-256 digests of its tokens, in hexadecimal; several while one replaces another.
    #[serde(default, rename = "token_sha256", deserialize_with = "digests")]
    pub(super) tokens: Vec<TokenDigest>,
    /// Names that its certificates may have: DNS name, URI or common name.
    #[serde(default)]
    pub(super) certificates: Vec<String>,
    /// Networks that it may use; a `*` at the end stands for any rest. Default all.
    #[serde(default = "all")]
    pub(super) networks: Vec<String>,
    /// What it may do. Default `["infer"]`.
    #[serde(default = "infer")]
    pub(super) may: Vec<Permission>,
    /// Images a second that it may send in the long run. Default no limit.
    images_per_second: Option<NonZeroU32>,
    /// Images that it may send at once. Default as many as in a second.
    burst: Option<NonZeroU32>,
}

impl Entry {
    pub(super) fn quota(&self) -> Option<Quota> {
        let per_second = self.images_per_second?;
        let burst = self.burst.unwrap_or(per_second);
        Some(Quota::per_second(per_second).allow_burst(burst))
    }
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

fn infer() -> Vec<Permission> {
    vec![Permission::Infer]
}

fn digests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TokenDigest>, D::Error> {
    let digest = |text: &str| {
        let mut digest = TokenDigest::default();
        let pairs = text.as_bytes().chunks(2);
        if text.len() != 2 * digest.len() {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(digest)
    };
    let value = toml::Value::deserialize(deserializer)?;
    let texts = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let digests: Option<Vec<_>> = texts
        .iter()
        .map(|text| digest(text.as_str()?))
        .collect::<Option<_>>()
        .filter(|_| value.is_array());
    // The text may be a token that was put there by mistake: it is not repeated.
    digests.ok_or_else(|| {
        D::Error::custom("`token_sha256` must hold SHA-256 digests of 64 hexadecimal digits")
    })
}

impl Identities {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`IdentitiesError`], which names the file and the identity at fault, and never a token.
    pub fn load(path: &Path) -> Result<Self, IdentitiesError> {
        let text = fs::read_to_string(path).map_err(|source| IdentitiesError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|kind| IdentitiesError::Content {
            path: path.to_owned(),
            kind,
        })
    }

    pub(crate) fn parse(text: &str) -> Result<Self, ContentError> {
        let identities: Self = toml::from_str(text).map_err(|error| ContentError::Parse {
            line: error
                .span()
                .map_or(1, |span| 1 + text[..span.start].matches('\n').count()),
            message: error.message().to_owned(),
        })?;
        identities.check()?;
        Ok(identities)
    }

    fn check(&self) -> Result<(), ContentError> {
        if self.entries.is_empty() {
            return Err(ContentError::Nobody);
        }
        let mut names = HashMap::new();
        let mut credentials: HashMap<&[u8], &str> = HashMap::new();
        for entry in &self.entries {
            let name = &*entry.name;
            if name.is_empty() || names.insert(name, ()).is_some() {
                return Err(ContentError::Name(name.to_owned()));
            }
            if entry.tokens.is_empty() && entry.certificates.is_empty() {
                return Err(ContentError::NoCredentials(name.to_owned()));
            }
            if entry.burst.is_some() && entry.images_per_second.is_none() {
                return Err(ContentError::BurstAlone(name.to_owned()));
            }
            let tokens = entry.tokens.iter().map(|digest| &digest[..]);
            let certificates = entry.certificates.iter().map(|name| name.as_bytes());
            for credential in tokens.chain(certificates) {
                if let Some(other) = credentials.insert(credential, name) {
                    return Err(ContentError::Shared {
                        one: other.to_owned(),
                        other: name.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether some are known by certificates.
    pub(crate) fn use_certificates(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| !entry.certificates.is_empty())
    }
}

/// Why the file of identities was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentitiesError {
    /// It cannot be read.
    #[error("cannot read the identities {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it says does not hold.
    #[error("the identities {} do not hold: {kind}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What does not.
        kind: ContentError,
    },
}

/// What does not hold in a file of identities.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// It does not parse. The parser's own error would show the line, and with it perhaps a token.
    #[error("line {line}: {message}")]
    Parse {
        /// Line in the file, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// There is no identity.
    #[error("there is no [[identity]], so that nobody could call; add one with `new-token`")]
    Nobody,
    /// A name that is empty or not the only one.
    #[error("the name {0:?} is empty or there twice")]
    Name(String),
    /// An identity that nothing proves.
    #[error("{0:?} has neither `token_sha256` nor `certificates`")]
    NoCredentials(String),
    /// A burst without a rate.
    #[error("{0:?} has a `burst` and no `images_per_second`")]
    BurstAlone(String),
    /// One credential of two identities, or twice.
    #[error("{one:?} and {other:?} have a token or a certificate's name in common")]
    Shared {
        /// An identity.
        one: String,
        /// The other, or the same.
        other: String,
    },
}
