//! Listeners for HTTP, with and without TLS, whose callers are bounded.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use axum::Router;
use axum_server::{Handle, Server, tls_rustls::RustlsConfig};
use hyper_util::rt::TokioTimer;
use tokio::task::JoinHandle;

/// How long a caller may take over the headers of a call.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
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
        let router = router.into_make_service();
        let handle = Handle::new();
        let task = match tls {
            None => {
                let server = axum_server::from_tcp(listener)?;
                tokio::spawn(bounded(server).handle(handle.clone()).serve(router))
            }
            Some(tls) => {
                let server = axum_server::from_tcp_rustls(listener, tls)?;
                tokio::spawn(bounded(server).handle(handle.clone()).serve(router))
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
