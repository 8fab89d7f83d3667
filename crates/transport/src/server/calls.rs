//! What happens to every call, whichever protocol it came over: context in, deadline kept.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use tokio::time::timeout_at;
use tonic::{Status, body::Body, service::Routes, transport::server::TcpConnectInfo};
use tower::Service as _;

use super::{peer::PeerCertificate, web::Web};
use crate::{
    EarlyData, Protocol,
    deadline::{DeadlineBody, Expiry, TimeAllowed},
};

/// Answers the calls of one connection.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) routes: Routes,
    pub(super) protocol: Protocol,
    pub(super) local: Option<SocketAddr>,
    pub(super) peer: SocketAddr,
    pub(super) certificate: Option<Arc<PeerCertificate>>,
    /// The longest that a call may take, whatever it asks for.
    pub(super) max_call: Duration,
    /// Paths of the calls that are taken before a handshake is done.
    pub(super) early_data: &'static [&'static str],
    /// How browsers are served; None where they are not, and every call is gRPC.
    pub(super) web: Option<Arc<Web>>,
}

/// Whether a call came before its client's handshake was done, so that it may be a copy that somebody made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Early,
    Connected,
}

impl Calls {
    /// Answers one call.
    pub(super) async fn answer(
        self,
        mut request: Request<Body>,
        arrival: Arrival,
    ) -> Response<Body> {
        if arrival == Arrival::Early {
            if !self.early_data.contains(&request.uri().path()) {
                // What HTTP says with its status 425.
                let words = "this call is not taken before the handshake is done: send it again";
                return Status::unavailable(words).into_http();
            }
            request.extensions_mut().insert(EarlyData::Accepted);
        }
        match self.web.clone() {
            Some(web) => web.answer(self, request).await,
            None => self.answer_grpc(request).await,
        }
    }

    /// Answers one call of gRPC, by its deadline if it has one; the service's work is dropped then.
    pub(super) async fn answer_grpc(self, request: Request<Body>) -> Response<Body> {
        let asked = match TimeAllowed::from_headers(request.headers()) {
            Ok(asked) => asked,
            Err(malformed) => return Status::from(malformed).into_http(),
        };
        let time_allowed = TimeAllowed::at_most(asked, self.max_call);
        match self.within(time_allowed, request).await {
            Some(response) => {
                response.map(|body| DeadlineBody::wrap(body, time_allowed, Expiry::Trailers))
            }
            None => Status::deadline_exceeded(format!(
                "no answer within {:?}, the time of the call",
                time_allowed.duration
            ))
            .into_http(),
        }
    }

    /// Answers one request for something else, in the time that a call may take.
    pub(super) async fn answer_page(self, request: Request<Body>) -> Response<Body> {
        let time_allowed = TimeAllowed::at_most(None, self.max_call);
        match self.within(time_allowed, request).await {
            Some(response) => {
                response.map(|body| DeadlineBody::wrap(body, time_allowed, Expiry::Error))
            }
            None => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response
            }
        }
    }

    /// What the routes answer to a request in its context; None where they are late.
    async fn within(
        self,
        time_allowed: TimeAllowed,
        mut request: Request<Body>,
    ) -> Option<Response<Body>> {
        let extensions = request.extensions_mut();
        extensions.insert(self.protocol);
        // `tonic::Request::remote_addr` finds the peer in this, for HTTP/3 too.
        extensions.insert(TcpConnectInfo {
            local_addr: self.local,
            remote_addr: Some(self.peer),
        });
        if let Some(certificate) = self.certificate {
            extensions.insert(certificate);
        }
        extensions.insert(time_allowed.deadline);
        let mut routes = self.routes;
        let response = timeout_at(time_allowed.deadline.instant(), routes.call(request));
        response.await.ok().map(infallible)
    }
}

