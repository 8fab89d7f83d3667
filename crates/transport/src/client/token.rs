//! The secret by which a service knows a client.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use http::HeaderValue;

/// A bearer token, sent with every call in the header `authorization`. It is never written to a log.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(HeaderValue);

impl BearerToken {
    /// Takes the token itself, without the word "Bearer".
    ///
    /// # Errors
    /// [`TokenError::Malformed`] for what is no token of RFC 6750.
    pub fn new(token: &str) -> Result<Self, TokenError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if token.is_empty() || !token.bytes().all(fits) {
            return Err(TokenError::Malformed);
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .expect("letters, digits and some signs fit into a header");
        // Neither shown by `Debug` nor kept in tables of compressed headers.
        header.set_sensitive(true);
        Ok(Self(header))
    }

    /// Reads the token from a file that holds nothing else; white space around it is passed over.
    ///
    /// # Errors
    /// [`TokenError`], which names the file where it cannot be read.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let text = fs::read_to_string(path).map_err(|source| TokenError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::new(text.trim())
    }

    /// The value of the header `authorization`, marked as not to be shown.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(hidden)")
    }
}

/// Why there is no [`BearerToken`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file could not be read.
    #[error("cannot read the token {}; give the path of a file that holds it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The text is no token.
    #[error(
        "the token is empty or has a character that no token has; give it as it was issued, alone"
    )]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let token = BearerToken::new("c2VjcmV0").unwrap();
        assert!(!format!("{token:?} {:?}", token.header()).contains("c2VjcmV0"));
    }

    #[test]
    fn what_is_no_token_is_refused_without_showing_it() {
        for text in ["", "two words", "line\nbreak", "umlaut-ä"] {
            let error = BearerToken::new(text).unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }
}
