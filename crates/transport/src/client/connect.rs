//! Makes connections: resolves the name, tries every address, and chooses between the protocols.

use std::{
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{
    StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use http::{Request, Response};
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;

use super::{config::Target, early::Offer, http2::Http2, http3::Http3};
use crate::{
    Protocol, Transport, WireMeter,
    error::{CallError, ConnectError},
};

/// How far HTTP/3 is ahead of HTTP/2 in the race.
///
/// QUIC needs one round trip where TCP and TLS need two, so wherever UDP gets through it wins from
/// any start; the head start only spares the server a second handshake on paths of less than 150 ms.
/// Half of the 300 ms that falling back may take, it leaves as much again for TCP and TLS.
const HEAD_START: Duration = Duration::from_millis(150);

/// How long after one address the next is tried, as RFC 8305 recommends.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// How long HTTP/3 is left alone after it lost. A network that blocks UDP goes on doing so for as
/// long as the device is in it; a minute is soon enough to notice that it is in another.
const HTTP3_AVOIDED: Duration = Duration::from_secs(60);

/// A connection of either protocol, shared by all calls.
#[derive(Clone)]
pub(super) enum Connection {
    H2(Http2),
    H3(Http3),
}

impl Connection {
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::H2(_) => Protocol::H2,
            Self::H3(_) => Protocol::H3,
        }
    }

    /// Whether a new call may be tried on it.
    pub(super) fn is_usable(&self) -> bool {
        match self {
            Self::H2(connection) => connection.is_usable(),
            Self::H3(connection) => connection.is_usable(),
        }
    }

    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        match self {
            Self::H2(connection) => connection.call(request).await,
            Self::H3(connection) => connection.call(request).await,
        }
    }
}

