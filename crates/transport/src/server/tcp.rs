//! Serves HTTP/2, and HTTP/1.1 where browsers are served: accepts TCP connections, secures them, and drains them at the end.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use hyper::{Version, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};

use super::{
    calls::{Arrival, Calls},
    idle::CallCount,
    listener::{HANDSHAKE_TIMEOUT, Limits, drain},
    peer::PeerCertificate,
    places::Places,
    preface,
    tls::Secured,
    web::Web,
};
use crate::{
    Protocol,
    settings::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
};

/// The pause after a failed accept. The usual cause is that the process has no file descriptor left,
/// and trying again at once would only burn time until one is freed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a peer whose handshake failed gets to read why.
const LINGER: Duration = Duration::from_secs(1);

/// The least that hyper takes as the bound on the headers of a call over HTTP/1.1.
const LEAST_HEADER_BYTES: usize = 8 << 10;

/// What serves one listener.
pub(super) struct TcpServer {
    pub(super) listener: TcpListener,
    /// What new connections are secured with; None serves in the clear.
    pub(super) tls: Option<watch::Receiver<Secured>>,
    pub(super) limits: Limits,
    pub(super) places: Places,
    /// How browsers are served; None where they are not.
    pub(super) web: Option<Arc<Web>>,
}

impl TcpServer {
    /// Serves until `shutdown`, then answers what was accepted.
    pub(super) async fn serve(self, routes: Routes, shutdown: CancellationToken) {
        let local = self.listener.local_addr().ok();
        let mut tasks = JoinSet::new();
        loop {
            let (tcp, peer) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a TCP connection");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let place = match self.places.take(peer) {
                Ok(place) => place,
                Err(error) => {
                    tracing::warn!(%peer, %error, "connection turned away");
                    continue;
                }
            };
            let connection = TcpConnection {
                calls: Calls {
                    routes: routes.clone(),
                    protocol: Protocol::H2,
                    local,
                    peer,
                    certificate: None,
                    max_call: self.limits.max_call,
                    early_data: &[],
                    web: self.web.clone(),
                },
                limits: self.limits,
                shutdown: shutdown.clone(),
            };
            let tls = self.tls.as_ref().map(|tls| tls.borrow().tcp.clone());
            tasks.spawn(async move {
                connection.accept(tcp, tls).await;
                drop(place);
            });
        }
        // The port is free for a successor while the last calls are answered.
        drop(self.listener);
        drain(tasks, self.limits.drain_timeout).await;
    }
}

/// What the two sides of a connection agreed to speak, where they did.
type Agreed = Option<Protocol>;

struct TcpConnection {
    calls: Calls,
    limits: Limits,
    shutdown: CancellationToken,
}

impl TcpConnection {
    async fn accept(mut self, tcp: TcpStream, tls: Option<TlsAcceptor>) {
        let peer = self.calls.peer;
        let socket = tcp.set_nodelay(true).and_then(|()| another(&tcp));
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%peer, %error, "connection lost before it began");
                return;
            }
        };
        let Some(acceptor) = tls else {
            let agreed = (!self.limits.with_http1).then_some(Protocol::H2);
            self.serve(tcp, peer, agreed).await;
            return linger(socket).await;
        };
        let handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp).into_fallible());
        let secured = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return,
            secured = handshake => secured,
        };
        match secured {
            Ok(Ok(stream)) => {
                let tls = stream.get_ref().1;
                let chain = tls.peer_certificates();
                self.calls.certificate = PeerCertificate::from_chain(chain).map(Into::into);
                let agreed = match tls.alpn_protocol() {
                    Some(name) if name == Protocol::H1.alpn() => Some(Protocol::H1),
                    None if self.limits.with_http1 => None,
                    _ => Some(Protocol::H2),
                };
                self.serve(stream, peer, agreed).await;
                linger(socket).await;
            }
            Ok(Err((error, tcp))) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                linger(tcp).await;
            }
            Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
        }
    }

    /// Serves the connection's calls; where nothing was agreed, by the protocol that the client begins with.
    async fn serve<S>(self, stream: S, peer: SocketAddr, agreed: Agreed)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let calls = self.calls;
        let count = CallCount::new();
        let counted = count.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut calls = calls.clone();
            if request.version() < Version::HTTP_2 {
                calls.protocol = Protocol::H1;
            }
            let in_flight = counted.begin();
            async move {
                let _in_flight = in_flight;
                let request = request.map(|body| Body::new(body.map_err(box_error)));
                Ok::<_, Infallible>(calls.answer(request, Arrival::Connected).await)
            }
        });
        let (stream, overdue) = preface::watch(stream, HANDSHAKE_TIMEOUT);
        let max_idle = match agreed {
            Some(Protocol::H2) => self.limits.max_idle,
            // Over HTTP/1.1 a client cannot be asked whether it is there, and may take its time over an answer.
            _ => self.limits.max_idle.min(self.limits.max_call),
        };
        let http = self.limits.http(agreed);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = overdue => {
                tracing::debug!(%peer, "connection ended: it did not begin");
                return;
            }
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = count.idle_for(max_idle) => {
                tracing::debug!(%peer, "connection ended: nothing was asked for long");
                connection.as_mut().graceful_shutdown();
                // Also ends one that takes no answer.
                match timeout(self.limits.max_call, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "connection lost");
        }
    }
}

impl Limits {
    /// The settings of a connection that speaks what was agreed, or the protocol that its client begins with.
    fn http(&self, agreed: Agreed) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(self.max_concurrent_calls)
            .max_header_list_size(self.max_header_bytes)
            .keep_alive_interval(self.idle_timeout / 2)
            .keep_alive_timeout(self.idle_timeout / 2);
        let max_header_bytes = usize::try_from(self.max_header_bytes).unwrap_or(usize::MAX);
        builder
            .http1()
            .timer(TokioTimer::new())
            // Also how long a connection waits for the next call.
            .header_read_timeout(HANDSHAKE_TIMEOUT)
            .max_buf_size(max_header_bytes.max(LEAST_HEADER_BYTES));
        match agreed {
            Some(Protocol::H1) => builder.http1_only(),
            Some(_) => builder.http2_only(),
            None => builder,
        }
    }
}

/// Another handle on a socket, which keeps it open when the first is dropped.
fn another(tcp: &TcpStream) -> std::io::Result<TcpStream> {
    let socket = socket2::SockRef::from(tcp).try_clone()?;
    TcpStream::from_std(socket.into())
}

/// Closes a connection so that the peer can read the end of it, an alert or the last answer: what the peer sends
/// meanwhile, be it an update of a window, would otherwise reset the connection, and what it has not read is lost.
async fn linger(mut tcp: TcpStream) {
    let heard = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, heard).await;
}

fn box_error(error: hyper::Error) -> tonic::codegen::StdError {
    error.into()
}
