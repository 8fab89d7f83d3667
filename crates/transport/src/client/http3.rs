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
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;

use super::{
    config::Target,
    connect::Failure,
    local_address::LocalAddress,
    refusal::{any_local, refusal},
    trust::ClientTls,
};
use crate::{
    Protocol, WireMeter,
    error::{CallError, ConnectError, TlsError},
    http3_body::{IncomingBody, call_error, send_body},
    quic::{self, Opener},
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
    /// Set once the connection takes no more calls.
    retired: Arc<AtomicBool>,
}

impl Http3 {
    pub(super) async fn connect(
        target: &Target,
        tls: &ClientTls,
        address: SocketAddr,
        wire: &WireMeter,
    ) -> Result<Self, ConnectError> {
        let closed = |source| ConnectError::Closed {
            address,
            protocol: Protocol::H3,
            source,
        };
        let (config, verdict) = tls.attempt(Protocol::H3);
        let crypto = QuicClientConfig::try_from(config)
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
        let connection = tokio::select! {
            biased;
            result = connecting => result.map_err(|error| match verdict.take() {
                Some(error) => error.into(),
                None => match refused(&error) {
                    Some(refused) => refused.into(),
                    None => closed(Arc::new(error)),
                },
            })?,
            error = refusal(address, wire) => return Err(error),
        };
        let (mut driver, sender) = h3::client::builder()
            .max_field_section_size(MAX_HEADER_BYTES)
            .send_grease(false)
            .build(quic::Connection::client(
                connection.clone(),
                MAX_HEADER_BYTES,
            ))
            .await
            .map_err(
                |error| match connection.close_reason().as_ref().and_then(refused) {
                    Some(refused) => refused.into(),
                    None => closed(Arc::new(error)),
                },
            )?;
        // Ends with the connection, which ends with its last sender.
        tokio::spawn(async move {
            let error = poll_fn(|cx| driver.poll_close(cx)).await;
            tracing::debug!(%address, %error, "HTTP/3 connection ended");
        });
        Ok(Self {
            sender,
            connection,
            endpoint,
            local: Arc::new(LocalAddress::towards(address)),
            wire: wire.clone(),
            retired: Arc::default(),
        })
    }

    pub(super) fn is_usable(&self) -> bool {
        self.connection.close_reason().is_none() && !self.retired.load(Ordering::Relaxed)
    }

    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        self.move_along();
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
            error = self.gone_silent() => return Err(Failure::Failed(error)),
            never = self.follow_address() => match never {},
        };
        // The connection would close under the body if the channel were dropped first.
        let keep = (upload, self.clone());
        Ok(response
            .map(|()| Body::new(IncomingBody::new(receive, Code::H3_REQUEST_CANCELLED, keep))))
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
