//! Who may call: those with the token, where there is one, and no page of another site.
//!
//! A page of another site is known by its `Origin`. One whose name was made to lead here (DNS rebinding) has the same
//! origin, and knows no token; without one, the name that was called must be one that no stranger can have.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::config::ApiConfig;

/// A token shorter than this can be guessed.
const LEAST_CHARACTERS: usize = 16;

/// What a caller must show.
pub(super) struct Authorisation {
    /// Digest of the token: comparing digests tells nothing about the token by the time it takes.
    token: Option<[u8; 32]>,
    /// Further names of this machine.
    hosts: Vec<String>,
}

/// What callers must show now. Clones share it.
#[derive(Clone)]
pub(super) struct Guard(Arc<RwLock<Arc<Authorisation>>>);

impl Guard {
    pub(super) fn new(authorisation: Authorisation) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(authorisation))))
    }

    /// Asks for something else from the next call on.
    pub(super) fn replace(&self, authorisation: Authorisation) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(authorisation);
    }

    fn get(&self) -> Arc<Authorisation> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
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
    pub(super) fn load(config: &ApiConfig) -> Result<Self, TokenError> {
        let token = config.token.as_deref().map(read_token).transpose()?;
        Ok(Self {
            token: token.map(|token| Sha256::digest(token).into()),
            hosts: config.hosts.clone(),
        })
    }

    /// Why a call is refused, where it is.
    fn refuses(&self, request: &Request) -> Option<Problem> {
        let called = authority(request);
        if request.method() != Method::GET && is_of_another_site(request, called.as_ref()) {
            return Some(Problem::new(
                StatusCode::FORBIDDEN,
                "a page of another site may not call: use the page that this program serves",
            ));
        }
        match &self.token {
            Some(token) if !shows(request, token) => Some(Problem::new(
                StatusCode::UNAUTHORIZED,
                "show the token of `api.token`, as `Authorization: Bearer TOKEN`",
            )),
            None if !called.is_some_and(|called| self.is_ours(called.host())) => {
                Some(Problem::new(
                    StatusCode::FORBIDDEN,
                    "this name is not known as one of this machine: call it by its address, or add the name to `api.hosts`, or give `api.token`",
                ))
            }
            _ => None,
        }
    }

    /// Whether no stranger can have a page of that name: an address, a name of this machine or of its network.
    fn is_ours(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.');
        host.parse::<IpAddr>().is_ok()
            || !host.contains('.')
            || host.to_ascii_lowercase().ends_with(".local")
            || self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(host))
    }
}

fn read_token(path: &Path) -> Result<String, TokenError> {
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
    Ok(token.to_owned())
}

fn shows(request: &Request, token: &[u8; 32]) -> bool {
    let shown = request.headers().get(header::AUTHORIZATION);
    let shown = shown
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    shown.is_some_and(|(_, shown)| Sha256::digest(shown.trim()).as_slice() == token.as_slice())
}

/// The name and port that were called: over HTTP/2 in the address, over HTTP/1.1 in a header.
fn authority(request: &Request) -> Option<Authority> {
    let host = || {
        request
            .headers()
            .get(header::HOST)?
            .to_str()
            .ok()?
            .parse()
            .ok()
    };
    request.uri().authority().cloned().or_else(host)
}

fn is_of_another_site(request: &Request, called: Option<&Authority>) -> bool {
    let site = request.headers().get("sec-fetch-site");
    let origin = request.headers().get(header::ORIGIN).map(|origin| {
        let origin = origin.to_str().ok()?.parse::<Uri>().ok()?;
        origin.into_parts().authority
    });
    site.is_some_and(|site| site == "cross-site")
        || origin.is_some_and(|origin| origin.is_none() || origin.as_ref() != called)
}

/// Lets a call through, or says why not.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let authorisation = guard.get();
    match authorisation.refuses(&request) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(method: Method, host: &str, origin: Option<&str>) -> Request {
        let request = axum::http::Request::builder()
            .method(method)
            .uri("/v1/state");
        let request = request.header(header::HOST, host);
        let request = match origin {
            Some(origin) => request.header(header::ORIGIN, origin),
            None => request,
        };
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn pages_of_other_sites_are_refused_by_origin_and_by_name() {
        let open = Authorisation {
            token: None,
            hosts: vec!["edge.example".to_owned()],
        };
        let with_token = Authorisation {
            token: Some([0; 32]),
            hosts: Vec::new(),
        };
        for (method, host, origin, is_open) in [
            (Method::PUT, "127.0.0.1:8080", None, true),
            (Method::PUT, "[::1]:8080", Some("http://[::1]:8080"), true),
            (
                Method::PUT,
                "pi.local:8080",
                Some("http://pi.local:8080"),
                true,
            ),
            (
                Method::POST,
                "raspberrypi",
                Some("http://raspberrypi"),
                true,
            ),
            (
                Method::POST,
                "edge.example:1",
                Some("https://edge.example:1"),
                true,
            ),
            (
                Method::POST,
                "192.168.0.7:80",
                Some("http://evil.example"),
                false,
            ),
            (Method::POST, "192.168.0.7:80", Some("null"), false),
            (
                Method::PUT,
                "rebound.example:8080",
                Some("http://rebound.example:8080"),
                false,
            ),
            (Method::GET, "rebound.example:8080", None, false),
            (
                Method::GET,
                "localhost:8080",
                Some("http://evil.example"),
                true,
            ),
        ] {
            let request = request(method, host, origin);
            assert_eq!(
                open.refuses(&request).is_none(),
                is_open,
                "{host} {origin:?}"
            );
            // None of these shows the token.
            assert!(with_token.refuses(&request).is_some());
        }
    }
}
