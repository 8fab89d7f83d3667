//! The page that is a device: its files, those of the networks that it runs, and tokens to call with.
//!
//! | request | what |
//! | --- | --- |
//! | `GET /`, `GET /NAME` | the files that `scripts/build-web` makes |
//! | `GET /page/agent.json` | the cascade, the policy, the deadline, and the files of the networks with their digests |
//! | `GET /page/files/SHA256` | one of these, which never changes |
//! | `POST /page/token` | a token for the page's calls |
//!
//! Everything was read and checked at the start: what is served are entries of maps, never paths of the disk.

use std::{
    convert::Infallible,
    io,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use bytes::Bytes;
use futures::future::{Ready, ready};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request};
use outpost_engine::StartError;
use outpost_runtime::{ModelFolder, sha256_hex};
use outpost_transport::Origin;
use serde_json::json;

use crate::{
    access::PageTokens,
    config::{Config, PageConfig},
    repository::Repository,
    web::{is_grpc, no_service},
};
use agent::Agent;
use assets::Assets;

mod agent;
mod assets;

/// Said where there is no page.
const NO_PAGE: &str = "This cloud-service was built without its page. Run scripts/build-web, then build with \
    `--features page`, or name its folder (target/web) as `folder` in the table [page] of the configuration.\n";

/// What the page may load and do: all of its own, nothing of others, WebAssembly but no `eval`.
const POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; \
    img-src 'self' blob: data:; media-src 'self' blob: data:; connect-src 'self'; manifest-src 'self'; font-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer. The first two make the page cross-origin isolated, so that it may have threads.
const HEADERS: [(&str, &str); 7] = [
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("cross-origin-resource-policy", "same-origin"),
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    (
        "permissions-policy",
        "camera=(self), microphone=(), geolocation=()",
    ),
];

/// What a browser asks about each time that it has it already.
const ASK_AGAIN: &str = "no-cache";
/// What never changes: its name is its digest.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";

/// Why the page is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The cascade, the policy or a network of the page is at fault.
    #[error("cannot serve the page")]
    Start(#[from] StartError),
    /// The device has nothing to do.
    #[error(
        "the page is a device, and the cascade {0:?} does not begin on one: name another as `page.cascade`"
    )]
    NotADevice(String),
    /// The device would ask for what is not served.
    #[error(
        "the page's cascade {cascade:?} asks this service for {model:?}, which it does not serve: add it to `networks`, or \
         the cascade as a [[cascade]]"
    )]
    NotServed {
        /// The cascade.
        cascade: String,
        /// The model.
        model: String,
    },
    /// A network's file is elsewhere.
    #[error("the page gives browsers a copy of the model folder {}, and {} is outside of it", folder.display(), path.display())]
    Outside {
        /// The file.
        path: PathBuf,
        /// The model folder.
        folder: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {} for the page", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The page's folder cannot be read.
    #[error("cannot read the page in `page.folder`: {}", path.display())]
    Folder {
        /// The file or folder at fault.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The page's folder has no page.
    #[error("there is no index.html in {}: make the page with scripts/build-web", .0.display())]
    NoIndex(PathBuf),
}

/// Contents that are served, and what they are.
#[derive(Debug)]
struct Stored {
    contents: Bytes,
    sha256: String,
    content_type: &'static str,
}

impl Stored {
    /// Keeps contents and their digest.
    fn new(contents: Bytes, content_type: &'static str) -> Self {
        Self {
            sha256: sha256_hex(&contents),
            contents,
            content_type,
        }
    }
}

/// What the page is made of, read and checked.
#[derive(Debug)]
pub(crate) struct PageFiles {
    assets: Assets,
    agent: Agent,
}

impl PageFiles {
    /// Reads the page and what it runs.
    pub(crate) fn load(page: &PageConfig, config: &Config) -> Result<Self, PageError> {
        Ok(Self {
            assets: Assets::load(page.folder.as_deref())?,
            agent: Agent::load(page, &ModelFolder::new(&config.models))?,
        })
    }

    /// Whether what the device asks for is served.
    pub(crate) fn check_served(&self, repository: &Repository) -> Result<(), PageError> {
        let mut served = repository.names();
        served.extend(repository.cascades());
        match self
            .agent
            .asks_for
            .iter()
            .find(|model| !served.contains(model))
        {
            None => Ok(()),
            Some(model) => Err(PageError::NotServed {
                cascade: self.agent.cascade.clone(),
                model: model.clone(),
            }),
        }
    }

    /// Models that the page may ask for.
    pub(crate) fn models(&self) -> Vec<String> {
        self.agent.may_ask_for.iter().cloned().collect()
    }

    /// What it comes to, for a person.
    pub(crate) fn summary(&self) -> String {
        let Self { assets, agent } = self;
        let files = format!(
            "the page: {}, {} files of {:.1} MB in all",
            agent.cascade,
            agent.count(),
            agent.bytes as f64 / 1e6
        );
        match assets.is_empty() {
            true => format!(
                "{files}; but the program was built without the page itself: run scripts/build-web"
            ),
            false => files,
        }
    }
}

/// Answers what browsers ask for beside calls.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    files: Arc<PageFiles>,
    tokens: PageTokens,
    /// Origins of other pages that may call.
    origins: Arc<[Origin]>,
}

