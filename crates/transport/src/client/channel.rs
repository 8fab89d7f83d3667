//! The channel: one service, reached through whatever connection there is.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body};

use super::{
    ClientConfig, ConfigError,
    config::Target,
    connect::{Connection, Connector, Failure},
    early::{self, Offer, Offered},
    http3::Http3,
};
use crate::{
    CertificateFacts, EarlyData, Idempotent, Protocol, WireMeter,
    deadline::{DeadlineBody, Expiry, TimeAllowed},
    error::{CallError, ConnectError},
};

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("outpost-transport/", env!("CARGO_PKG_VERSION")));

/// A service at the far end of a connection, for a generated client to call.
///
/// Clones share the connection. It is made by the first call or by [`connect`](Self::connect),
/// and made again by the first call after it died. Every response carries the [`Protocol`] that it
/// came over in its extensions, and [`EarlyData`] where its request went out before there was a
/// connection; every [`Status`] that the transport itself gives has a [`CallError`] among its sources.
#[derive(Clone)]
pub struct Channel {
    state: Arc<State>,
}

struct State {
    connector: Arc<Connector>,
    slot: Mutex<Numbered>,
    calls: Mutex<Calls>,
}

/// Calls that are under way, and when there was one last.
struct Calls {
    under_way: usize,
    latest: Instant,
}

/// A call, until its answer has begun.
struct Calling<'a>(&'a State);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        let mut calls = self.0.calls();
        calls.under_way -= 1;
        calls.latest = Instant::now();
    }
}

/// What there is of a connection, and how often that was changed: an attempt that ends after another took its place
/// changes nothing.
struct Numbered {
    slot: Slot,
    number: u64,
}

impl Numbered {
    fn put(&mut self, slot: Slot) {
        self.slot = slot;
        self.number += 1;
    }
}

enum Slot {
    Idle,
    Connecting(Attempt, Offered),
    Ready(Connection),
}

/// A connection of which nothing has come back yet, and the attempt that it is of.
type Early = (Http3, Attempt);

/// One attempt to connect, for all that wait for it. It goes on if they stop waiting, and ends with
/// the channel.
type Attempt = Shared<BoxFuture<'static, Result<Connection, ConnectError>>>;

