//! The page that is a device, as a program serves it: its files, and those of the networks that it runs.
//!
//! | request | what |
//! | --- | --- |
//! | `GET /`, `GET /NAME` | the files that `scripts/build-web` makes |
//! | `GET /page/agent.json` | the cascade, the policy, the deadline, whom to ask, and the files of the networks with their digests |
//! | `GET /page/files/SHA256` | one of these, which never changes |
//!
//! Everything is read and checked once: what is served are entries of maps, never paths of the disk.

use std::{collections::BTreeSet, io, path::PathBuf};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, request};
use outpost_engine::StartError;
use outpost_exit_policy::Goal;
use outpost_runtime::{Digested, ModelFolder, sha256_hex};
use outpost_transport::Origin;

mod agent;
mod assets;

use agent::Agent;
use assets::Assets;

/// Said where there is no page.
const NO_PAGE: &str = "This program was built without its page. Run scripts/build-web, then build with \
    `--features page`, or name its folder (target/web) as `folder` in the table [page] of the configuration.\n";

/// Headers of every answer beside what the page may do. The first two make the page cross-origin isolated, so that it may have
/// threads.
const HEADERS: [(&str, &str); 6] = [
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("cross-origin-resource-policy", "same-origin"),
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

/// What a page is made of, and what its device does.
#[derive(Debug, Clone)]
pub struct Source {
    /// The folder that `scripts/build-web` makes; where there is none, what the program was built with.
    pub folder: Option<PathBuf>,
    /// The model folder.
    pub models: PathBuf,
    /// The cascade file; its networks at the site `device` run in the browser.
    pub cascade: PathBuf,
    /// A policy bundle, in place of the cascade's policies.
    pub policy: Option<PathBuf>,
    /// Which of its operating points the page begins with.
    pub operating_point: Goal,
    /// Milliseconds from an image to its answer.
    pub deadline_ms: u64,
    /// Milliseconds after the deadline in which a late answer still corrects the device's; 0 lets none.
    pub correct_within_ms: u64,
    /// The service that the page asks; where there is none, the origin that it came from.
    pub cloud: Option<Origin>,
}

/// Why a page is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The cascade, the policy or a network of the page is at fault.
    #[error("cannot serve the page")]
    Start(#[from] StartError),
    /// The device has nothing to do.
    #[error(
        "the page is a device, and the cascade {0:?} does not begin on one: name another as `cascade`"
    )]
    NotADevice(String),
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
    file: Digested,
    content_type: &'static str,
}

/// A page, read and checked.
#[derive(Debug)]
pub struct Page {
    assets: Assets,
    agent: Agent,
    /// What browsers let the page do.
    policy: HeaderValue,
    /// Its digest: where the policy changes, so does all that browsers ask about again.
    policy_sha256: String,
}

impl Page {
    /// Reads the page and what it runs.
    ///
    /// # Errors
    /// A [`PageError`] that names the file at fault.
    pub fn load(source: &Source) -> Result<Self, PageError> {
        let policy = policy(source.cloud.as_ref());
        Ok(Self {
            assets: Assets::load(source.folder.as_deref())?,
            agent: Agent::load(source, &ModelFolder::new(&source.models))?,
            policy_sha256: sha256_hex(policy.as_bytes()),
            policy,
        })
    }

    /// The name of its cascade.
    pub fn cascade(&self) -> &str {
        &self.agent.cascade
    }

    /// Models that its device asks for.
    pub fn asks_for(&self) -> &BTreeSet<String> {
        &self.agent.asks_for
    }

    /// Models that its device may ask for: those, and what else of its cascade is elsewhere.
    pub fn may_ask_for(&self) -> &BTreeSet<String> {
        &self.agent.may_ask_for
    }

    /// Whether the page itself is there, and not only what it runs.
    pub fn is_whole(&self) -> bool {
        !self.assets.is_empty()
    }

