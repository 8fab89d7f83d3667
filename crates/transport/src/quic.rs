//! The `h3` crate's view of a quinn connection.
//!
//! It differs from the `h3-quinn` crate where this system would suffer:
//! - stopping a stream while a read is pending is no panic, so calls can be abandoned at any time;
//! - a server's stream is finished once the client has acknowledged all of it, so that a shutdown
//!   loses no answer;
//! - a call that is dropped is reset, where quinn would end it as though it were complete;
//! - a server learns that a client has abandoned a call, and which calls came as early data;
//! - a connection that is used before its handshake is done can be begun anew once the server has passed over what was
//!   sent ([`Stage`]);
//! - the peer's frames are bounded ([`FrameWatch`]).

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::future::OptionFuture;
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::{ConnectionError, VarInt};
use tokio::sync::watch;

use crate::frames::FrameWatch;

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send + Sync>>;
type Bidi = (quinn::SendStream, quinn::RecvStream);

/// How far a connection of a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing has come back yet: what is sent is early data.
    Early,
    /// The handshake is done, and what was sent before was taken.
    Confirmed,
    /// The handshake is done, and the server passed over what was sent before: those streams are no more, and what spoke
    /// HTTP/3 over them leaves the connection alone.
    Rejected,
}

impl Stage {
    /// Where a connection is that is used once its handshake is done.
    pub(crate) fn confirmed() -> watch::Receiver<Self> {
        watch::Sender::new(Self::Confirmed).subscribe()
    }
}

/// Waits until a connection's handshake is done and what was sent before was taken; for ever if that never comes.
pub(crate) async fn confirmed(mut stage: watch::Receiver<Stage>) {
    if stage
        .wait_for(|stage| *stage == Stage::Confirmed)
        .await
        .is_err()
    {
        std::future::pending().await
    }
}

/// A QUIC connection for `h3` to speak HTTP/3 over.
pub(crate) struct Connection {
    opener: Opener,
    accepting_bidi: Option<Boxed<Bidi>>,
    accepting_uni: Option<Boxed<quinn::RecvStream>>,
    /// Only at a server.
    abandonment: Option<Abandonment>,
}

impl Connection {
    /// A client's side; the server's frames other than DATA may hold `max_frame_bytes`.
    pub(crate) fn client(
        connection: quinn::Connection,
        stage: watch::Receiver<Stage>,
        max_frame_bytes: u64,
    ) -> Self {
        Self {
            opener: Opener {
                connection,
                stage,
                max_frame_bytes,
                opening_bidi: None,
                opening_uni: None,
            },
            accepting_bidi: None,
            accepting_uni: None,
            abandonment: None,
        }
    }

