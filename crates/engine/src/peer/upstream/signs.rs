//! Signs of life: whether endpoints are there, and connections to them, while images may be sent.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use futures::future::join_all;
use outpost_cascade::{Change, FallbackCause};
use tokio::time::sleep;

use super::{
    super::{Offload, Over, lock, remote::RemoteNetwork},
    Upstream,
};

/// How long an endpoint that is not in use may take to say that it is there: nobody waits, and it may have to be
/// connected to first.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);

impl Upstream {
    /// From now on images may be sent to them, or none is: then they are not asked for signs of life either, and no
    /// connection is kept once calls under way are over.
    pub(crate) fn set_asked(self: &Arc<Self>, is_asked: bool) {
        let mut change = 0;
        let is_changed = self.changes.send_if_modified(|changes| {
            let is_other = is_changed_to(*changes + 1, is_asked);
            *changes += u64::from(is_other);
            change = *changes;
            is_other
        });
        match is_asked {
            _ if !is_changed => {}
            true => self.start(change),
            false => self.close(),
        }
    }

    /// Connects while networks still load, and begins to ask who is there; a failure shows at the first offload.
    fn start(self: &Arc<Self>, change: u64) {
        for peer in &self.peers {
            let (channel, mut changes) = (peer.channel(), self.changes.subscribe());
            self.spawn(async move {
                tokio::select! {
                    biased;
                    _ = changes.wait_for(|now| *now != change) => {}
                    _ = channel.connect() => {}
                }
            });
        }
        if self.peers.len() > 1 {
            self.spawn(look(Arc::downgrade(self), change));
        }
    }

    fn is_asked(&self) -> bool {
        is_changed_to(*self.changes.borrow(), true)
    }

    /// Keeps no connection.
    fn close(&self) {
        for peer in &self.peers {
            peer.channel().close();
        }
    }

    /// Keeps no connection where none is asked: one that was taken up before may have made another.
    pub(in crate::peer) fn close_unless_asked(&self) {
        if !self.is_asked() {
            self.close();
        }
    }

    /// Asks an endpoint for a sign of life where its circuit keeps an image from it, at the circuit's pace. Questions that
    /// are out when one is answered end with it.
    pub(super) fn ask_where_refused(self: &Arc<Self>, endpoint: usize, offload: &Offload) {
        let peer = &self.peers[endpoint];
        let is_refused = matches!(offload.outcome, Err(FallbackCause::CircuitOpen));
        if !is_refused || !lock(&peer.circuit).ask(peer.origin.elapsed()) {
            return;
        }
        self.counts[endpoint]
            .questions
            .fetch_add(1, Ordering::Relaxed);
        let (peer, upstream) = (peer.clone(), Arc::downgrade(self));
        // The only one has no other that would serve what it does not: its refusals tell what it lacks.
        let networks = match self.peers.len() {
            1 => Vec::new(),
            _ => self.networks(),
        };
        self.spawn(async move {
            let sign = tokio::select! {
                biased;
                () = peer.back.notified() => return,
                sign = peer.ask_for_a_sign(Over::New, &networks, HEALTH_WITHIN) => sign,
            };
            if sign.is_ok() {
                peer.back.notify_waiters();
                tracing::info!(
                    peer = &*peer.name,
                    "the peer is there: images are sent again"
                );
            }
            let Some(upstream) = upstream.upgrade() else {
                return;
            };
            upstream.close_unless_asked();
            if upstream.peers.len() > 1 {
                upstream.signed(endpoint, sign);
            }
        });
    }

    /// Asks an endpoint for a sign of life: whether it serves these networks, or with none of them whether it is there.
    async fn ask(&self, endpoint: usize, networks: &[Arc<RemoteNetwork>], within: Duration) {
        let peer = &self.peers[endpoint];
        let sign = peer.ask_for_a_sign(Over::Present, networks, within).await;
        self.signed(endpoint, sign);
        self.close_unless_asked();
    }

    /// An endpoint gave a sign of life with that round trip, or none.
    fn signed(&self, endpoint: usize, sign: Result<Duration, FallbackCause>) {
        let now = self.origin.elapsed();
        let mut state = self.state();
        let change = match sign {
            Ok(round_trip) => state.endpoints.heard(endpoint, Some(round_trip), now),
            Err(_) => state.endpoints.failed(endpoint, now),
        };
        drop(state);
        self.tell(change, sign.err());
    }

    /// Tells those who wait, and a person, that something has changed, and for what cause an endpoint was left.
    pub(super) fn tell(&self, change: Option<Change>, cause: Option<FallbackCause>) {
        self.falls.send_replace(());
        let Some(Change {
            from,
            to,
            is_failover,
        }) = change
        else {
            return;
        };
        let [from, to] = [from, to].map(|endpoint| &*self.peers[endpoint].name);
        if !is_failover {
            tracing::info!(from, to, "a better endpoint is there: it is asked");
            return;
        }
        self.failovers.fetch_add(1, Ordering::Relaxed);
        match cause {
            Some(cause @ (FallbackCause::Rejected | FallbackCause::BadReply)) => {
                tracing::warn!(from, to, %cause, "an endpoint does not serve what it is asked for: another is asked");
            }
            Some(cause) => {
                tracing::warn!(from, to, %cause, "an endpoint does not answer: another is asked");
            }
            None => tracing::warn!(from, to, "none was there, and another answers: it is asked"),
        }
    }
}

/// Whether so many changes come to that.
const fn is_changed_to(changes: u64, is_asked: bool) -> bool {
    (changes % 2 == 1) == is_asked
}

/// Asks those who are not in use whether they serve the networks, while there is an upstream and it is asked, since that change.
async fn look(upstream: Weak<Upstream>, change: u64) {
    loop {
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        if *upstream.changes.borrow() != change {
            return;
        }
        let due = upstream.state().endpoints.due(upstream.origin.elapsed());
        let networks = upstream.networks();
        let ask = |one| upstream.ask(one, &networks, HEALTH_WITHIN);
        join_all(due.into_iter().map(ask)).await;
        drop(networks);
        let slowdown = upstream.slowdown.load(Ordering::Relaxed);
        let pause = upstream.health_every.saturating_mul(slowdown);
        drop(upstream);
        sleep(pause).await;
    }
}

/// Asks an endpoint for a sign of life whenever a call at it has waited for too long, while there are calls.
pub(super) async fn watch_over(upstream: Weak<Upstream>, endpoint: usize) {
    loop {
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let (left, within) = {
            let mut state = upstream.state();
            let Some(ask_at) = state.endpoints.ask_at(endpoint) else {
                state.watched.remove(&endpoint);
                return;
            };
            let left = ask_at.saturating_sub(upstream.origin.elapsed());
            (left, state.endpoints.sign_within(endpoint))
        };
        if left.is_zero() {
            upstream.ask(endpoint, &[], within).await;
        } else {
            drop(upstream);
            sleep(left).await;
        }
    }
}
