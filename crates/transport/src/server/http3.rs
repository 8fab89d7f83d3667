//! Serves HTTP/3: accepts QUIC connections and drains them at the end.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use h3::{
    error::Code,
    server::{RequestResolver, RequestStream},
};
use http::{HeaderValue, Request, Response, header};
use rustls::pki_types::CertificateDer;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};

use super::{
    calls::{Arrival, Calls},
    idle::CallCount,
    listener::{HANDSHAKE_TIMEOUT, Limits, ServeError, drain},
    peer::PeerCertificate,
    places::Places,
    tls::{Http3Secured, Secured},
    web::Web,
};
use crate::{
    Protocol,
    error::CallError,
    http3_body::{IncomingBody, call_error, send_body},
    quic,
};

/// How long the last packets may take once every connection is closed; they only tell clients what
/// their own timeouts would.
const CLOSING: Duration = Duration::from_secs(1);

/// What serves one endpoint.
pub(super) struct Http3Server {
    pub(super) endpoint: quinn::Endpoint,
    /// What new connections are secured with.
    pub(super) tls: watch::Receiver<Secured>,
    pub(super) limits: Limits,
    pub(super) places: Places,
    /// How browsers are served; None where they are not.
    pub(super) web: Option<Arc<Web>>,
}

impl Http3Server {
    /// Serves until `shutdown`, then answers what was accepted.
    pub(super) async fn serve(
        self,
        routes: Routes,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let local = self.endpoint.local_addr().ok();
        let mut tasks = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                incoming = self.endpoint.accept() => incoming.ok_or(ServeError::UdpSocket)?,
            };
            let peer = incoming.remote_address();
            // Handshakes with invented addresses must not take all the places, so once half are
            // taken a client first proves that it hears what is sent to it.
            if self.places.are_scarce(peer) && !incoming.remote_address_validated() {
                if incoming.retry().is_err() {
                    tracing::debug!(%peer, "connection turned away: it will not prove its address");
                }
                continue;
            }
            let place = match self.places.take(peer) {
                Ok(place) => place,
                Err(error) => {
                    tracing::warn!(%peer, %error, "connection turned away");
                    incoming.refuse();
                    continue;
                }
            };
            let connection = Http3Connection {
                calls: Calls {
                    routes: routes.clone(),
                    protocol: Protocol::H3,
                    local,
                    peer,
                    certificate: None,
                    max_call: self.limits.max_call,
                    early_data: self.limits.early_data,
                    web: self.web.clone(),
                },
                limits: self.limits,
                shutdown: shutdown.clone(),
            };
            let secured = self.tls.borrow().http3.clone();
            tasks.spawn(async move {
                connection.accept(incoming, secured).await;
                drop(place);
            });
        }
        // Newcomers are told at once that they are too late; their own timeouts are long.
        let turn_away = async {
            while let Some(incoming) = self.endpoint.accept().await {
                incoming.refuse();
            }
            std::future::pending().await
        };
        tokio::select! {
            () = drain(tasks, self.limits.drain_timeout) => {}
            () = turn_away => {}
        }
        self.endpoint
            .close(quinn::VarInt::from_u32(0), b"the service is shutting down");
        // Past the limit, the packets are as lost as on a bad link.
        let _ = timeout(CLOSING, self.endpoint.wait_idle()).await;
        Ok(())
    }
}

struct Http3Connection {
    calls: Calls,
    limits: Limits,
    shutdown: CancellationToken,
}

impl Http3Connection {
    async fn accept(self, incoming: quinn::Incoming, secured: Http3Secured) {
        let peer = self.calls.peer;
        let connecting = match incoming.accept_with(secured.config) {
            Ok(connecting) => connecting,
            Err(error) => {
                tracing::debug!(%peer, %error, "QUIC handshake failed");
                return;
            }
        };
        let served = match secured.takes_early_data {
            true => self.serve_early(connecting).await,
            false => self.serve_connected(connecting).await,
        };
        if let Err(error) = served
            && !error.is_h3_no_error()
        {
            tracing::debug!(%peer, %error, "HTTP/3 connection lost");
        }
    }