    /// A server's side, and where to learn that the client has abandoned a call.
    pub(crate) fn server(
        connection: quinn::Connection,
        max_frame_bytes: u64,
    ) -> (Self, Abandonment) {
        let abandonment = Abandonment::default();
        let mut this = Self::client(connection, Stage::confirmed(), max_frame_bytes);
        this.abandonment = Some(abandonment.clone());
        (this, abandonment)
    }
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let Opener {
            connection, stage, ..
        } = &self.opener;
        let accepting = self.accepting_uni.get_or_insert_with(|| {
            let (connection, stage) = (connection.clone(), stage.clone());
            Box::pin(async move {
                // What began too early must not take the streams of what is begun anew.
                confirmed(stage).await;
                connection.accept_uni().await
            })
        });
        let result = ready!(accepting.as_mut().poll(cx));
        self.accepting_uni = None;
        let stream = result.map_err(connection_error)?;
        let watch = FrameWatch::unidirectional(self.opener.max_frame_bytes);
        Poll::Ready(Ok(RecvStream {
            stream,
            watch,
            early: None,
        }))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        let connection = &self.opener.connection;
        let accepting = self.accepting_bidi.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.accept_bi().await })
        });
        let result = ready!(accepting.as_mut().poll(cx));
        self.accepting_bidi = None;
        let (send, recv) = result.map_err(connection_error)?;
        let finish = match &self.abandonment {
            Some(abandonment) => {
                abandonment.watch(&send, &recv);
                Finish::OnceAcknowledged(None)
            }
            None => Finish::AtOnce,
        };
        let max_frame_bytes = self.opener.max_frame_bytes;
        Poll::Ready(Ok(BidiStream::new(send, recv, finish, max_frame_bytes)))
    }

    fn opener(&self) -> Opener {
        self.opener.clone()
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

/// Opens streams on a connection.
pub(crate) struct Opener {
    connection: quinn::Connection,
    stage: watch::Receiver<Stage>,
    max_frame_bytes: u64,
    opening_bidi: Option<Boxed<Bidi>>,
    opening_uni: Option<Boxed<quinn::SendStream>>,
}

impl Clone for Opener {
    fn clone(&self) -> Self {
        Self {
            connection: self.connection.clone(),
            stage: self.stage.clone(),
            max_frame_bytes: self.max_frame_bytes,
            opening_bidi: None,
            opening_uni: None,
        }
    }
}

impl Opener {
    /// What a stream holds that is opened now, where that is before the handshake is done.
    fn early(&self) -> Option<watch::Receiver<Stage>> {
        let is_early = *self.stage.borrow() != Stage::Confirmed;
        is_early.then(|| self.stage.clone())
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.opening_bidi.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.open_bi().await })
        });
        let result = ready!(opening.as_mut().poll(cx));
        self.opening_bidi = None;
        let (send, recv) = result.map_err(stream_error)?;
        let max_frame_bytes = self.max_frame_bytes;
        let mut stream = BidiStream::new(send, recv, Finish::AtOnce, max_frame_bytes);
        stream.send.early = self.early();
        stream.recv.early = self.early();
        Poll::Ready(Ok(stream))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.opening_uni.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await })
        });
        let result = ready!(opening.as_mut().poll(cx));
        self.opening_uni = None;
        let stream = result.map_err(stream_error)?;
        let mut stream = SendStream::new(stream, Finish::AtOnce);
        stream.early = self.early();
        Poll::Ready(Ok(stream))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        if *self.stage.borrow() != Stage::Rejected {
            self.connection.close(varint(code.value()), reason);
        }
    }
}

/// Both directions of one call.
pub(crate) struct BidiStream {
    send: SendStream,
    recv: RecvStream,
}

impl BidiStream {
    fn new(
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        finish: Finish,
        max_frame_bytes: u64,
    ) -> Self {
        let mut send = SendStream::new(send, finish);
        send.reset_on_drop = true;
        Self {
            send,
            recv: RecvStream {
                stream: recv,
                watch: FrameWatch::request(max_frame_bytes),
                early: None,
            },
        }
    }
}

impl quic::BidiStream<Bytes> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

type Stopped = Pin<
    Box<dyn Future<Output = Result<Option<VarInt>, quinn::StoppedError>> + Send + Sync + 'static>,
>;

/// When a stream counts as finished.
enum Finish {
    /// Once its end is queued.
    AtOnce,
    /// Once the peer has all of it, or wants no more.
    OnceAcknowledged(Option<Stopped>),
}

/// The sending direction of a call, or a unidirectional stream.
///
/// A call's stream that is dropped before its end is reset, so that the peer never takes a part for
/// the whole; quinn alone would end it as though all were well.
pub(crate) struct SendStream {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    finish: Finish,
    reset_on_drop: bool,
    /// Shows the connection, once it was passed over, that there is the stream yet. It goes after the stream.
    early: Option<watch::Receiver<Stage>>,
}