impl Channel {
    /// A channel to the service that `config` names; it connects when first used.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let connector = Connector::new(Target::new(config)?);
        Ok(Self {
            state: Arc::new(State {
                connector: Arc::new(connector),
                slot: Mutex::new(Numbered {
                    slot: Slot::Idle,
                    number: 0,
                }),
                calls: Mutex::new(Calls {
                    under_way: 0,
                    latest: Instant::now(),
                }),
            }),
        })
    }

    /// Connects, unless there is a connection already; the protocol that it speaks.
    ///
    /// Callers at the same time share one attempt.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as do calls.
    pub async fn connect(&self) -> Result<Protocol, ConnectError> {
        self.connection()
            .await
            .map(|connection| connection.protocol())
    }

    /// Waits until an [`Idempotent`] call can go out: over a connection, or as early data of one that is being made, of which
    /// nothing is known yet.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn reach(&self) -> Result<(), ConnectError> {
        self.early().await.map(drop)
    }

    /// Connects anew, whatever connection there is, and makes calls over the new one from then on: the present one may be
    /// dead without a sign of it. Those under way end over the old one.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn renew(&self) -> Result<Protocol, ConnectError> {
        let connection = self.state.connector.connect(None).await?;
        let protocol = connection.protocol();
        let mut slot = self.state.slot();
        self.state.use_from_now_on(&mut slot, connection);
        Ok(protocol)
    }

    /// Makes no more calls over the connection that there is: the next one connects.
    pub fn retire(&self) {
        let mut slot = self.state.slot();
        if let Slot::Ready(_) = slot.slot {
            slot.put(Slot::Idle);
        }
    }

    /// Keeps no connection, nor one that is being made: the next call connects. Calls under way end over theirs.
    pub fn close(&self) {
        let mut slot = self.state.slot();
        if !matches!(slot.slot, Slot::Idle) {
            slot.put(Slot::Idle);
        }
    }

    /// The connection, where it is one over HTTP/3.
    #[cfg(test)]
    pub(crate) fn http3(&self) -> Option<super::http3::Http3> {
        match &self.state.slot().slot {
            Slot::Ready(Connection::H3(connection)) => Some(connection.clone()),
            _ => None,
        }
    }

    /// What counts the packets of the channel's connections, handshakes and those that came to nothing included.
    pub fn wire(&self) -> WireMeter {
        self.state.connector.wire()
    }

    /// Has `wire` count the packets of connections to come, as where the channel takes the place of another.
    pub fn count_with(&self, wire: WireMeter) {
        self.state.connector.count_with(wire);
    }

    /// The protocol of the connection, if there is one.
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.state.slot().slot {
            Slot::Ready(connection) if connection.is_usable() => Some(connection.protocol()),
            _ => None,
        }
    }

    /// What the certificate says that the server showed last, whether it was believed or not; `None` where none was shown.
    pub fn server_certificate(&self) -> Option<CertificateFacts> {
        self.state.connector.target.tls.as_ref()?.shown()
    }

    /// The largest message to accept: give it to the generated client, which enforces it.
    pub fn max_message_bytes(&self) -> usize {
        self.state.connector.target.max_message_bytes
    }

    async fn connection(&self) -> Result<Connection, ConnectError> {
        match self.present() {
            Ok(connection) => Ok(connection),
            Err((attempt, _)) => attempt.await,
        }
    }

    /// Waits for a connection, or sooner gives one that is being made and that calls which may run twice can use already.
    async fn early(&self) -> Result<Option<Early>, ConnectError> {
        let (attempt, offered) = match self.present() {
            Ok(_) => return Ok(None),
            Err(connecting) => connecting,
        };
        tokio::select! {
            biased;
            result = attempt.clone() => result.map(|_| None),
            early = offered.taken() => Ok(Some((early, attempt))),
        }
    }

    /// The connection that there is, or else an attempt to make one.
    fn present(&self) -> Result<Connection, (Attempt, Offered)> {
        let mut slot = self.state.slot();
        match &slot.slot {
            Slot::Ready(connection) if connection.is_usable() => Ok(connection.clone()),
            Slot::Connecting(attempt, offered) => Err((attempt.clone(), offered.clone())),
            Slot::Ready(_) | Slot::Idle => {
                let (offer, offered) = early::offer();
                let attempt = self.start_connecting(slot.number + 1, offer);
                slot.put(Slot::Connecting(attempt.clone(), offered.clone()));
                Err((attempt, offered))
            }
        }
    }

    fn start_connecting(&self, number: u64, offer: Offer) -> Attempt {
        let connector = self.state.connector.clone();
        let state = Arc::downgrade(&self.state);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let result = connector.connect(Some(&offer)).await;
            // The task itself settles the slot, so that it is right even if nobody waits any more.
            if let Some(state) = state.upgrade() {
                let mut slot = state.slot();
                if slot.number == number {
                    match &result {
                        Ok(connection) => state.use_from_now_on(&mut slot, connection.clone()),
                        Err(_) => slot.put(Slot::Idle),
                    }
                }
            }
            result
        }));
        outcome(task).boxed().shared()
    }

    async fn answer(self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let time_allowed = TimeAllowed::from_headers(request.headers())?;
        let _calling = self.state.calling();
        self.complete(&mut request);
        let Some(time_allowed) = time_allowed else {
            return Ok(self.send(request).await?);
        };
        match timeout_at(time_allowed.deadline.instant(), self.send(request)).await {
            Ok(response) => {
                let cut_off = |body| DeadlineBody::wrap(body, time_allowed, Expiry::Error);
                Ok(response?.map(cut_off))
            }
            Err(_) => Err(Status::from(CallError::DeadlineExceeded {
                after: time_allowed.duration,
            })),
        }
    }

    /// Adds what a generated client leaves to the channel: whom the request is for and from.
    fn complete(&self, request: &mut Request<Body>) {
        let target = &self.state.connector.target;
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(target.scheme.clone());
        uri.authority = Some(target.authority.clone());
        uri.path_and_query
            .get_or_insert(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path are there");
        let headers = request.headers_mut();
        headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
        if let Some(token) = &target.token {
            headers.insert(header::AUTHORIZATION, token.header());
        }
    }

    /// Sends the request; one that may run twice as early data, where a connection is only being made.
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let is_idempotent = request.extensions().get::<Idempotent>().is_some();
        if is_idempotent && self.state.connector.target.early_data {
            let early = self.early().await.map_err(CallError::Connect)?;
            if let Some(early) = early {
                return self.send_early(request, early).await;
            }
        }
        self.send_connected(request).await
    }

    /// Sends the request before it is known whether anybody is there, and again once that is known where it was not taken.
    async fn send_early(
        &self,
        request: Request<Body>,
        (early, attempt): Early,
    ) -> Result<Response<Body>, CallError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|status| CallError::Reset {
            code: status.code(),
            source: Arc::new(status),
        })?;
        let body = body.to_bytes();
        let request = || Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())));
        let identity = early.identity();
        // A task of its own, which lets go of what was passed over even while nobody looks after the call: the connection is
        // not begun anew before.
        let call = tokio::spawn(early.call_early(request()));
        let mut call = outcome(AbortOnDropHandle::new(call)).boxed();
        let answered = tokio::select! {
            biased;
            answered = &mut call => answered,
            connection = attempt.clone() => match connection {
                Ok(Connection::H3(connection)) if connection.is(&identity) => call.await,
                // Another one was there first, or none is.
                Ok(_) | Err(_) => None,
            },
        };
        let (mut response, early_data) = match answered {
            // What HTTP says with that status, those do who cannot tell whether a request may run twice.
            Some(Ok(response)) if response.status() != StatusCode::TOO_EARLY => {
                (understood(response, Protocol::H3)?, EarlyData::Accepted)
            }
            answered => {
                let connection = attempt.await.map_err(CallError::Connect)?;
                let is_taken =
                    matches!(connection, Connection::H3(connection) if connection.is(&identity));
                match answered {
                    Some(Err(Failure::Failed(error))) if is_taken => return Err(error),
                    _ => (self.send_connected(request()).await?, EarlyData::Rejected),
                }
            }
        };
        response.extensions_mut().insert(early_data);
        Ok(response)
    }

    /// Sends the request over the connection, or over a second one if the first turns out to have
    /// died before anything was sent.
    async fn send_connected(&self, request: Request<Body>) -> Result<Response<Body>, CallError> {
        let failure = match self.send_once(request).await {
            Err(Failure::NotSent { request, .. }) => match self.send_once(*request).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            },
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        match failure {
            Failure::NotSent { error, .. } | Failure::Failed(error) => Err(error),
        }
    }

    async fn send_once(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let connection = self.connection().await.map_err(CallError::Connect)?;
        let response = connection.call(request).await?;
        Ok(understood(response, connection.protocol())?)
    }
}

