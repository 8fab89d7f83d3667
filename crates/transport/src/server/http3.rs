//! Serves HTTP/3: accepts QUIC connections and drains them at the end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h3::{
    error::Code,
    server::{RequestResolver, RequestStream},
};
use http::{Request, Response};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};

use super::{
    calls::Calls,
    listener::{HANDSHAKE_TIMEOUT, Limits, ServeError, drain},
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
    pub(super) limits: Limits,
    pub(super) connections: Arc<Semaphore>,
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
            if self.connections.available_permits() < self.limits.max_connections / 2
                && !incoming.remote_address_validated()
            {
                if incoming.retry().is_err() {
                    tracing::debug!(%peer, "connection turned away: it will not prove its address");
                }
                continue;
            }
            let Ok(permit) = self.connections.clone().try_acquire_owned() else {
                tracing::warn!(%peer, "connection turned away: the limit is reached");
                incoming.refuse();
                continue;
            };
            let connection = Http3Connection {
                calls: Calls {
                    routes: routes.clone(),
                    protocol: Protocol::H3,
                    local,
                    peer,
                },
                limits: self.limits,
                shutdown: shutdown.clone(),
            };
            tasks.spawn(async move {
                connection.accept(incoming).await;
                drop(permit);
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
    async fn accept(self, incoming: quinn::Incoming) {
        let peer = self.calls.peer;
        let connection = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return,
            connection = timeout(HANDSHAKE_TIMEOUT, async { incoming.await }) => connection,
        };
        let connection = match connection {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "QUIC handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%peer, "QUIC handshake timed out");
                return;
            }
        };
        if let Err(error) = self.serve(connection).await
            && !error.is_h3_no_error()
        {
            tracing::debug!(%peer, %error, "HTTP/3 connection lost");
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
        let mut running = JoinSet::new();
        let mut draining = false;
        loop {
            tokio::select! {
                accepted = connection.accept() => {
                    let Some(resolver) = accepted? else { return Ok(()) };
                    let call = answer(self.calls.clone(), resolver);
                    let abandoned = abandonment.of_last_accepted();
                    running.spawn(async move {
                        tokio::select! {
                            result = call => if let Err(error) = result {
                                tracing::debug!(%error, "an answer was not taken");
                            },
                            () = abandoned => {}
                        }
                    });
                }
                Some(_) = running.join_next() => {}
                () = self.shutdown.cancelled(), if !draining => {
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

type Resolver = RequestResolver<quic::Connection, Bytes>;
type Stream = RequestStream<quic::BidiStream, Bytes>;

async fn answer(calls: Calls, resolver: Resolver) -> Result<(), CallError> {
    let (request, stream): (Request<()>, Stream) =
        match timeout(HANDSHAKE_TIMEOUT, resolver.resolve_request()).await {
            Ok(resolved) => resolved.map_err(call_error)?,
            // A client that cannot finish its headers in this time is no loss.
            Err(_) => return Ok(()),
        };
    let (mut send, receive) = stream.split();
    // A client whose request was not read to the end did nothing wrong.
    let body = IncomingBody::new(receive, Code::H3_NO_ERROR, ());
    let response = calls.answer(request.map(|()| Body::new(body))).await;
    let (parts, body) = response.into_parts();
    send.send_response(Response::from_parts(parts, ()))
        .await
        .map_err(call_error)?;
    send_body(send, body).await
}
