//! What comes of asking a peer about an image, by the deadline or later.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use outpost_cascade::FallbackCause;
use outpost_offload::{DecidedBy, Failure};
use outpost_transport::Protocol;

use super::{SentAs, Upstream, remote::Reply};
use crate::picture::Picture;

/// What came of an offload.
pub struct Offload {
    /// The reply, or why there is none.
    pub(crate) outcome: Result<Reply, FallbackCause>,
    /// Bytes of the requests that went out.
    pub bytes_sent: u64,
    /// As what the image went out; `None` where it did not.
    pub sent_as: Option<SentAs>,
    /// Time that making it ready took.
    pub encoding: Duration,
    /// The endpoint that replied, by its URL; `None` where there is only one.
    pub endpoint: Option<Arc<str>>,
    pub(super) took: Duration,
    /// Whether what went wrong is the peer's own, so that another may answer.
    pub(super) is_of_the_endpoint: bool,
}

impl Offload {
    /// What comes of an offload where nobody is configured to take it.
    pub(crate) fn without_peer() -> Self {
        Self::without_call(FallbackCause::NoCloud)
    }

    /// What comes of an offload for which nobody was called.
    pub(crate) fn without_call(cause: FallbackCause) -> Self {
        Self {
            outcome: Err(cause),
            bytes_sent: 0,
            sent_as: None,
            encoding: Duration::ZERO,
            endpoint: None,
            took: Duration::ZERO,
            is_of_the_endpoint: false,
        }
    }

    pub(super) fn of(outcome: Result<Reply, FallbackCause>, sent: &Sent, took: Duration) -> Self {
        let bytes_sent = sent.bytes.load(Ordering::Relaxed);
        let made = sent.made.get();
        Self {
            outcome,
            bytes_sent,
            sent_as: made.filter(|_| bytes_sent > 0).map(|made| made.0),
            encoding: sent.shrinking + made.map_or(Duration::ZERO, |made| made.1),
            endpoint: None,
            took: sent.shrinking + took,
            is_of_the_endpoint: false,
        }
    }

    /// The time that was neither the peer's nor that of making the image ready.
    pub fn link(&self) -> Duration {
        let elsewhere = self.at_peer().unwrap_or_default() + self.encoding;
        self.took.saturating_sub(elsewhere)
    }

    /// The time at the peer, where it told it.
    pub fn at_peer(&self) -> Option<Duration> {
        self.outcome.as_ref().ok()?.said.at_peer
    }

    /// Of that, the time in its queues, where it told it.
    pub(super) fn queued(&self) -> Option<Duration> {
        self.outcome.as_ref().ok()?.said.queued
    }

    /// Who decided, where the peer told it.
    pub(crate) fn decided_by(&self) -> Option<&DecidedBy> {
        self.outcome.as_ref().ok()?.said.decided_by.as_ref()
    }

    /// What carried the reply.
    pub fn protocol(&self) -> Option<Protocol> {
        self.outcome.as_ref().ok()?.protocol
    }
}

/// What has been sent of an image so far.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) bytes: AtomicU64,
    pub(super) made: OnceLock<(SentAs, Duration)>,
    /// Time that shrinking it took, before the call.
    shrinking: Duration,
}

impl Sent {
    /// Nothing yet.
    pub(super) fn nothing_of(picture: &Picture) -> Arc<Self> {
        Arc::new(Self {
            shrinking: picture.shrinking(),
            ..Self::default()
        })
    }
}

/// Until when a reply is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until when it can be the answer.
    pub(crate) deadline: Instant,
    /// Time from then on in which it can correct the answer; none if zero.
    pub(crate) late: Duration,
    /// Whether the deadline is shorter than usual, so that to miss it says nothing about the peer.
    pub(crate) is_short: bool,
}

/// Calls that go on after their deadline: one, or those at several endpoints.
pub(crate) struct LateCall {
    pub(super) calls: Vec<Waiting>,
    pub(super) upstream: Weak<Upstream>,
}

/// One of them.
pub(super) struct Waiting {
    pub(super) call: BoxFuture<'static, Result<Reply, Failure>>,
    pub(super) started: Instant,
    pub(super) sent: Arc<Sent>,
    pub(super) endpoint: Option<Arc<str>>,
}

impl LateCall {
    /// The offload, with the first reply that came late.
    pub(crate) async fn reply(self) -> Offload {
        let waiting = self.calls.into_iter().map(|waiting| async move {
            let outcome = waiting.call.await;
            let took = waiting.started.elapsed();
            Offload {
                endpoint: waiting.endpoint,
                ..Offload::of(outcome.map_err(|f| f.cause), &waiting.sent, took)
            }
        });
        let mut waiting: FuturesUnordered<_> = waiting.collect();
        let mut offload = Offload::without_peer();
        while let Some(next) = waiting.next().await {
            offload = next;
            if offload.outcome.is_ok() {
                break;
            }
        }
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.close_unless_asked();
        }
        offload
    }
}
