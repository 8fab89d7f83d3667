//! The HTTP API: an image in, its answer out, and all answers as they come.
//!
//! | path | what |
//! | --- | --- |
//! | `POST /v1/classify` | an image as the body, or as a part of a form; its answer |
//! | `GET /v1/answers` | all answers as they come, as server-sent events |
//! | `GET /v1/state` | what is decided by, the frontier of the policy, who is reached |
//! | `PUT /v1/state` | another operating point or mode |
//! | `/` | a page for people, drawn from all of these |
//! | `/openapi.json` | the description of these |
//! | `/metrics` | metrics for Prometheus, in the format of OpenMetrics |
//! | `/livez`, `/readyz` | 200 while the program runs; while it takes images |

mod answers;
mod authorisation;
mod classify;
mod description;
mod problem;
mod state;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware,
    response::{Html, IntoResponse},
    routing::{get, post},
};
use axum_server::tls_rustls::RustlsConfig;
use outpost_transport::{Identity, IdentityError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    config::ApiConfig, event::Announcer, intake::Intake, listen::Listening, metrics::Metrics,
    power::Power, reloads::Reloads,
};
pub(crate) use answers::MOST_LISTENERS;
pub use authorisation::TokenError;
use authorisation::{Authorisation, Guard};

/// The page. It loads nothing but what this program tells.
const PAGE: &str = include_str!("api/page.html");
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data: blob:; media-src blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the API works with.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) intake: Intake,
    pub(crate) announcer: Announcer,
    pub(crate) metrics: Metrics,
    /// Cancelled once the program ends.
    pub(crate) ending: CancellationToken,
    pub(crate) max_image_bytes: usize,
    /// How long a caller may take over a body.
    pub(crate) upload: Duration,
    /// Places for listeners.
    pub(crate) listeners: Arc<Semaphore>,
    pub(crate) reloads: Reloads,
    pub(crate) power: Power,
}

/// What the API shows and asks for, as its files have it.
pub(crate) struct Credentials {
    identity: Option<Identity>,
    authorisation: Authorisation,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ApiError`], which names the file at fault.
    pub(crate) fn load(config: &ApiConfig) -> Result<Self, ApiError> {
        let identity = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => Some(Identity::load(certificate, key)?),
            _ => None,
        };
        Ok(Self {
            identity,
            authorisation: Authorisation::load(config)?,
        })
    }

    /// Checks the token alone.
    ///
    /// # Errors
    /// [`TokenError`], which names the file.
    pub(crate) fn check_token(config: &ApiConfig) -> Result<(), TokenError> {
        Authorisation::load(config).map(|_| ())
    }
}

/// The credentials in use, which can be replaced.
#[derive(Clone)]
pub(crate) struct InUse {
    /// None where no TLS is spoken.
    tls: Option<RustlsConfig>,
    guard: Guard,
}

impl InUse {
    fn new(credentials: Credentials) -> Self {
        let identity = credentials.identity.as_ref();
        let tls = identity.map(|identity| RustlsConfig::from_config(identity.web_server_config()));
        Self {
            tls,
            guard: Guard::new(credentials.authorisation),
        }
    }

    /// New connections get the new certificate, and new calls are asked for the new token.
    pub(crate) fn replace(&self, credentials: Credentials) {
        if let (Some(tls), Some(identity)) = (&self.tls, &credentials.identity) {
            tls.reload_from_config(identity.web_server_config());
        }
        self.guard.replace(credentials.authorisation);
    }
}

/// The API, until its calls have ended.
pub(crate) struct Api {
    in_use: InUse,
    listening: Listening,
}

/// Why the API does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The address is taken, or not this machine's, or not allowed.
    #[error(
        "cannot listen at {address} for the API: stop what listens there, or change `api.address`"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate or its key is at fault.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The token is at fault.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Api {
    /// Listens and serves.
    pub(crate) fn start(config: &ApiConfig, context: Context) -> Result<Self, ApiError> {
        let in_use = InUse::new(Credentials::load(config)?);
        let router = router(context, in_use.guard.clone());
        let listening = Listening::start("the API", config.address, in_use.tls.clone(), router);
        let listening = listening.map_err(|source| ApiError::Listen {
            address: config.address,
            source,
        })?;
        Ok(Self { in_use, listening })
    }

    /// Its credentials.
    pub(crate) fn credentials(&self) -> &InUse {
        &self.in_use
    }

    /// The bound address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.listening.local_addr()
    }

    /// Takes no more calls, and returns once those it has are answered, or after `limit`.
    pub(crate) async fn end(self, limit: Duration) {
        self.listening.end(limit).await;
    }
}

fn router(context: Context, guard: Guard) -> Router {
    let limit = DefaultBodyLimit::max(context.max_image_bytes.saturating_add(1));
    let guarded = Router::new()
        .route("/v1/classify", post(classify::classify).layer(limit))
        .route("/v1/answers", get(answers::answers))
        .route("/v1/state", get(state::state).put(state::change))
        .route_layer(middleware::from_fn_with_state(guard, authorisation::check));
    let page = || async { ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE)) };
    Router::new()
        .route("/", get(page))
        .merge(guarded)
        .route("/openapi.json", get(description::openapi))
        .route("/metrics", get(scrape))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness))
        .method_not_allowed_fallback(|| async {
            problem::Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path takes another method; /openapi.json tells which",
            )
        })
        .fallback(|| async {
            problem::Problem::new(
                StatusCode::NOT_FOUND,
                "there is nothing at this path; /openapi.json tells what there is",
            )
        })
        .with_state(context)
}

async fn scrape(State(context): State<Context>) -> impl IntoResponse {
    context
        .metrics
        .look_at(context.intake.agent().get().engine());
    let listeners = MOST_LISTENERS - context.listeners.available_permits();
    context.metrics.listen(listeners);
    (
        [(header::CONTENT_TYPE, OPEN_METRICS)],
        context.metrics.encode(),
    )
}

async fn readiness(State(context): State<Context>) -> impl IntoResponse {
    if context.ending.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: ending\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}
