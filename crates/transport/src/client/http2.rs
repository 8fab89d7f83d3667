//! HTTP/2 connections: TCP, TLS, and calls over them.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use h2::Reason;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{Code, Status, body::Body};

use super::{
    alert::{Alert, AlertStream},
    config::Target,
    connect::Failure,
    local_address::LocalAddress,
    trust::ClientTls,
};
use crate::{
    Congestion, Protocol, WireMeter,
    error::{CallError, ConnectError, TlsError},
    settings::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
    wire::MeteredTcp,
};

/// A connection that calls share.
#[derive(Clone)]
pub(super) struct Http2 {
    sender: SendRequest<Body>,
    /// Set once the connection takes no more calls.
    retired: Arc<AtomicBool>,
    /// What its packets are sent from: where that is gone, they are lost.
    local: Arc<LocalAddress>,
    /// Ends with the connection; what the server said about this client's certificate, if it did.
    ended: Shared<BoxFuture<'static, Option<TlsError>>>,
}

/// How long a call that failed waits for its connection to end and to say why. The end is under way by then.
const ENDING: Duration = Duration::from_millis(100);

impl Http2 {
    pub(super) async fn connect(
        target: &Target,
        address: SocketAddr,
        wire: &WireMeter,
    ) -> Result<Self, ConnectError> {
        let failed = |error| ConnectError::from_io(address, Protocol::H2, error);
        let mut dialing = Dialing::new(address, wire);
        let tcp = dial(address, target.congestion).await;
        dialing.came_to(&tcp);
        let tcp = tcp
            .and_then(|tcp| MeteredTcp::new(tcp, wire.clone()))
            .map_err(failed)?;
        limit_silence(tcp.get_ref(), target);
        match &target.tls {
            None => Self::start(tcp, Alert::default(), target, address).await,
            Some(tls) => {
                let (stream, alert) = AlertStream::new(secure(tcp, tls, address).await?);
                Self::start(stream, alert, target, address).await
            }
        }
    }

    async fn start<S>(
        stream: S,
        alert: Alert,
        target: &Target,
        address: SocketAddr,
    ) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(target.keep_alive)
            .keep_alive_timeout(target.keep_alive * 2)
            // A device that has nothing to ask lets its radio sleep.
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Closed {
                address,
                protocol: Protocol::H2,
                source: Arc::new(error),
            })?;
        // Ends with the connection, which ends with its last sender and call.
        let ended = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "HTTP/2 connection lost");
            }
            TlsError::of_alert(alert.get()?)
        });
        Ok(Self {
            sender,
            retired: Arc::default(),
            local: Arc::new(LocalAddress::towards(address)),
            ended: ended.map(|ended| ended.ok().flatten()).boxed().shared(),
        })
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.sender.is_closed()
            && !self.retired.load(Ordering::Relaxed)
            && !self.local.is_replaced()
    }

    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let mut sender = self.sender.clone();
        let answered = tokio::select! {
            biased;
            answered = sender.try_send_request(request) => answered,
            () = self.local.replaced() => {
                self.retired.store(true, Ordering::Relaxed);
                return Err(Failure::Failed(CallError::Interrupted {
                    protocol: Protocol::H2,
                    source: Arc::new(Moved),
                }));
            }
        };
        match answered {
            Ok(response) => Ok(response
                .map(|body| Body::new(body.map_err(|error| Status::from(call_error(error)))))),
            Err(mut error) => match error.take_message() {
                Some(request) => {
                    self.retired.store(true, Ordering::Relaxed);
                    Err(Failure::NotSent {
                        request: Box::new(request),
                        error: self.explain(error.into_error()).await,
                    })
                }
                None => Err(Failure::Failed(self.explain(error.into_error()).await)),
            },
        }
    }

    /// Sorts an error of a call, with what the connection's end tells about it.
    async fn explain(&self, error: hyper::Error) -> CallError {
        let error = call_error(error);
        if !matches!(error, CallError::Interrupted { .. }) {
            return error;
        }
        match timeout(ENDING, self.ended.clone()).await {
            Ok(Some(refused)) => CallError::Connect(refused.into()),
            Ok(None) | Err(_) => error,
        }
    }
}

