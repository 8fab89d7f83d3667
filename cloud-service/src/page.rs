//! The page that is a device ([`outpost_page`]), and tokens for it to call with: `POST /page/token`.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use futures::future::{Ready, ready};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use outpost_page::{Page as Files, Source, not_allowed, text, with_contents};
use outpost_transport::Origin;
use serde_json::json;

use crate::{
    access::PageTokens,
    config::{Config, PageConfig},
    repository::Repository,
    web::{is_grpc, no_service},
};

/// Why the page is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The page, or what it runs, is at fault.
    #[error(transparent)]
    Files(#[from] outpost_page::PageError),
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
}

/// Reads the page and what it runs.
pub(crate) fn load(page: &PageConfig, config: &Config) -> Result<Files, PageError> {
    let source = Source {
        folder: page.folder.clone(),
        models: config.models.clone(),
        cascade: page.cascade.clone(),
        policy: page.policy.clone(),
        operating_point: page.operating_point.clone(),
        deadline_ms: page.deadline_ms,
        correct_within_ms: page.correct_within_ms,
        cloud: None,
    };
    Ok(Files::load(&source)?)
}

/// Whether what the page's device asks for is served.
pub(crate) fn check_served(files: &Files, repository: &Repository) -> Result<(), PageError> {
    let mut served = repository.names();
    served.extend(repository.cascades());
    let mut asks_for = files.asks_for().iter();
    match asks_for.find(|model| !served.contains(model)) {
        None => Ok(()),
        Some(model) => Err(PageError::NotServed {
            cascade: files.cascade().to_owned(),
            model: model.clone(),
        }),
    }
}

/// Answers what browsers ask for beside calls.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    files: Arc<Files>,
    tokens: PageTokens,
    /// Origins of other pages that may call.
    origins: Arc<[Origin]>,
}

impl Page {
    pub(crate) fn new(files: Files, tokens: PageTokens, origins: Vec<Origin>) -> Self {
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
        let mut response = match (request.uri.path(), &request.method) {
            ("/page/token", &Method::POST) => self.issue(request),
            ("/page/token", _) => not_allowed("POST"),
            _ => self.files.answer(request),
        };
        self.files.protect(&mut response);
        response
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
                let mut response =
                    with_contents(StatusCode::OK, body.to_string(), "application/json");
                response
                    .headers_mut()
                    .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
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
        ready(Ok(self.answer(&request)))
    }
}
