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

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware,
    response::{Html, IntoResponse},
    routing::{get, post},
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use hyper_util::rt::TokioTimer;
use outpost_transport::{Identity, IdentityError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    config::ApiConfig, event::Announcer, intake::Intake, metrics::Metrics, power::Power,
    reloads::Reloads,
};
pub use authorisation::TokenError;
use authorisation::{Authorisation, Guard};

/// How long a caller may take over the headers of a call.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller may take over a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Calls at a time of one connection over HTTP/2.
const CALLS_OF_A_CONNECTION: u32 = 64;
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
    address: SocketAddr,
    in_use: InUse,
    handle: Handle<SocketAddr>,
    task: JoinHandle<io::Result<()>>,
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
        let failed = |source| ApiError::Listen {
            address: config.address,
            source,
        };
        let listener = TcpListener::bind(config.address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let router = router(context, in_use.guard.clone()).into_make_service();
        let handle = Handle::new();
        let task = match in_use.tls.clone() {
            None => {
                let server = axum_server::from_tcp(listener).map_err(failed)?;
                tokio::spawn(bounded(server).handle(handle.clone()).serve(router))
            }
            Some(tls) => {
                let server = axum_server::from_tcp_rustls(listener, tls).map_err(failed)?;
                tokio::spawn(bounded(server).handle(handle.clone()).serve(router))
            }
        };
        Ok(Self {
            address,
            in_use,
            handle,
            task,
        })
    }

    /// Its credentials.
    pub(crate) fn credentials(&self) -> &InUse {
        &self.in_use
    }

    /// The bound address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more calls, and returns once those it has are answered, or after `limit`.
    pub(crate) async fn end(self, limit: Duration) {
        self.handle.graceful_shutdown(Some(limit));
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the API ended"),
            Err(error) => tracing::error!(%error, "the API ended"),
        }
    }
}

fn bounded<A>(
    mut server: axum_server::Server<SocketAddr, A>,
) -> axum_server::Server<SocketAddr, A> {
    // Also for those that never begin, before the protocol is known.
    server = server.first_request_timeout(HEADER_TIMEOUT);
    let http = server.http_builder();
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_OF_A_CONNECTION)
        .keep_alive_interval(HEADER_TIMEOUT);
    server
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
