//! The listener: one port, both protocols, an orderly end.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures::future::OptionFuture;
use socket2::SockRef;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{
    http3::Http3Server,
    places::{PlaceLimits, Places},
    tcp::TcpServer,
    tls::{ClientAuthentication, Secured, ServerTls, TlsHandle},
    web::{Web, WebConfig},
};
use crate::{Congestion, Protocol, UnavailableCongestion, settings};

/// How long a peer may take over a TLS handshake or over the headers of a call: many round trips of
/// the slowest link, and short enough that idlers do not pile up.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a pair of ports is tried for where the system chooses: the UDP port of the number that
/// TCP got may be taken.
const PORT_ATTEMPTS: usize = 16;

/// Where to listen, and how much to allow the clients.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// The address of both protocols; with port 0 the system chooses one free for both.
    pub address: SocketAddr,
    /// The certificate and key, and whose clients are taken; None serves HTTP/2 in the clear, and no HTTP/3.
    pub tls: Option<ServerTls>,
    /// Whether to serve HTTP/3 beside HTTP/2. Default: if there is TLS.
    pub http3: bool,
    /// Calls that one connection may have in flight, over HTTP/3 32 of them at most. Default: 128.
    pub max_concurrent_calls: u32,
    /// Connections at a time, over both protocols; more are turned away. Default: 1024.
    pub max_connections: usize,
    /// Of these, connections of one address (of one network of 64 bits, for IPv6). Default: 256.
    pub max_connections_per_peer: usize,
    /// Bytes of headers that a call may have. Default: 16 KiB.
    pub max_header_bytes: u32,
    /// The longest that a call may take, its request and its answer included, whatever the client allows.
    /// Default: 2 minutes.
    pub max_call: Duration,
    /// How long a client may be silent, though asked, before its connection is given up. Default:
    /// 30 s.
    pub idle_timeout: Duration,
    /// How long a connection without a call is kept, though its client is there. Default: 1 hour.
    pub max_idle: Duration,
    /// How long calls in flight may take once the listener shuts down. Default: 10 s.
    pub drain_timeout: Duration,
    /// The algorithm that says how fast may be sent. Default: QUIC's is CUBIC, TCP's what the system has.
    pub congestion: Option<Congestion>,
    /// Paths (`/package.Service/Method`) of the calls that may run twice without harm: clients that were here before may send
    /// them over HTTP/3 before the handshake is done. All others are refused then. Default: none, and clients are not
    /// told that they may.
    ///
    /// Needs TLS that asks clients for no certificates: where it does, there are no sessions to resume.
    pub early_data: &'static [&'static str],
    /// How browsers are served, over HTTP/1.1 too. Default: they are not.
    pub web: Option<WebConfig>,
}

impl ListenerConfig {
    /// The defaults for `address`.
    pub fn new(address: SocketAddr, tls: Option<ServerTls>) -> Self {
        Self {
            address,
            http3: tls.is_some(),
            tls,
            // HTTP/2 and HTTP/3 recommend at least 100.
            max_concurrent_calls: 128,
            max_connections: 1024,
            // A site's devices often share one address.
            max_connections_per_peer: 256,
            max_header_bytes: 16 << 10,
            // A message of 16 MiB at 1.2 Mbit/s.
            max_call: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(30),
            max_idle: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(10),
            congestion: None,
            early_data: &[],
            web: None,
        }
    }
}

/// The part of a [`ListenerConfig`] that each connection needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_concurrent_calls: u32,
    pub(super) max_header_bytes: u32,
    pub(super) max_call: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) max_idle: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) congestion: Option<Congestion>,
    pub(super) max_connections: usize,
    pub(super) early_data: &'static [&'static str],
    /// Whether HTTP/1.1 is spoken beside HTTP/2.
    pub(super) with_http1: bool,
}

/// Bound sockets, ready to serve.
pub struct Listener {
    local_addr: SocketAddr,
    tcp: TcpServer,
    http3: Option<Http3Server>,
    tls: Option<TlsHandle>,
}

