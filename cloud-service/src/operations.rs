//! What people and machines look at: metrics, health, a page. Plain HTTP/1.1 on an address of its own,
//! which is meant for the inside of a network.
//!
//! | path | what |
//! | --- | --- |
//! | `/` | a page with live charts, drawn from the metrics |
//! | `/metrics` | metrics for Prometheus, in the format of OpenMetrics |
//! | `/livez` | 200 while the program runs |
//! | `/readyz` | 200 while it takes requests, 503 before that and while it drains |

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::Metrics;

/// The page. It loads nothing but the metrics.
const PAGE: &str = include_str!("operations/page.html");
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the service takes requests. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// Whether it does.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Says whether it does.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }
}

/// The listener and its task, which ends with it.
pub(crate) struct Operations {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Operations {
    /// Binds an address and serves.
    pub(crate) async fn start(
        address: SocketAddr,
        metrics: Metrics,
        ready: Ready,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let router = router(metrics, ready);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "metrics and health are no longer served");
            }
        });
        Ok(Self {
            address,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// The bound address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

fn router(metrics: Metrics, ready: Ready) -> Router {
    Router::new()
        .route(
            "/",
            get(|| async { ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE)) }),
        )
        .route("/metrics", get(scrape))
        .with_state(metrics)
        .route("/livez", get(|| async { "alive\n" }))
        .merge(
            Router::new()
                .route("/readyz", get(readiness))
                .with_state(ready),
        )
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.encode())
}

async fn readiness(State(ready): State<Ready>) -> impl IntoResponse {
    if ready.get() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: starting or draining\n",
        )
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

    async fn status(router: &Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn ready_says_no_before_and_after_and_alive_always_yes() {
        let ready = Ready::default();
        let router = router(Metrics::default(), ready.clone());
        for (state, expected) in [
            (false, StatusCode::SERVICE_UNAVAILABLE),
            (true, StatusCode::OK),
            (false, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            ready.set(state);
            assert_eq!(status(&router, "/readyz").await, expected);
            assert_eq!(status(&router, "/livez").await, StatusCode::OK);
        }
        for path in ["/", "/metrics"] {
            assert_eq!(status(&router, path).await, StatusCode::OK);
        }
        assert_eq!(status(&router, "/nothing").await, StatusCode::NOT_FOUND);
    }
}
