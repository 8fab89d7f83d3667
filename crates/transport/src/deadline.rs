//! The deadline that a call carries as `grpc-timeout`, kept by both sides.
//!
//! The server tells the service ([`Deadline`] in the request's extensions) and answers
//! `DEADLINE_EXCEEDED` itself once the time is over; the client stops waiting.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status, body::Body};

use crate::error::CallError;

/// When a call's answer is due, by its `grpc-timeout` or by the listener's limit: in the extensions of every
/// request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time left; zero once it is over.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What the headers say about the time that a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeAllowed {
    pub(crate) duration: Duration,
    pub(crate) deadline: Deadline,
}

impl TimeAllowed {
    /// Reads `grpc-timeout`, counting from now; None without one, or with one past all clocks.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, MalformedTimeout> {
        let Some(value) = headers.get("grpc-timeout") else {
            return Ok(None);
        };
        let duration = parse(value).ok_or(MalformedTimeout)?;
        let deadline = Instant::now().checked_add(duration).map(Deadline);
        Ok(deadline.map(|deadline| Self { duration, deadline }))
    }

    /// The time that a call asked for, if any, but no more than `limit`.
    pub(crate) fn at_most(asked: Option<Self>, limit: Duration) -> Self {
        match asked {
            Some(asked) if asked.duration <= limit => asked,
            _ => Self {
                duration: limit,
                deadline: Deadline(Instant::now() + limit),
            },
        }
    }
}

/// A `grpc-timeout` that is not one to eight digits and a unit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed grpc-timeout: write up to eight digits and one of H, M, S, m, u, n")]
pub(crate) struct MalformedTimeout;

impl From<MalformedTimeout> for Status {
    fn from(error: MalformedTimeout) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

fn parse(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// What a body that runs out of time ends with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expiry {
    /// Trailers with `grpc-status: 4`, for a response that is being sent.
    Trailers,
    /// An error, for a response that is being received.
    Error,
}

/// A body cut off at its deadline.
pub(crate) struct DeadlineBody {
    inner: Body,
    sleep: Pin<Box<Sleep>>,
    time_allowed: TimeAllowed,
    expiry: Expiry,
}

impl DeadlineBody {
    pub(crate) fn wrap(inner: Body, time_allowed: TimeAllowed, expiry: Expiry) -> Body {
        Body::new(Self {
            inner,
            sleep: Box::pin(sleep_until(time_allowed.deadline.0)),
            time_allowed,
            expiry,
        })
    }
}

impl http_body::Body for DeadlineBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = http_body::Body::poll_frame(Pin::new(&mut this.inner), cx) {
            return Poll::Ready(frame);
        }
        if this.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // Drops what still works on the rest.
        this.inner = Body::empty();
        Poll::Ready(Some(match this.expiry {
            Expiry::Trailers => {
                let mut trailers = HeaderMap::new();
                let code = HeaderValue::from(Code::DeadlineExceeded as i32);
                trailers.insert(Status::GRPC_STATUS, code);
                Ok(Frame::trailers(trailers))
            }
            Expiry::Error => Err(Status::from(CallError::DeadlineExceeded {
                after: this.time_allowed.duration,
            })),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<Option<Duration>, MalformedTimeout> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_static(text));
        let allowed = TimeAllowed::from_headers(&headers)?;
        Ok(allowed.map(|allowed| allowed.duration))
    }

    #[tokio::test]
    async fn every_unit_is_read() {
        for (text, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("500m", Duration::from_millis(500)),
            ("60u", Duration::from_micros(60)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(text), Ok(Some(expected)));
        }
    }

    #[tokio::test]
    async fn malformed_timeouts_are_refused() {
        for text in ["", "m", "5", "5x", "-5m", "5 m", "123456789m", "5.0S"] {
            assert_eq!(read(text), Err(MalformedTimeout), "{text}");
        }
    }

    #[tokio::test]
    async fn a_call_without_a_timeout_has_no_deadline() {
        assert!(
            TimeAllowed::from_headers(&HeaderMap::new())
                .unwrap()
                .is_none()
        );
    }
}
