//! HTTP/3 connections: QUIC, and calls over them.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use h3::{
    client::SendRequest,
    error::{Code, StreamError},
};
use http::{Request, Response};
use quinn::{
    AsyncUdpSocket, EndpointConfig, Runtime as _, TokioRuntime, crypto::rustls::QuicClientConfig,
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;

use super::{
    config::Target,
    connect::Failure,
    early::Offer,
    local_address::LocalAddress,
    refusal::{any_local, refusal},
    trust::ClientTls,
};
use crate::{
    EarlyData, Protocol, WireMeter,
    error::{CallError, ConnectError, TlsError},
    http3_body::{IncomingBody, call_error, send_body},
    quic::{self, Opener, Stage},
    settings,
    wire::MeteredUdp,
};

/// The largest headers or trailers accepted from a server. gRPC's trailers hold a status and a
/// message; its other implementations allow 8 or 16 KiB.
const MAX_HEADER_BYTES: u64 = 16 << 10;

/// How long a call hears nothing from the server at all before it asks whether the service still
/// runs. Long enough that a live but slow service, which acknowledges within tens of milliseconds, is
/// hardly ever asked.
const SILENCE: Duration = Duration::from_millis(500);

/// A connection that calls share.
#[derive(Clone)]
pub(crate) struct Http3 {
    sender: SendRequest<Opener, Bytes>,
    connection: quinn::Connection,
    /// Whose socket the connection is on.
    endpoint: quinn::Endpoint,
    /// What its packets are sent from, until that is gone.
    local: Arc<LocalAddress>,
    wire: WireMeter,
    stage: watch::Receiver<Stage>,
    /// Set once the connection takes no more calls.
    retired: Arc<AtomicBool>,
}

/// Tells a connection from others without keeping it.
pub(super) struct Identity(Arc<AtomicBool>);

/// What an attempt to connect goes by.
struct Attempt<'a> {
    tls: &'a ClientTls,
    address: SocketAddr,
    endpoint: quinn::Endpoint,
    wire: &'a WireMeter,
    /// How often a certificate had been verified when it began.
    verified: u64,
}

impl Attempt<'_> {
    /// Does the handshakes of QUIC and of HTTP/3.
    async fn complete(
        &self,
        connecting: quinn::Connecting,
        offer: Option<&Offer>,
    ) -> Result<Http3, ConnectError> {
        let (connection, accepted) = match connecting.into_0rtt() {
            Ok(early) => early,
            Err(connecting) => {
                let connection = connecting.await.map_err(|error| self.failed(&error))?;
                self.count(None);
                let (http3, _) = self.start(connection, Stage::confirmed()).await?;
                return Ok(http3);
            }
        };
        let stage = watch::Sender::new(Stage::Early);
        let (early, driver) = self.start(connection.clone(), stage.subscribe()).await?;
        if let Some(offer) = offer {
            offer.make(&early);
        }
        let is_accepted = accepted.await;
        if let Some(error) = connection.close_reason() {
            return Err(self.failed(&error));
        }
        if is_accepted {
            self.count(Some(EarlyData::Accepted));
            stage.send_replace(Stage::Confirmed);
            return Ok(early);
        }
        tracing::debug!(address = %self.address, "the server passed over early data");
        self.count(Some(EarlyData::Rejected));
        stage.send_replace(Stage::Rejected);
        driver.abort();
        if let Some(offer) = offer {
            offer.withdraw(&early);
        }
        drop(early);
        // Streams to come have the numbers of those that were passed over, and quinn wakes nobody any more for a number once
        // a stream of it is dropped: first all of those go.
        stage.closed().await;
        let (http3, _) = self.start(connection, Stage::confirmed()).await?;
        Ok(http3)
    }

    /// Begins HTTP/3 over a connection of QUIC.
    async fn start(
        &self,
        connection: quinn::Connection,
        stage: watch::Receiver<Stage>,
    ) -> Result<(Http3, AbortHandle), ConnectError> {
        let address = self.address;
        let (mut driver, sender) = h3::client::builder()
            .max_field_section_size(MAX_HEADER_BYTES)
            .send_grease(false)
            .build(quic::Connection::client(
                connection.clone(),
                stage.clone(),
                MAX_HEADER_BYTES,
            ))
            .await
            .map_err(|error| match connection.close_reason() {
                Some(reason) => self.failed(&reason),
                None => self.closed(error),
            })?;
        // Ends with the connection, which ends with its last sender.
        let driving = tokio::spawn(async move {
            let error = poll_fn(|cx| driver.poll_close(cx)).await;
            tracing::debug!(%address, %error, "HTTP/3 connection ended");
        });
        let http3 = Http3 {
            sender,
            connection,
            endpoint: self.endpoint.clone(),
            local: Arc::new(LocalAddress::towards(address)),
            wire: self.wire.clone(),
            stage,
            retired: Arc::default(),
        };
        Ok((http3, driving.abort_handle()))
    }

    /// Counts a handshake that is done, and what came of early data where it was offered.
    fn count(&self, early_data: Option<EarlyData>) {
        // Another attempt's certificate, verified meanwhile, hides that this one resumed; it is seldom that two are under way.
        let is_resumed = self.tls.verified() == self.verified;
        self.wire.connected_over_quic(is_resumed, early_data);
    }

    /// Sorts the error that ended a handshake.
    fn failed(&self, error: &quinn::ConnectionError) -> ConnectError {
        let untrusted = match error {
            quinn::ConnectionError::TransportError(error) => self.tls.refusal(&error.reason),
            _ => None,
        };
        match untrusted.or_else(|| refused(error)) {
            Some(error) => error.into(),
            None => self.closed(error.clone()),
        }
    }

    fn closed(&self, source: impl std::error::Error + Send + Sync + 'static) -> ConnectError {
        ConnectError::Closed {
            address: self.address,
            protocol: Protocol::H3,
            source: Arc::new(source),
        }
    }
}

