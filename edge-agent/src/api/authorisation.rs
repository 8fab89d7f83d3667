//! Who may call: those with the token, where there is one, and no page of another site.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::problem::Problem;

/// A token shorter than this can be guessed.
const LEAST_CHARACTERS: usize = 16;

/// What a caller must show. Clones share it.
#[derive(Clone)]
pub(super) struct Authorisation {
    /// Digest of the token: comparing digests tells nothing about the token by the time it takes.
    token: Option<Arc<[u8; 32]>>,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too short.
    #[error(
        "the token in {} has fewer than {LEAST_CHARACTERS} characters: make a random one, such as with `openssl rand -hex 32`", path.display()
    )]
    Short {
        /// The file.
        path: PathBuf,
    },
}

impl Authorisation {
    pub(super) fn load(path: Option<&Path>) -> Result<Self, TokenError> {
        let Some(path) = path else {
            return Ok(Self { token: None });
        };
        let token = fs::read_to_string(path).map_err(|source| TokenError::Read {
            path: path.to_owned(),
            source,
        })?;
        let token = token.trim();
        if token.len() < LEAST_CHARACTERS {
            return Err(TokenError::Short {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            token: Some(Arc::new(Sha256::digest(token).into())),
        })
    }

    fn allows(&self, request: &Request) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let shown = request.headers().get(header::AUTHORIZATION);
        let shown = shown
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        shown.is_some_and(|(_, shown)| Sha256::digest(shown.trim()).as_slice() == token.as_slice())
    }
}

/// Lets a call through, or says why not.
pub(super) async fn check(
    State(authorisation): State<Authorisation>,
    request: Request,
    next: Next,
) -> Response {
    let site = request.headers().get("sec-fetch-site");
    if request.method() != Method::GET && site.is_some_and(|site| site == "cross-site") {
        return Problem::new(
            StatusCode::FORBIDDEN,
            "a page of another site may not call: use the page that this program serves",
        )
        .into_response();
    }
    if !authorisation.allows(&request) {
        return Problem::new(
            StatusCode::UNAUTHORIZED,
            "show the token of `api.token`, as `Authorization: Bearer TOKEN`",
        )
        .into_response();
    }
    next.run(request).await
}