impl Page {
    pub(crate) fn new(files: PageFiles, tokens: PageTokens, origins: Vec<Origin>) -> Self {
        Self {
            files: files.into(),
            tokens,
            origins: origins.into(),
        }
    }

    fn answer(&self, request: &request::Parts) -> Response<Body> {
        if is_grpc(&request.headers) {
            return no_service();
        }
        let path = request.uri.path();
        if path == "/page/token" {
            return match request.method {
                Method::POST => self.issue(request),
                _ => not_allowed("POST"),
            };
        }
        let Some((stored, cache)) = self.find(path) else {
            return match path {
                "/" => text(StatusCode::NOT_FOUND, NO_PAGE),
                _ => text(StatusCode::NOT_FOUND, "there is nothing of that name\n"),
            };
        };
        match request.method {
            Method::GET | Method::HEAD => give(request, stored, cache),
            _ => not_allowed("GET, HEAD"),
        }
    }

    /// What there is by a name, and how long a browser may keep it.
    fn find(&self, path: &str) -> Option<(&Stored, &'static str)> {
        let PageFiles { assets, agent } = &*self.files;
        if path == "/page/agent.json" {
            return Some((&agent.description, ASK_AGAIN));
        }
        match path.strip_prefix("/page/files/") {
            Some(sha256) => Some((agent.file(sha256)?, FOR_GOOD)),
            None => Some((assets.get(path)?, ASK_AGAIN)),
        }
    }

    /// Issues a token, to the page itself, pages that may call, and whatever is no page.
    fn issue(&self, request: &request::Parts) -> Response<Body> {
        if !self.is_from_here(request) {
            self.tokens.refused_origin();
            let words = "pages of this origin may not call: add it to `grpc_web.origins`\n";
            return text(StatusCode::FORBIDDEN, words);
        }
        match self.tokens.issue(Instant::now()) {
            Ok(token) => {
                let seconds = self.tokens.lifetime().as_secs();
                let body = json!({ "token": token, "expires_in_seconds": seconds });
                let mut response = plain(StatusCode::OK, body.to_string(), "application/json");
                set(&mut response, header::CACHE_CONTROL, "no-store");
                response
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "no token for a page");
                let mut response = text(refusal.status(), format!("{refusal}\n"));
                if let Some(after) = refusal.retry_after() {
                    let seconds = after.as_secs_f64().ceil() as u64;
                    response
                        .headers_mut()
                        .insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
                }
                response
            }
        }
    }

    /// Whether a request is not from a page that may not call. Only browsers say where it is from.
    fn is_from_here(&self, request: &request::Parts) -> bool {
        let headers = &request.headers;
        let Some(origin) = headers.get(header::ORIGIN) else {
            return true;
        };
        if headers
            .get("sec-fetch-site")
            .is_some_and(|site| site == "same-origin")
        {
            return true;
        }
        let Some(origin) = origin
            .to_str()
            .ok()
            .and_then(|text| text.parse::<Origin>().ok())
        else {
            return false;
        };
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = request
            .uri
            .authority()
            .map(|authority| authority.as_str())
            .or(host);
        let own = host.and_then(|host| format!("https://{host}").parse::<Origin>().ok());
        own.is_some_and(|own| own == origin) || self.origins.contains(&origin)
    }
}

impl tower::Service<Request<Body>> for Page {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (request, _) = request.into_parts();
        let mut response = self.answer(&request);
        if !is_grpc(&request.headers) {
            for (name, value) in HEADERS {
                set(&mut response, HeaderName::from_static(name), value);
            }
        }
        ready(Ok(response))
    }
}

/// A file, or word that the browser has it already.
fn give(request: &request::Parts, stored: &Stored, cache: &'static str) -> Response<Body> {
    let tag = format!("\"{}\"", stored.sha256);
    let has_it = request
        .headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(|tags| {
            let mut tags = tags.to_str().unwrap_or_default().split(',').map(str::trim);
            tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
        });
    let mut response = match has_it {
        true => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        false => plain(StatusCode::OK, stored.contents.clone(), stored.content_type),
    };
    set(&mut response, header::CACHE_CONTROL, cache);
    let tag = HeaderValue::try_from(tag).expect("a digest is letters and digits");
    response.headers_mut().insert(header::ETAG, tag);
    if request.method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this takes {methods}\n"),
    );
    set(&mut response, header::ALLOW, methods);
    response
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
    let mut response = plain(status, words, "text/plain; charset=utf-8");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

fn plain(
    status: StatusCode,
    contents: impl Into<Bytes>,
    content_type: &'static str,
) -> Response<Body> {
    let contents = contents.into();
    let length = HeaderValue::from(contents.len());
    let mut response = Response::new(Body::from(contents));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length);
    response
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &'static str) {
    let value = HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
}