/// Why a connection did not answer a call.
pub(super) enum Failure {
    /// Nothing of the request left this side, so it may go over another connection.
    NotSent {
        request: Box<Request<Body>>,
        error: CallError,
    },
    /// The service may have seen the request.
    Failed(CallError),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

/// Makes connections to one target.
pub(super) struct Connector {
    pub(super) target: Target,
    /// What counts the packets of connections to come.
    wire: Mutex<WireMeter>,
    /// HTTP/3 did not connect; until then it is not worth another try.
    http3_avoided_until: Mutex<Option<Instant>>,
}

impl Connector {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            wire: Mutex::default(),
            http3_avoided_until: Mutex::new(None),
        }
    }

    /// What counts the packets of connections.
    pub(super) fn wire(&self) -> WireMeter {
        let wire = self.wire.lock();
        wire.expect("no holder of the lock panics").clone()
    }

    /// Has another count those of connections to come.
    pub(super) fn count_with(&self, wire: WireMeter) {
        *self.wire.lock().expect("no holder of the lock panics") = wire;
    }

    /// One attempt, over within the connect timeout. What may be used before that goes on `offer`; whoever has none gets no
    /// connection but one whose other end has answered.
    pub(super) async fn connect(&self, offer: Option<&Offer>) -> Result<Connection, ConnectError> {
        let after = self.target.connect_timeout;
        match timeout(after, self.attempt(offer)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout {
                host: self.target.authority.to_string(),
                after,
            }),
        }
    }

    async fn attempt(&self, offer: Option<&Offer>) -> Result<Connection, ConnectError> {
        let addresses = self.resolve().await?;
        match self.target.transport {
            Transport::H2 => self.http2(&addresses).await,
            Transport::H3 => self.http3(&addresses, offer).await,
            Transport::Auto if self.http3_is_avoided() => {
                let result = self.http2(&addresses).await;
                if result.is_err() {
                    // Whatever was learnt no longer holds.
                    self.avoid_http3(None);
                }
                result
            }
            Transport::Auto => self.race(&addresses, offer).await,
        }
    }

    /// The addresses of the host, at least one.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let Target { host, port, .. } = &self.target;
        let unknown = |source| ConnectError::UnknownHost {
            host: host.clone(),
            source: Arc::new(source),
        };
        let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), *port))
            .await
            .map_err(unknown)?
            .collect();
        if addresses.is_empty() {
            return Err(unknown(std::io::ErrorKind::NotFound.into()));
        }
        Ok(addresses)
    }

    async fn http2(&self, addresses: &[SocketAddr]) -> Result<Connection, ConnectError> {
        let wire = self.wire();
        let dial = |address| Http2::connect(&self.target, address, &wire);
        first_ready(addresses, dial).await.map(Connection::H2)
    }

    async fn http3(
        &self,
        addresses: &[SocketAddr],
        offer: Option<&Offer>,
    ) -> Result<Connection, ConnectError> {
        let tls = self.target.tls.as_ref();
        let tls = tls.expect("a target in the clear has transport h2");
        let wire = self.wire();
        let dial = |address| Http3::connect(&self.target, tls, address, (&wire, offer));
        first_ready(addresses, dial).await.map(Connection::H3)
    }

    /// HTTP/3, or HTTP/2 where UDP does not get through.
    ///
    /// A refused certificate ends the race: it says nothing about UDP, and the other protocol would
    /// only meet it again. Early data changes nothing: the race is over once an end has answered.
    async fn race(
        &self,
        addresses: &[SocketAddr],
        offer: Option<&Offer>,
    ) -> Result<Connection, ConnectError> {
        let started = Instant::now();
        let mut http3 = pin!(self.http3(addresses, offer));
        match timeout(HEAD_START, &mut http3).await {
            Ok(Err(error)) if !matches!(error, ConnectError::Tls(_)) => {
                return self.fall_back(self.http2(addresses), &error).await;
            }
            Ok(result) => return result,
            Err(_) => {}
        }
        match select(http3, pin!(self.http2(addresses))).await {
            Either::Left((Err(error), http2)) if !matches!(error, ConnectError::Tls(_)) => {
                self.fall_back(http2, &error).await
            }
            Either::Left((result, _)) => result,
            Either::Right((Ok(connection), _)) => {
                tracing::info!("HTTP/3 does not get through, using HTTP/2");
                self.avoid_http3(Some(Instant::now() + HTTP3_AVOIDED));
                Ok(connection)
            }
            Either::Right((Err(error @ ConnectError::Tls(_)), _)) => Err(error),
            // A service over UDP alone would have answered by the time that TCP's refusal took;
            // it gets that long again, then the refusal stands.
            Either::Right((Err(error), http3)) => match timeout(started.elapsed(), http3).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(tls @ ConnectError::Tls(_))) => Err(tls),
                Ok(Err(_)) | Err(_) => Err(error),
            },
        }
    }

    async fn fall_back(
        &self,
        http2: impl Future<Output = Result<Connection, ConnectError>>,
        http3_error: &ConnectError,
    ) -> Result<Connection, ConnectError> {
        let connection = http2.await?;
        tracing::info!(error = %http3_error, "HTTP/3 did not connect, using HTTP/2");
        self.avoid_http3(Some(Instant::now() + HTTP3_AVOIDED));
        Ok(connection)
    }

    fn http3_is_avoided(&self) -> bool {
        let until = self.http3_avoided_until.lock();
        until
            .expect("no holder of the lock panics")
            .is_some_and(|until| Instant::now() < until)
    }

    fn avoid_http3(&self, until: Option<Instant>) {
        let mut slot = self.http3_avoided_until.lock();
        **slot.as_mut().expect("no holder of the lock panics") = until;
    }
}

/// Dials the addresses one after another, each a while after the one before or once that has
/// failed; the first connection wins. If all fail, the error that tells most.
async fn first_ready<T, F>(
    addresses: &[SocketAddr],
    dial: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure: Option<ConnectError> = None;
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(dial(*address));
        }
        tokio::select! {
            finished = attempts.next() => match finished {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => {
                    if failure.as_ref().is_none_or(|worst| worst.weight() < error.weight()) {
                        failure = Some(error);
                    }
                }
                None => return Err(failure.expect("there was an address, and it failed")),
            },
            () = sleep(NEXT_ADDRESS), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count)
            .map(|port| ([127, 0, 0, 1], port).into())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_does_not_hold_up_the_next() {
        let started = Instant::now();
        let addresses = addresses(2);
        let winner = first_ready(&addresses, |address| async move {
            if address.port() == 1 {
                std::future::pending::<()>().await;
            }
            Ok(address.port())
        });
        assert_eq!(winner.await.unwrap(), 2);
        assert_eq!(started.elapsed(), NEXT_ADDRESS);
    }

    #[tokio::test(start_paused = true)]
    async fn the_failure_that_tells_most_is_reported() {
        let started = Instant::now();
        let result: Result<(), _> = first_ready(&addresses(3), |address| async move {
            Err(match address.port() {
                2 => ConnectError::Timeout {
                    host: "cloud".into(),
                    after: Duration::ZERO,
                },
                _ => ConnectError::Refused { address },
            })
        })
        .await;
        assert!(matches!(result, Err(ConnectError::Timeout { .. })));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