/// What comes of a task.
async fn outcome<T>(task: AbortOnDropHandle<T>) -> T {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The response of a gRPC server, with the protocol that it came over.
fn understood(
    mut response: Response<Body>,
    protocol: Protocol,
) -> Result<Response<Body>, CallError> {
    if !is_grpc(&response) {
        let status = response.status();
        return Err(CallError::NotGrpc { status });
    }
    response.extensions_mut().insert(protocol);
    Ok(response)
}

/// Retires the connection of that number once there was no call for so long; ends with it. Answers that are still read end
/// over it, and then it closes.
async fn close_once_idle(state: Weak<State>, number: u64, limit: Duration) {
    loop {
        let idle_at = {
            let Some(state) = state.upgrade() else { return };
            let mut slot = state.slot();
            if slot.number != number {
                return;
            }
            let calls = state.calls();
            let since = if calls.under_way > 0 {
                Instant::now()
            } else {
                calls.latest
            };
            if since + limit <= Instant::now() {
                slot.put(Slot::Idle);
                return;
            }
            since + limit
        };
        sleep_until(idle_at).await;
    }
}

/// Whether a gRPC server can have answered this; a proxy's own word is a page.
fn is_grpc(response: &Response<Body>) -> bool {
    let of_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    response.headers().contains_key("grpc-status")
        || response.status() == StatusCode::OK
            && response
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(of_grpc)
}

impl State {
    /// Makes calls over a connection, which is closed once there were none for as long as it may be idle.
    fn use_from_now_on(self: &Arc<Self>, slot: &mut Numbered, connection: Connection) {
        slot.put(Slot::Ready(connection));
        if let Some(limit) = self.connector.target.close_idle {
            self.calls().latest = Instant::now();
            tokio::spawn(close_once_idle(Arc::downgrade(self), slot.number, limit));
        }
    }

    fn calling(&self) -> Calling<'_> {
        self.calls().under_way += 1;
        Calling(self)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().expect("no holder of the lock panics")
    }

    fn slot(&self) -> MutexGuard<'_, Numbered> {
        self.slot.lock().expect("no holder of the lock panics")
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().answer(request).boxed()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("authority", &self.state.connector.target.authority)
            .field("transport", &self.state.connector.target.transport)
            .field("protocol", &self.protocol())
            .finish()
    }
}