/// Connects a socket that goes by a congestion control.
async fn dial(address: SocketAddr, congestion: Option<Congestion>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(congestion) = congestion {
        congestion.set(SockRef::from(&socket))?;
    }
    let tcp = socket.connect(address).await?;
    // A request's last segment must not wait for the acknowledgement of those before it.
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// An attempt to connect, which is counted where it comes to nothing, be it that nobody waits for it any more.
struct Dialing<'a> {
    address: SocketAddr,
    wire: &'a WireMeter,
    started: Instant,
    is_counted: bool,
}

impl<'a> Dialing<'a> {
    fn new(address: SocketAddr, wire: &'a WireMeter) -> Self {
        Self {
            address,
            wire,
            started: Instant::now(),
            is_counted: false,
        }
    }

    fn came_to(&mut self, tcp: &io::Result<TcpStream>) {
        use io::ErrorKind as Kind;
        // Where there is a connection, it is counted itself; where there is no way, nothing was sent.
        self.is_counted = match tcp {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), Kind::ConnectionRefused | Kind::TimedOut),
        };
        if let Err(error) = tcp
            && !self.is_counted
        {
            self.count(error.kind() == Kind::ConnectionRefused);
        }
    }

    fn count(&mut self, is_refused: bool) {
        self.wire
            .attempted(self.address, self.started.elapsed(), is_refused);
        self.is_counted = true;
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        if !self.is_counted {
            self.count(false);
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("this machine's address changed, and the connection was lost with the old one")]
struct Moved;

async fn secure(
    tcp: MeteredTcp,
    tls: &ClientTls,
    address: SocketAddr,
) -> Result<tokio_rustls::client::TlsStream<MeteredTcp>, ConnectError> {
    let stream = TlsConnector::from(tls.http2.clone())
        .connect(tls.server_name.clone(), tcp)
        .await
        .map_err(|error| tls_failure(address, error))?;
    if stream.get_ref().1.alpn_protocol() != Some(&Protocol::H2.alpn()) {
        return Err(ConnectError::Closed {
            address,
            protocol: Protocol::H2,
            source: Arc::new(NotNegotiated),
        });
    }
    Ok(stream)
}

#[derive(Debug, thiserror::Error)]
#[error("the server did not agree on HTTP/2")]
struct NotNegotiated;

fn tls_failure(address: SocketAddr, error: io::Error) -> ConnectError {
    use rustls::{AlertDescription, Error::AlertReceived};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        // The server is well, it just does not speak the protocol.
        Some(AlertReceived(AlertDescription::NoApplicationProtocol)) | None => {
            ConnectError::from_io(address, Protocol::H2, error)
        }
        Some(inner) => TlsError::new(inner.clone()).into(),
    }
}

/// Makes the kernel give up on data that the peer does not acknowledge: HTTP/2 pings only guard
/// calls that last, and a call that was abandoned early would leave a dead connection in place for
/// the quarter of an hour that TCP tries by default.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_silence(tcp: &TcpStream, target: &Target) {
    // Without it, pings still guard the calls in flight.
    let _ = SockRef::from(tcp).set_tcp_user_timeout(Some(target.keep_alive * 3));
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_silence(_: &TcpStream, _: &Target) {}

/// Sorts an error of an HTTP/2 call.
fn call_error(error: hyper::Error) -> CallError {
    let mut source: Option<&(dyn Error + 'static)> = Some(&error);
    let mut reset = None;
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            reset = h2.is_reset().then(|| h2.reason()).flatten();
            break;
        }
        source = cause.source();
    }
    match reset {
        Some(reason) => CallError::Reset {
            code: grpc_code(reason),
            source: Arc::new(error),
        },
        None => CallError::Interrupted {
            protocol: Protocol::H2,
            source: Arc::new(error),
        },
    }
}

/// The gRPC code for an HTTP/2 error code, as the gRPC specification maps them.
fn grpc_code(reason: Reason) -> Code {
    match reason {
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}