    /// Serves the connection once its handshake is done.
    async fn serve_connected(
        mut self,
        connecting: quinn::Connecting,
    ) -> Result<(), h3::error::ConnectionError> {
        let peer = self.calls.peer;
        let connection = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Ok(()),
            connection = timeout(HANDSHAKE_TIMEOUT, connecting) => connection,
        };
        let connection = match connection {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "QUIC handshake failed");
                return Ok(());
            }
            Err(_) => {
                tracing::debug!(%peer, "QUIC handshake timed out");
                return Ok(());
            }
        };
        let chain = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
        let chain = chain.as_deref().map(Vec::as_slice);
        self.calls.certificate = PeerCertificate::from_chain(chain).map(Into::into);
        self.serve(connection).await
    }

    /// Serves the connection from its first packets on. Clients are asked for no certificates then, so that there is none to
    /// wait for.
    async fn serve_early(
        self,
        connecting: quinn::Connecting,
    ) -> Result<(), h3::error::ConnectionError> {
        let peer = self.calls.peer;
        let (connection, done) = match connecting.into_0rtt() {
            Ok(early) => early,
            Err(connecting) => return self.serve_connected(connecting).await,
        };
        let handshake = {
            let connection = connection.clone();
            async move {
                if timeout(HANDSHAKE_TIMEOUT, done).await.is_err() {
                    tracing::debug!(%peer, "QUIC handshake timed out");
                    connection.close(quinn::VarInt::from_u32(0), b"the handshake took too long");
                }
                // What came of it, those who use the connection see.
                std::future::pending().await
            }
        };
        tokio::select! {
            served = self.serve(connection) => served,
            never = handshake => match never {},
        }
    }

    /// Serves the connection's calls; those still running when it ends are dropped with it.
    async fn serve(self, connection: quinn::Connection) -> Result<(), h3::error::ConnectionError> {
        let max_header_bytes = self.limits.max_header_bytes.into();
        let (connection, abandonment) = quic::Connection::server(connection, max_header_bytes);
        let mut connection = h3::server::builder()
            .max_field_section_size(max_header_bytes)
            .send_grease(false)
            .build(connection)
            .await?;
        let count = CallCount::new();
        let mut running = JoinSet::new();
        let mut draining = false;
        loop {
            tokio::select! {
                accepted = connection.accept() => {
                    let Some(resolver) = accepted? else { return Ok(()) };
                    let arrival = match abandonment.is_early() {
                        true => Arrival::Early,
                        false => Arrival::Connected,
                    };
                    let call = answer(self.calls.clone(), resolver, arrival);
                    let abandoned = abandonment.of_last_accepted();
                    let in_flight = count.begin();
                    running.spawn(async move {
                        let _in_flight = in_flight;
                        tokio::select! {
                            result = call => if let Err(error) = result {
                                tracing::debug!(%error, "an answer was not taken");
                            },
                            () = abandoned => {}
                        }
                    });
                }
                Some(_) = running.join_next() => {}
                () = end(&self.shutdown, &count, self.limits.max_idle), if !draining => {
                    draining = true;
                    // Names the stream after the last accepted one as the first that will not be
                    // answered, as RFC 9114 has it.
                    connection.shutdown(1).await?;
                }
            }
            // Each call lasts until its client has all of the answer, so nothing is cut off here.
            if draining && running.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Returns when a connection is to end: with its server, or because nothing was asked for long.
async fn end(shutdown: &CancellationToken, count: &CallCount, max_idle: Duration) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = count.idle_for(max_idle) => {}
    }
}

type Resolver = RequestResolver<quic::Connection, Bytes>;
type Stream = RequestStream<quic::BidiStream, Bytes>;

async fn answer(calls: Calls, resolver: Resolver, arrival: Arrival) -> Result<(), CallError> {
    let (request, stream): (Request<()>, Stream) =
        match timeout(HANDSHAKE_TIMEOUT, resolver.resolve_request()).await {
            Ok(resolved) => resolved.map_err(call_error)?,
            // A client that cannot finish its headers in this time is no loss.
            Err(_) => return Ok(()),
        };
    let (mut send, receive) = stream.split();
    // A client whose request was not read to the end did nothing wrong.
    let body = IncomingBody::new(receive, Code::H3_NO_ERROR, ());
    // A client that takes no answer has no longer than one that sends no request.
    let max_call = calls.max_call;
    let request = request.map(|()| Body::new(body));
    let response = calls.answer(request, arrival).await;
    let (mut parts, body) = response.into_parts();
    // As over HTTP/2, where hyper does it: clients see by it that their clock is wrong.
    parts.headers.entry(header::DATE).or_insert_with(|| {
        let date = httpdate::fmt_http_date(SystemTime::now());
        HeaderValue::try_from(date).expect("a date is letters, digits and signs")
    });
    let sent = async {
        send.send_response(Response::from_parts(parts, ()))
            .await
            .map_err(call_error)?;
        send_body(send, body).await
    };
    match timeout(max_call, sent).await {
        Ok(sent) => sent,
        Err(_) => Ok(()),
    }
}
