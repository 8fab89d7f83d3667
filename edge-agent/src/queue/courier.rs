//! Sends images that wait, one after the other, while the cloud takes them.

use std::time::Duration;

use bytes::Bytes;
use outpost_cascade::FallbackCause;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Entry, Queue};
use crate::{in_charge::InCharge, metrics::Metrics};

/// Pauses after an attempt in vain: the first, and the longest. Where nobody was there, an image that the cloud answers
/// meanwhile ends a pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Pause where an open circuit refused an attempt: that costs nothing but a question to the peer, at the circuit's pace, and
/// the attempt after its answer goes through.
const REFUSED: Duration = Duration::from_secs(1);

/// Sends images until `ending`. What is under way then stays for the next start.
pub(crate) async fn carry(
    queue: Queue,
    agent: InCharge,
    metrics: Metrics,
    ending: CancellationToken,
) {
    let courier = Courier {
        queue,
        agent,
        metrics,
    };
    let _ = ending.run_until_cancelled(courier.run()).await;
}

struct Courier {
    queue: Queue,
    agent: InCharge,
    metrics: Metrics,
}

impl Courier {
    async fn run(&self) {
        let (first, longest) = PAUSES;
        let mut pause = first;
        loop {
            let is_sent = self.agent.get().engine().deciding().mode().offloads();
            // Asked for even where nothing is sent: what is too old ends then.
            let waiting = self.queue.next().await.filter(|_| is_sent);
            let Some((entry, image)) = waiting else {
                let _ = timeout(longest, self.queue.news.notified()).await;
                continue;
            };
            match self.send(entry, image).await {
                Sent::Over => {
                    pause = first;
                    continue;
                }
                Sent::Refused => {
                    pause = first;
                    let _ = timeout(REFUSED, self.queue.back.notified()).await;
                    continue;
                }
                Sent::ToNobody => {
                    let back = timeout(pause, self.queue.back.notified()).await;
                    if back.is_ok() {
                        // It says nothing about the next attempt that this one came to nothing.
                        pause = first;
                        continue;
                    }
                }
                // That the cloud answers others is no reason to send this one again.
                Sent::InVain => sleep(pause).await,
            }
            pause = (2 * pause).min(longest);
        }
    }

    /// Asks about one image.
    async fn send(&self, entry: Entry, image: Bytes) -> Sent {
        let asked = self.agent.get().ask(&entry, image).await;
        let cause = match asked {
            Ok(record) => {
                self.metrics.corrected(&entry.record, &record);
                self.queue.finish(entry, Some(record)).await;
                return Sent::Over;
            }
            Err(cause) => cause,
        };
        let sent = match cause {
            // Then there is nothing for any of them.
            FallbackCause::Budget if self.is_used_up() => Sent::ToNobody,
            cause => Sent::that_failed(cause, entry.attempts),
        };
        match sent {
            Sent::Over => {
                tracing::warn!(id = %entry.id, %cause, "an image that waited is not answered by the cloud: what the device said holds");
                self.queue.finish(entry, None).await;
            }
            Sent::Refused | Sent::ToNobody => {}
            Sent::InVain => self.queue.attempted(entry.id).await,
        }
        sent
    }
}

impl Courier {
    /// Whether nothing at all is left of a budget.
    fn is_used_up(&self) -> bool {
        let agent = self.agent.get();
        let mut budgets = agent.engine().peers().flat_map(|(_, peer)| peer.budgets());
        budgets.any(|budget| budget.left < 1.0)
    }
}

/// What an attempt means for its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It waits no longer.
    Over,
    /// It waits: nobody was asked, as nobody was there lately.
    Refused,
    /// It waits: nobody was there, which says nothing about it.
    ToNobody,
    /// It waits, behind others: it may be what failed, by its size or by what it does to the cloud, or its node may be.
    InVain,
}

impl Sent {
    /// After so many attempts in vain before.
    fn that_failed(cause: FallbackCause, attempts: u32) -> Self {
        match cause {
            // What the cloud takes may have changed since it said so: it is asked at the next attempt.
            FallbackCause::Unusable if attempts == 0 => Self::InVain,
            FallbackCause::CircuitOpen => Self::Refused,
            FallbackCause::Unreachable | FallbackCause::Certificate => Self::ToNobody,
            // Nobody takes images for its node, until the configuration is changed back; or a network here, which is to say
            // whether it may leave, failed.
            FallbackCause::NoCloud | FallbackCause::NetworkFailed => Self::InVain,
            cause if cause.may_pass() => Self::InVain,
            _ => Self::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_images_own_fault_ends_it_and_what_may_be_lets_others_go_first() {
        use FallbackCause as C;
        for (causes, sent) in [
            (&[C::Unsendable, C::Private][..], Sent::Over),
            (&[C::CircuitOpen], Sent::Refused),
            (&[C::Unreachable, C::Certificate], Sent::ToNobody),
            (
                &[
                    C::Rejected,
                    C::BadReply,
                    C::NoCloud,
                    C::Unavailable,
                    C::NetworkFailed,
                ],
                Sent::InVain,
            ),
            (
                &[C::Deadline, C::ConnectionLost, C::Overloaded, C::Budget],
                Sent::InVain,
            ),
        ] {
            for &cause in causes {
                assert_eq!(Sent::that_failed(cause, 0), sent, "{cause}");
            }
        }
        assert_eq!(Sent::that_failed(C::Unusable, 0), Sent::InVain);
        assert_eq!(Sent::that_failed(C::Unusable, 1), Sent::Over);
    }
}