impl Http3 {
    /// Connects; calls that may run twice can use what is on `offer` before it is known that anybody is there.
    pub(super) async fn connect(
        target: &Target,
        tls: &ClientTls,
        address: SocketAddr,
        (wire, offer): (&WireMeter, Option<&Offer>),
    ) -> Result<Self, ConnectError> {
        let closed = |source| ConnectError::Closed {
            address,
            protocol: Protocol::H3,
            source,
        };
        let tls_config = match offer {
            Some(_) if target.early_data => &tls.http3_with_early_data,
            _ => &tls.http3,
        };
        let crypto = QuicClientConfig::try_from(tls_config.clone())
            .expect("ring offers the suite of TLS 1.3 that QUIC starts with");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let transport = settings::transport_config(
            target.keep_alive * 3,
            Some(target.keep_alive),
            0,
            target.congestion,
        );
        config.transport_config(Arc::new(transport));
        // A socket of its own for each connection: a new source port also leaves behind whatever
        // state a middlebox on the path has got wrong.
        let endpoint = socket(address, wire)
            .and_then(|socket| {
                let (config, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
                quinn::Endpoint::new_with_abstract_socket(config, None, socket, runtime)
            })
            .map_err(|error| ConnectError::from_io(address, Protocol::H3, error))?;
        let connecting = endpoint
            .connect_with(config, address, &tls.server_name.to_str())
            .map_err(|error| closed(Arc::new(error)))?;
        let attempt = Attempt {
            tls,
            address,
            endpoint,
            wire,
            verified: tls.verified(),
        };
        tokio::select! {
            biased;
            result = attempt.complete(connecting, offer) => result,
            error = refusal(address, wire) => Err(error),
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.connection.close_reason().is_none() && !self.retired.load(Ordering::Relaxed)
    }

    /// What tells it from others, also from what takes its place on the same connection of QUIC.
    pub(super) fn identity(&self) -> Identity {
        Identity(self.retired.clone())
    }

    pub(super) fn is(&self, identity: &Identity) -> bool {
        Arc::ptr_eq(&self.retired, &identity.0)
    }

    /// Makes a call before the handshake is done; None once the server has passed it over.
    pub(super) async fn call_early(
        self,
        request: Request<Body>,
    ) -> Option<Result<Response<Body>, Failure>> {
        let mut stage = self.stage.clone();
        tokio::select! {
            biased;
            Ok(_) = stage.wait_for(|stage| *stage == Stage::Rejected) => None,
            answered = self.call(request) => Some(answered),
        }
    }

    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        if *self.stage.borrow() == Stage::Confirmed {
            self.move_along();
        }
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        let stream = match self.sender.clone().send_request(head).await {
            Ok(stream) => stream,
            Err(error @ StreamError::HeaderTooBig { .. }) => {
                return Err(Failure::Failed(call_error(error)));
            }
            // The server is closing the connection, or it is gone; the headers did not get out.
            Err(error) => {
                self.retired.store(true, Ordering::Relaxed);
                return Err(Failure::NotSent {
                    request: Box::new(request),
                    error: self.explain(error),
                });
            }
        };
        let (send, mut receive) = stream.split();
        // A small body goes out at once; only a large or streaming one needs a task, as the answer
        // may start before it ends.
        let mut sending = Box::pin(send_body(send, request.into_body()));
        let upload = match poll_fn(|cx| Poll::Ready(sending.poll_unpin(cx))).await {
            // A server may answer before it has heard all, and stop listening; the answer counts.
            Poll::Ready(_) => None,
            Poll::Pending => Some(AbortOnDropHandle::new(tokio::spawn(sending))),
        };
        let response = tokio::select! {
            biased;
            response = receive.recv_response() => response.map_err(|error| self.explain(error))?,
            error = self.interrupted() => return Err(Failure::Failed(error)),
        };
        // The connection would close under the body if the channel were dropped first.
        let keep = (upload, self.clone());
        Ok(response
            .map(|()| Body::new(IncomingBody::new(receive, Code::H3_REQUEST_CANCELLED, keep))))
    }

    /// Waits until the service is gone, and meanwhile follows this machine's address. Until the handshake is done the attempt
    /// to connect looks after that.
    async fn interrupted(&self) -> CallError {
        quic::confirmed(self.stage.clone()).await;
        tokio::select! {
            error = self.gone_silent() => error,
            never = self.follow_address() => match never {},
        }
    }

    /// Sorts an error of a call, with what the connection's end tells about it.
    fn explain(&self, error: StreamError) -> CallError {
        match self.connection.close_reason().as_ref().and_then(refused) {
            Some(refused) => CallError::Connect(refused.into()),
            None => call_error(error),
        }
    }

    /// Goes on from another address of this machine where the one before is gone, while a call waits. The server, which
    /// knows the connection by its identifier, answers there.
    async fn follow_address(&self) -> Infallible {
        loop {
            self.local.replaced().await;
            self.move_along();
        }
    }

    fn move_along(&self) {
        if !self.local.replace() {
            return;
        }
        match self.rebind() {
            Ok(()) => {
                tracing::info!("this machine's address changed: HTTP/3 goes on from the new one")
            }
            Err(error) => tracing::debug!(%error, "no socket for this machine's new address"),
        }
    }

    /// Takes another socket, and tells the server at once.
    pub(crate) fn rebind(&self) -> io::Result<()> {
        let socket = socket(self.connection.remote_address(), &self.wire)?;
        self.endpoint.rebind_abstract(socket)
    }

    #[cfg(test)]
    pub(crate) fn local_port(&self) -> u16 {
        self.endpoint.local_addr().unwrap().port()
    }

    #[cfg(test)]
    pub(crate) fn connection_id(&self) -> usize {
        self.connection.stable_id()
    }

    /// Waits until the server is silent and its host says that the service no longer runs.
    ///
    /// QUIC alone would notice a killed service only by its idle timeout.
    async fn gone_silent(&self) -> CallError {
        let address = self.connection.remote_address();
        let mut heard = 0;
        loop {
            let datagrams = self.connection.stats().udp_rx.datagrams;
            if datagrams != heard {
                heard = datagrams;
                sleep(SILENCE).await;
            } else if let Ok(error) = timeout(SILENCE, refusal(address, &self.wire)).await {
                self.connection
                    .close(quinn::VarInt::from_u32(0), b"the service is gone");
                return CallError::Interrupted {
                    protocol: Protocol::H3,
                    source: Arc::new(error),
                };
            }
        }
    }
}

/// A socket of its own for connections to `peer`, whose datagrams `wire` counts.
fn socket(peer: SocketAddr, wire: &WireMeter) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let socket = TokioRuntime.wrap_udp_socket(settings::bind(any_local(peer))?)?;
    Ok(Arc::new(MeteredUdp::new(socket, wire.clone())))
}

/// What the server said about this client's certificate when it closed the connection, if it did.
fn refused(error: &quinn::ConnectionError) -> Option<TlsError> {
    let quinn::ConnectionError::ConnectionClosed(close) = error else {
        return None;
    };
    // RFC 9001: 0x100 and the alert's number.
    let alert = u64::from(close.error_code).checked_sub(0x100)?;
    TlsError::of_alert(u8::try_from(alert).ok()?.into())
}
