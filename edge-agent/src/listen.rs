//! Listeners for HTTP, with and without TLS, whose callers are bounded.

use std::{
    future::ready,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{Router, http::Request};
use axum_server::{Handle, Server, tls_rustls::RustlsConfig};
use hyper::body::Incoming;
use hyper_util::rt::TokioTimer;
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{ServiceExt, service_fn};

/// How long a caller may take over the headers of a call.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time; others are closed at once. Each takes one of the files that the system lets the program have open.
const MOST_CONNECTIONS: usize = 256;
/// Calls at a time of one connection over HTTP/2.
const CALLS_OF_A_CONNECTION: u32 = 64;

/// A listener, until its calls have ended.
pub(crate) struct Listening {
    /// What it is for, in a log.
    what: &'static str,
    address: SocketAddr,
    handle: Handle<SocketAddr>,
    task: JoinHandle<io::Result<()>>,
}

impl Listening {
    /// Listens and serves.
    ///
    /// # Errors
    /// Why the address is not to be had.
    pub(crate) fn start(
        what: &'static str,
        address: SocketAddr,
        tls: Option<RustlsConfig>,
        router: Router,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let connections = service_fn(move |_: SocketAddr| {
            let place = places.clone().try_acquire_owned().map(Arc::new);
            let router = router.clone();
            ready(place.map(|place| {
                service_fn(move |request: Request<Incoming>| {
                    // As long as the connection is there.
                    let _place = &place;
                    router.clone().oneshot(request)
                })
            }))
        });
        let handle = Handle::new();
        let task = match tls {
            None => {
                let server = axum_server::from_tcp(listener)?;
                tokio::spawn(bounded(server).handle(handle.clone()).serve(connections))
            }
            Some(tls) => {
                let server = axum_server::from_tcp_rustls(listener, tls)?;
                tokio::spawn(bounded(server).handle(handle.clone()).serve(connections))
            }
        };
        Ok(Self {
            what,
            address,
            handle,
            task,
        })
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
            Ok(Err(error)) => tracing::error!(%error, "{} ended", self.what),
            Err(error) => tracing::error!(%error, "{} ended", self.what),
        }
    }
}

fn bounded<A>(mut server: Server<SocketAddr, A>) -> Server<SocketAddr, A> {
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
