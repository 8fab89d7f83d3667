//! Sends images that wait, one after the other, while the cloud takes them.

use std::time::Duration;

use bytes::Bytes;
use outpost_cascade::Mode;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Entry, Queue};
use crate::{in_charge::InCharge, metrics::Metrics};

/// Pauses after an attempt in vain: the first, and the longest. An image that the cloud answers meanwhile ends a pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

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
            let is_sent = self.agent.get().engine().deciding().mode() != Mode::DeviceOnly;
            // Asked for even where nothing is sent: what is too old ends then.
            let waiting = self.queue.next().await.filter(|_| is_sent);
            let Some((entry, image)) = waiting else {
                let _ = timeout(longest, self.queue.news.notified()).await;
                continue;
            };
            if self.send(entry, image).await {
                pause = first;
                continue;
            }
            let _ = timeout(pause, self.queue.news.notified()).await;
            pause = (2 * pause).min(longest);
        }
    }

    /// Asks about one image; gives whether the next may be asked about at once.
    async fn send(&self, entry: Entry, image: Bytes) -> bool {
        let asked = self.agent.get().ask(&entry, image).await;
        match asked {
            Ok(record) => {
                self.metrics.corrected(&entry.record, &record);
                self.queue.finish(entry, Some(record)).await;
                true
            }
            Err(cause) if cause.may_pass() => false,
            Err(cause) => {
                tracing::warn!(id = %entry.id, %cause, "the cloud does not take an image that waited: what the device said holds");
                self.queue.finish(entry, None).await;
                true
            }
        }
    }
}
