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
    /// Of the link's time, that before the request went out: connecting, and asking what the model takes.
    pub(super) before: Duration,
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
            before: Duration::ZERO,
            is_of_the_endpoint: false,
        }
    }

    /// What comes of an offload whose image was not ready by the deadline, after so long.
    pub(crate) fn not_ready(encoding: Duration) -> Self {
        Self {
            encoding,
            took: encoding,
            ..Self::without_call(FallbackCause::Deadline)
        }
    }

    pub(super) fn of(outcome: Result<Reply, FallbackCause>, sent: &Sent, took: Duration) -> Self {
        let bytes_sent = sent.bytes.load(Ordering::Relaxed);
        let made = sent.made.get();
        let encoding = made.map_or(Duration::ZERO, |made| made.1);
        let went_out = sent.went_out.get().copied().unwrap_or_default();
        Self {
            outcome,
            bytes_sent,
            sent_as: made.filter(|_| bytes_sent > 0).map(|made| made.0),
            encoding: sent.shrinking + encoding,
            endpoint: None,
            took: sent.shrinking + took,
            before: went_out.saturating_sub(encoding),
            is_of_the_endpoint: false,
        }
    }

    /// The time that was neither the peer's nor that of making the image ready.
    pub fn link(&self) -> Duration {
        let elsewhere = self.at_peer().unwrap_or_default() + self.encoding;
        self.took.saturating_sub(elsewhere)
    }

    /// Of that, the time once the request had gone out.
    pub(super) fn carried(&self) -> Duration {
        self.link().saturating_sub(self.before)
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
#[derive(Debug)]
pub(super) struct Sent {
    began: Instant,
    pub(super) bytes: AtomicU64,
    pub(super) made: OnceLock<(SentAs, Duration)>,
    /// When the first request went out, since the call began.
    went_out: OnceLock<Duration>,
    /// Time that shrinking it took, before the call.
    shrinking: Duration,
}

impl Sent {
    /// Nothing yet.
    pub(super) fn nothing_of(picture: &Picture) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            bytes: AtomicU64::new(0),
            made: OnceLock::new(),
            went_out: OnceLock::new(),
            shrinking: picture.shrinking(),
        })
    }

    /// A request goes out now.
    pub(super) fn goes_out(&self, bytes: u64) {
        let _ = self.went_out.set(self.began.elapsed());
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
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

/// What goes on after its deadline, until it is given up.
pub(crate) struct LateCall(BoxFuture<'static, Offload>);

/// A call that goes on after its deadline.
pub(super) struct Waiting {
    pub(super) call: BoxFuture<'static, Result<Reply, Failure>>,
    pub(super) started: Instant,
    pub(super) sent: Arc<Sent>,
    pub(super) endpoint: Option<Arc<str>>,
}

impl LateCall {
    /// What `offload` comes to.
    pub(crate) fn of(offload: impl Future<Output = Offload> + Send + 'static) -> Self {
        Self(Box::pin(offload))
    }

    /// The first reply of calls: one, or those at several endpoints.
    pub(super) fn of_calls(calls: Vec<Waiting>, upstream: Weak<Upstream>) -> Self {
        Self::of(async move {
            let offload = first_reply(calls).await;
            if let Some(upstream) = upstream.upgrade() {
                upstream.close_unless_asked();
            }
            offload
        })
    }

    /// The offload, with the first reply that came late.
    pub(crate) async fn reply(self) -> Offload {
        self.0.await
    }
}

async fn first_reply(calls: Vec<Waiting>) -> Offload {
    let waiting = calls.into_iter().map(|waiting| async move {
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
    offload
}
