//! Connections on which nothing is asked any more.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// Counts the calls in flight of a connection. Clones share the count.
#[derive(Clone, Debug)]
pub(super) struct CallCount(watch::Sender<usize>);

/// A call in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(watch::Sender<usize>);

impl CallCount {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(super) fn begin(&self) -> InFlight {
        self.0.send_modify(|calls| *calls += 1);
        InFlight(self.0.clone())
    }

    /// Returns once no call was in flight for `time`.
    pub(super) async fn idle_for(&self, time: Duration) {
        let mut calls = self.0.subscribe();
        loop {
            let idle = *calls.borrow_and_update() == 0;
            let changed = calls.changed();
            if !idle {
                // The sender is in `self`.
                let _ = changed.await;
            } else if timeout(time, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_short_and_long_keep_a_connection() {
        let minute = Duration::from_secs(60);
        let calls = CallCount::new();
        let started = Instant::now();
        let asked = async {
            let long = calls.begin();
            sleep(5 * minute).await;
            drop(long);
            sleep(minute / 2).await;
            drop(calls.begin());
        };
        tokio::join!(asked, calls.idle_for(minute));
        assert_eq!(started.elapsed(), 6 * minute + minute / 2);
    }
}