    /// What it comes to, for a person.
    pub fn summary(&self) -> String {
        let agent = &self.agent;
        let files = format!(
            "the page: {}, {} files of {:.1} MB in all",
            agent.cascade,
            agent.count(),
            agent.bytes as f64 / 1e6
        );
        match self.is_whole() {
            true => files,
            false => format!(
                "{files}; but the program was built without the page itself: run scripts/build-web"
            ),
        }
    }

    /// Answers a request, all but the headers of [`Page::protect`].
    pub fn answer(&self, request: &request::Parts) -> Response<Body> {
        let path = request.uri.path();
        let Some((stored, cache)) = self.find(path) else {
            return match path {
                "/" => text(StatusCode::NOT_FOUND, NO_PAGE),
                _ => text(StatusCode::NOT_FOUND, "there is nothing of that name\n"),
            };
        };
        match request.method {
            Method::GET | Method::HEAD => self.give(request, stored, cache),
            _ => not_allowed("GET, HEAD"),
        }
    }

    /// Adds what keeps the page apart from others, and from what it does not do, to an answer at its origin.
    pub fn protect(&self, response: &mut Response<Body>) {
        for (name, value) in HEADERS {
            set(response, HeaderName::from_static(name), value);
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
    }

    /// A file, or word that the browser has it already.
    fn give(
        &self,
        request: &request::Parts,
        stored: &Stored,
        cache: &'static str,
    ) -> Response<Body> {
        let tag = match cache {
            FOR_GOOD => format!("\"{}\"", stored.file.sha256()),
            _ => format!("\"{}-{}\"", stored.file.sha256(), &self.policy_sha256[..16]),
        };
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
            false => with_contents(
                StatusCode::OK,
                stored.file.bytes().clone(),
                stored.content_type,
            ),
        };
        set(&mut response, header::CACHE_CONTROL, cache);
        let tag = HeaderValue::try_from(tag).expect("a digest is letters and digits");
        response.headers_mut().insert(header::ETAG, tag);
        if request.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }

    /// What there is by a name, and how long a browser may keep it.
    fn find(&self, path: &str) -> Option<(&Stored, &'static str)> {
        let Self { assets, agent, .. } = self;
        if path == "/page/agent.json" {
            return Some((&agent.description, ASK_AGAIN));
        }
        match path.strip_prefix("/page/files/") {
            Some(sha256) => Some((agent.file(sha256)?, FOR_GOOD)),
            None => Some((assets.get(path)?, ASK_AGAIN)),
        }
    }
}

/// What the page may load and do: all of its own, nothing of others but answers of the cloud, WebAssembly but no `eval`.
fn policy(cloud: Option<&Origin>) -> HeaderValue {
    let cloud = cloud.map(|cloud| format!(" {}", cloud.as_str()));
    let cloud = cloud.unwrap_or_default();
    let policy = format!(
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; \
         img-src 'self' blob: data:; media-src 'self' blob: data:; connect-src 'self'{cloud}; manifest-src 'self'; \
         font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("an origin is part of a URL")
}

/// Refuses a request by its method; `methods` are those that there are.
pub fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this takes {methods}\n"),
    );
    set(&mut response, header::ALLOW, methods);
    response
}

/// Words for a person, which nothing keeps.
pub fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
    let mut response = with_contents(status, words, "text/plain; charset=utf-8");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

/// An answer with contents, their length and what they are.
pub fn with_contents(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_ask_its_origin_and_its_cloud_alone() {
        let connects = |cloud: Option<&str>| {
            let cloud = cloud.map(|cloud| cloud.parse().unwrap());
            let policy = policy(cloud.as_ref());
            let policy = policy.to_str().unwrap().to_owned();
            let mut parts = policy.split("; ");
            parts
                .find_map(|part| part.strip_prefix("connect-src "))
                .unwrap()
                .to_owned()
        };
        assert_eq!(connects(None), "'self'");
        let cloud = "https://cloud.example:8443";
        assert_eq!(connects(Some(cloud)), format!("'self' {cloud}"));
    }
}