impl Listener {
    /// Binds TCP, and UDP on the same port if HTTP/3 is served.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn bind(config: ListenerConfig) -> Result<Self, BindError> {
        let quic_tls = match (config.http3, &config.tls) {
            (true, None) => return Err(BindError::Http3InTheClear),
            (true, Some(tls)) => Some(tls),
            (false, _) => None,
        };
        if !config.early_data.is_empty()
            && let Some(tls) = quic_tls
            && !matches!(tls.clients, ClientAuthentication::None)
        {
            return Err(BindError::EarlyDataOfCertificates);
        }
        let limits = Limits {
            max_concurrent_calls: config.max_concurrent_calls,
            max_header_bytes: config.max_header_bytes,
            max_call: config.max_call,
            idle_timeout: config.idle_timeout,
            max_idle: config.max_idle,
            drain_timeout: config.drain_timeout,
            congestion: config.congestion,
            max_connections: config.max_connections,
            early_data: config.early_data,
            with_http1: config.web.is_some(),
        };
        let places = Places::new(PlaceLimits {
            in_all: config.max_connections,
            per_peer: config.max_connections_per_peer,
        });
        let (tcp, udp) = bind_both(config.address, quic_tls.is_some()).await?;
        if let Some(congestion) = config.congestion {
            congestion.check()?;
            let set = congestion.set(SockRef::from(&tcp));
            set.map_err(|source| BindError::Address {
                address: config.address,
                protocol: Protocol::H2,
                source,
            })?;
        }
        let local_addr = tcp.local_addr().map_err(|source| BindError::Address {
            address: config.address,
            protocol: Protocol::H2,
            source,
        })?;
        let http3_port = quic_tls.map(|_| local_addr.port());
        let web = config.web.as_ref();
        let web = web.map(|web| Arc::new(Web::new(web, http3_port)));
        let tls = config.tls.as_ref().map(|tls| TlsHandle::new(tls, limits));
        let http3 = match (quic_tls, &tls, udp) {
            (Some(server), Some(handle), Some(udp)) => {
                let secured = handle.subscribe();
                let endpoint = endpoint(udp, server, &secured.borrow());
                Some(Http3Server {
                    endpoint: endpoint.map_err(|source| BindError::Address {
                        address: local_addr,
                        protocol: Protocol::H3,
                        source,
                    })?,
                    tls: secured,
                    limits,
                    places: places.clone(),
                    web: web.clone(),
                })
            }
            _ => None,
        };
        let tcp = TcpServer {
            listener: tcp,
            tls: tls.as_ref().map(TlsHandle::subscribe),
            limits,
            places,
            web,
        };
        Ok(Self {
            local_addr,
            tcp,
            http3,
            tls,
        })
    }

    /// Changes the TLS of new connections, also while the listener serves; None without TLS.
    pub fn tls(&self) -> Option<TlsHandle> {
        self.tls.clone()
    }

    /// The address of both protocols.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves `routes` over both protocols until `shutdown` ends.
    ///
    /// Then no more connections and calls are accepted; those accepted are answered, for as long as
    /// the drain timeout allows. If the returned future is dropped, everything stops at once.
    pub async fn serve(
        self,
        routes: Routes,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let routes = routes.prepare();
        let stop = CancellationToken::new();
        let tcp = self.tcp.serve(routes.clone(), stop.clone());
        let http3 = OptionFuture::from(self.http3.map(|http3| http3.serve(routes, stop.clone())));
        let http3 = async {
            let result = http3.await.unwrap_or(Ok(()));
            if result.is_err() {
                // Half a service is none: the other half drains and the caller hears of it.
                stop.cancel();
            }
            result
        };
        let both = async { tokio::join!(tcp, http3).1 };
        let mut both = pin!(both);
        tokio::select! {
            biased;
            result = &mut both => result,
            () = shutdown => {
                stop.cancel();
                both.await
            }
        }
    }
}

async fn bind_both(
    address: SocketAddr,
    with_udp: bool,
) -> Result<(TcpListener, Option<std::net::UdpSocket>), BindError> {
    let failed = |protocol, source| BindError::Address {
        address,
        protocol,
        source,
    };
    let mut attempt = 1;
    loop {
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|error| failed(Protocol::H2, error))?;
        if !with_udp {
            return Ok((tcp, None));
        }
        let bound = tcp.local_addr().and_then(settings::bind);
        match bound {
            Ok(udp) => return Ok((tcp, Some(udp))),
            Err(error)
                if address.port() == 0
                    && attempt < PORT_ATTEMPTS
                    && error.kind() == io::ErrorKind::AddrInUse =>
            {
                attempt += 1;
            }
            Err(error) => return Err(failed(Protocol::H3, error)),
        }
    }
}

fn endpoint(
    socket: std::net::UdpSocket,
    tls: &ServerTls,
    secured: &Secured,
) -> io::Result<quinn::Endpoint> {
    let endpoint = tls.identity.quic_endpoint_config();
    let runtime = Arc::new(quinn::TokioRuntime);
    let server = quinn::ServerConfig::clone(&secured.http3.config);
    quinn::Endpoint::new(endpoint, Some(server), socket, runtime)
}

/// Waits for the connections to end, and ends them itself after `limit`.
pub(super) async fn drain(mut connections: JoinSet<()>, limit: Duration) {
    let ended = timeout(limit, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "cut off: calls were still in flight after the drain timeout"
        );
        connections.shutdown().await;
    }
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address is taken, or not this machine's, or not allowed.
    #[error(
        "cannot listen at {address} for {protocol}; choose an address of this machine and a free port"
    )]
    Address {
        /// The address that was asked for.
        address: SocketAddr,
        /// H2 for TCP, H3 for UDP.
        protocol: Protocol,
        /// What the operating system said.
        source: io::Error,
    },
    /// The system's TCP cannot go by the congestion control.
    #[error(transparent)]
    Congestion(#[from] UnavailableCongestion),
    /// HTTP/3 was asked for without a certificate.
    #[error("HTTP/3 needs TLS; give a certificate and key, or turn HTTP/3 off")]
    Http3InTheClear,
    /// Early data was asked for beside certificates of clients, which resume no sessions.
    #[error(
        "early data needs sessions, and there are none where clients show certificates; turn it off, or ask for none"
    )]
    EarlyDataOfCertificates,
}

/// Why a listener stopped serving.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The UDP socket failed for good.
    #[error("the UDP socket was lost; see the log, then start the service again")]
    UdpSocket,
}
