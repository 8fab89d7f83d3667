//! Message bodies over HTTP/3 streams, in both directions and for both sides.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h3::error::{Code, StreamError};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tonic::{Status, body::Body};

use crate::{
    error::{CallError, Cause},
    protocol::Protocol,
    quic,
};

/// The receiving half of a call's stream, for which `h3` has one type at each side.
pub(crate) trait Receive: Send + Unpin + 'static {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>>;

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, StreamError>>;

    fn stop(&mut self, code: Code);
}

/// The sending half of a call's stream.
pub(crate) trait Transmit: Send {
    fn data(&mut self, data: Bytes) -> impl Future<Output = Result<(), StreamError>> + Send;

    fn trailers(
        &mut self,
        trailers: HeaderMap,
    ) -> impl Future<Output = Result<(), StreamError>> + Send;

    fn end(&mut self) -> impl Future<Output = Result<(), StreamError>> + Send;

    fn reset(&mut self, code: Code);
}

macro_rules! impl_halves {
    ($side:ident) => {
        impl Receive for h3::$side::RequestStream<quic::RecvStream, Bytes> {
            fn poll_data(
                &mut self,
                cx: &mut Context<'_>,
            ) -> Poll<Result<Option<Bytes>, StreamError>> {
                let chunk = ready!(self.poll_recv_data(cx))?;
                // The chunk is `Bytes` inside, so this copies nothing.
                Poll::Ready(Ok(
                    chunk.map(|mut data| data.copy_to_bytes(data.remaining()))
                ))
            }

            fn poll_trailers(
                &mut self,
                cx: &mut Context<'_>,
            ) -> Poll<Result<Option<HeaderMap>, StreamError>> {
                self.poll_recv_trailers(cx)
            }

            fn stop(&mut self, code: Code) {
                self.stop_sending(code);
            }
        }

        impl Transmit for h3::$side::RequestStream<quic::SendStream, Bytes> {
            async fn data(&mut self, data: Bytes) -> Result<(), StreamError> {
                self.send_data(data).await
            }

            async fn trailers(&mut self, trailers: HeaderMap) -> Result<(), StreamError> {
                self.send_trailers(trailers).await
            }

            async fn end(&mut self) -> Result<(), StreamError> {
                self.finish().await
            }

            fn reset(&mut self, code: Code) {
                self.stop_stream(code);
            }
        }
    };
}

impl_halves!(client);
impl_halves!(server);

/// A body that arrives over an HTTP/3 stream.
pub(crate) struct IncomingBody<R: Receive, K> {
    stream: R,
    state: State,
    /// What the peer is told if the body is dropped before its end.
    stop_code: Code,
    /// Lives as long as the body does.
    _keep: K,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Ended,
}

impl<R: Receive, K: Send + Unpin + 'static> IncomingBody<R, K> {
    /// The rest of `stream`; `keep` is dropped with the body.
    pub(crate) fn new(stream: R, stop_code: Code, keep: K) -> Self {
        Self {
            stream,
            state: State::Data,
            stop_code,
            _keep: keep,
        }
    }
}

impl<R: Receive, K: Send + Unpin + 'static> http_body::Body for IncomingBody<R, K> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let received = match this.state {
            State::Ended => return Poll::Ready(None),
            State::Data => match ready!(this.stream.poll_data(cx)) {
                Ok(None) => {
                    this.state = State::Trailers;
                    return self.poll_frame(cx);
                }
                received => received.map(|data| data.map(Frame::data)),
            },
            State::Trailers => {
                let received = ready!(this.stream.poll_trailers(cx));
                this.state = State::Ended;
                received.map(|trailers| trailers.map(Frame::trailers))
            }
        };
        Poll::Ready(
            received
                .map_err(|error| {
                    this.state = State::Ended;
                    Status::from(call_error(error))
                })
                .transpose(),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Ended
    }
}

impl<R: Receive, K> Drop for IncomingBody<R, K> {
    fn drop(&mut self) {
        if self.state != State::Ended {
            self.stream.stop(self.stop_code);
        }
    }
}

/// Sends a whole body and ends the stream; one that is given up on the way is reset.
pub(crate) async fn send_body<T: Transmit>(mut stream: T, body: Body) -> Result<(), CallError> {
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|status| {
            stream.reset(Code::H3_INTERNAL_ERROR);
            CallError::Reset {
                code: status.code(),
                source: Arc::new(status),
            }
        })?;
        let sent = match frame.into_data() {
            Ok(data) => stream.data(data).await,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => stream.trailers(trailers).await,
                // HTTP knows no third kind of frame.
                Err(_) => Ok(()),
            },
        };
        sent.map_err(call_error)?;
    }
    stream.end().await.map_err(call_error)
}

/// Sorts an error of an HTTP/3 stream.
pub(crate) fn call_error(error: StreamError) -> CallError {
    // Braces, because the variants' fields may grow.
    let reset = match &error {
        StreamError::RemoteTerminate { code, .. } | StreamError::StreamError { code, .. } => {
            Some(grpc_code(*code))
        }
        StreamError::HeaderTooBig { .. } => {
            return CallError::HeadersTooLarge {
                source: Arc::new(error),
            };
        }
        _ => None,
    };
    let source: Cause = Arc::new(error);
    match reset {
        Some(code) => CallError::Reset { code, source },
        None => CallError::Interrupted {
            protocol: Protocol::H3,
            source,
        },
    }
}

/// The gRPC code for an HTTP/3 error code, as the gRPC-over-HTTP/3 proposal maps them.
fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::H3_REQUEST_REJECTED => tonic::Code::Unavailable,
        Code::H3_REQUEST_CANCELLED => tonic::Code::Cancelled,
        Code::H3_EXCESSIVE_LOAD => tonic::Code::ResourceExhausted,
        _ => tonic::Code::Internal,
    }
}