impl SendStream {
    fn new(stream: quinn::SendStream, finish: Finish) -> Self {
        Self {
            stream,
            writing: None,
            finish,
            reset_on_drop: false,
            early: None,
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if self.reset_on_drop {
            quic::SendStream::reset(self, Code::H3_REQUEST_CANCELLED.value());
        }
    }
}

impl quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            while data.has_remaining() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk()))
                    .map_err(|error| match error {
                        quinn::WriteError::Stopped(code) => terminated(code.into_inner()),
                        quinn::WriteError::ConnectionLost(error) => stream_error(error),
                        other => StreamErrorIncoming::Unknown(Box::new(other)),
                    })?;
                data.advance(written);
            }
            self.writing = None;
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            let message = "data was sent before the stream was ready for it".to_owned();
            return Err(StreamErrorIncoming::ConnectionErrorIncoming {
                connection_error: ConnectionErrorIncoming::InternalError(message),
            });
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let unknown = |error| StreamErrorIncoming::Unknown(Box::new(error));
        self.reset_on_drop = false;
        match &mut self.finish {
            Finish::AtOnce => Poll::Ready(self.stream.finish().map_err(unknown)),
            Finish::OnceAcknowledged(stopped) => {
                if stopped.is_none() {
                    self.stream.finish().map_err(unknown)?;
                }
                let stopped = stopped.get_or_insert_with(|| Box::pin(self.stream.stopped()));
                Poll::Ready(match ready!(stopped.as_mut().poll(cx)) {
                    Ok(_) => Ok(()),
                    Err(quinn::StoppedError::ConnectionLost(error)) => Err(stream_error(error)),
                    Err(other) => Err(StreamErrorIncoming::Unknown(Box::new(other))),
                })
            }
        }
    }

    fn reset(&mut self, reset_code: u64) {
        self.reset_on_drop = false;
        // Already finished or reset is as good.
        let _ = self.stream.reset(varint(reset_code));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

/// The receiving direction of a call, or a unidirectional stream.
pub(crate) struct RecvStream {
    stream: quinn::RecvStream,
    watch: FrameWatch,
    /// As a [`SendStream`]'s.
    early: Option<watch::Receiver<Stage>>,
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        // The wake-up is registered with the stream, so the future may go at once.
        let chunk = ready!(pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx));
        let checked = match chunk {
            Ok(Some(chunk)) => self.watch.follow(&chunk.bytes).map(|()| Some(chunk.bytes)),
            Ok(None) => self.watch.end().map(|()| None),
            Err(quinn::ReadError::Reset(code)) => {
                return Poll::Ready(Err(terminated(code.into_inner())));
            }
            Err(quinn::ReadError::ConnectionLost(error)) => {
                return Poll::Ready(Err(stream_error(error)));
            }
            Err(other) => return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(other)))),
        };
        Poll::Ready(checked.map_err(|code| {
            self.stop_sending(code.value());
            terminated(code.value())
        }))
    }

    fn stop_sending(&mut self, error_code: u64) {
        // Already finished or stopped is as good.
        let _ = self.stream.stop(varint(error_code));
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

/// Tells a server when the client gives up on the call accepted last.
#[derive(Clone, Default)]
pub(crate) struct Abandonment(Arc<Mutex<LastAccepted>>);

#[derive(Default)]
struct LastAccepted {
    stopped: Option<Stopped>,
    is_early: bool,
}

impl Abandonment {
    fn watch(&self, send: &quinn::SendStream, recv: &quinn::RecvStream) {
        *self.last_accepted() = LastAccepted {
            stopped: Some(Box::pin(send.stopped())),
            is_early: recv.is_0rtt(),
        };
    }

    fn last_accepted(&self) -> MutexGuard<'_, LastAccepted> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// Whether the call accepted last came before the handshake was done, so that it may be another's copy of one.
    pub(crate) fn is_early(&self) -> bool {
        self.last_accepted().is_early
    }

    /// Ends once the client has stopped the stream of the call accepted last, or is gone.
    pub(crate) fn of_last_accepted(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.last_accepted().stopped.take();
        async move {
            // Otherwise the call was answered in full, or there is nothing to watch.
            let Some(Ok(Some(_)) | Err(_)) = OptionFuture::from(stopped).await else {
                return std::future::pending().await;
            };
        }
    }
}

fn connection_error(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => ConnectionErrorIncoming::ApplicationClose {
            error_code: close.error_code.into_inner(),
        },
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn stream_error(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming {
        connection_error: connection_error(error),
    }
}

fn terminated(error_code: u64) -> StreamErrorIncoming {
    StreamErrorIncoming::StreamTerminated { error_code }
}

fn stream_id(id: quinn::StreamId) -> StreamId {
    StreamId::try_from(u64::from(id)).expect("quinn and h3 hold to the same range of stream ids")
}

/// HTTP/3's own codes are small; a larger one can only be a caller's mistake.
fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}