pub(super) fn infallible<T>(result: Result<T, std::convert::Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt as _;
    use tokio::time::Instant;
    use tonic::{Code, server::NamedService};
    use tower::service_fn;

    use super::*;
    use crate::Deadline;

    /// Gives a service the name that its routes need.
    #[derive(Clone)]
    struct Named<S>(S);

    impl<S> NamedService for Named<S> {
        const NAME: &'static str = "test";
    }

    impl<S: tower::Service<Request<Body>>> tower::Service<Request<Body>> for Named<S> {
        type Response = S::Response;
        type Error = S::Error;
        type Future = S::Future;

        fn poll_ready(
            &mut self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), S::Error>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, request: Request<Body>) -> S::Future {
            self.0.call(request)
        }
    }

    async fn answer<F>(
        grpc_timeout: &str,
        handler: impl Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    ) -> Response<Body>
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let request = Request::post("/test/Method")
            .header("grpc-timeout", grpc_timeout)
            .body(Body::empty())
            .unwrap();
        arrived(request, Arrival::Connected, handler).await
    }

    async fn arrived<F>(
        request: Request<Body>,
        arrival: Arrival,
        handler: impl Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    ) -> Response<Body>
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let calls = Calls {
            routes: Routes::new(Named(service_fn(handler))),
            protocol: Protocol::H3,
            local: None,
            peer: ([127, 0, 0, 1], 1).into(),
            certificate: None,
            max_call: Duration::from_secs(120),
            early_data: &["/test/Early"],
            web: None,
        };
        calls.answer(request, arrival).await
    }

    #[tokio::test]
    async fn before_the_handshake_is_done_only_calls_that_may_run_twice_are_taken() {
        let request = |path| Request::post(path).body(Body::empty()).unwrap();
        let taken = arrived(
            request("/test/Early"),
            Arrival::Early,
            |request| async move {
                assert_eq!(request.extensions().get(), Some(&EarlyData::Accepted));
                Ok(Response::new(Body::empty()))
            },
        );
        assert!(taken.await.headers().is_empty());
        let refused = arrived(request("/test/Method"), Arrival::Early, |_| async {
            unreachable!("it may not run twice")
        });
        let status = Status::from_header_map(refused.await.headers()).unwrap();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("send it again"), "{status}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_late_is_answered_for() {
        let started = Instant::now();
        let response = answer("250m", |_| std::future::pending()).await;
        assert_eq!(started.elapsed(), Duration::from_millis(250));
        // Trailers alone, in the place of headers.
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(http_body::Body::is_end_stream(response.body()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_cannot_have_more_time_than_the_listener_allows() {
        let started = Instant::now();
        let response = answer("3H", |_| std::future::pending()).await;
        assert_eq!(started.elapsed(), Duration::from_secs(120));
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_stalls_is_cut_off_with_the_status() {
        let stalled = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<http_body::Frame<bytes::Bytes>, Status>,
        >());
        let stalled = std::sync::Arc::new(std::sync::Mutex::new(Some(stalled)));
        let response = answer("1S", move |_| {
            let body = stalled.lock().unwrap().take().unwrap();
            async { Ok(Response::new(Body::new(body))) }
        })
        .await;
        let trailers = response.into_body().collect().await.unwrap();
        let status = Status::from_header_map(trailers.trailers().unwrap()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn the_service_finds_its_context_in_the_extensions() {
        let response = answer("1S", |request| async move {
            let extensions = request.extensions();
            assert_eq!(extensions.get(), Some(&Protocol::H3));
            assert!(extensions.get::<Deadline>().is_some());
            assert!(extensions.get::<TcpConnectInfo>().is_some());
            Ok(Response::new(Body::empty()))
        });
        assert!(response.await.status().is_success());
    }

    #[tokio::test]
    async fn a_malformed_timeout_reaches_no_service() {
        let response = answer("soon", |_| async { unreachable!("the call is malformed") });
        let status = Status::from_header_map(response.await.headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}
