//! How long deliveries are tried: always while the program runs, and a little beyond.

use std::{future::Future, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::event::{Event, Undelivered};

/// How long an event is still tried once the program is to end.
const BEYOND_THE_END: Duration = Duration::from_secs(10);

/// Waits for deliveries over the network. Clones share it.
///
/// An event that cannot be delivered holds up the others. Once the program is to end, the first that is still not
/// delivered after some seconds goes to the log, and so do all after it that are not taken at once.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    ending: CancellationToken,
    given_up: CancellationToken,
}

impl Patience {
    pub(super) fn new(ending: CancellationToken) -> Self {
        Self {
            ending,
            given_up: CancellationToken::new(),
        }
    }

    /// Waits until an event is delivered, or given up.
    pub(super) async fn deliver(&self, event: Undelivered, delivery: impl Future<Output = ()>) {
        let out_of_time = async {
            self.ending.cancelled().await;
            sleep(BEYOND_THE_END).await;
        };
        tokio::select! {
            biased;
            () = delivery => return event.delivered(),
            () = self.given_up.cancelled() => {}
            () = out_of_time => self.given_up.cancel(),
        }
        tracing::error!(
            line = String::from_utf8_lossy(&body(&event)).into_owned(),
            "could not be delivered before the end"
        );
    }
}

/// An event as the JSON that is sent.
pub(super) fn body(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("an event has no keys but strings")
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::Arc,
    };

    use super::*;
    use crate::{
        event::{Announcer, WayIn},
        metrics::Metrics,
        record::{FailureCause, Record},
    };

    fn event() -> Event {
        let record = Record::Failed {
            image: "x".to_owned(),
            cause: FailureCause::NotAnImage,
            error: "y".to_owned(),
        };
        Event::first(uuid::Uuid::nil(), "api", record, true)
    }

    fn undelivered() -> Undelivered {
        let waiting = Metrics::default().output_waiting("webhook");
        Undelivered::new(Arc::new(event()), &waiting)
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_waited_for_until_some_time_after_the_end_and_then_none_is() {
        let ending = CancellationToken::new();
        let patience = Patience::new(ending.clone());
        let day = Duration::from_secs(24 * 3600);
        let waiting = patience.deliver(undelivered(), sleep(day));
        tokio::time::timeout(2 * day, waiting).await.unwrap();
        let begun = tokio::time::Instant::now();
        ending.cancel();
        patience
            .deliver(undelivered(), sleep(BEYOND_THE_END / 2))
            .await;
        assert_eq!(begun.elapsed(), BEYOND_THE_END / 2);
        patience.deliver(undelivered(), pending()).await;
        assert_eq!(begun.elapsed(), BEYOND_THE_END * 3 / 2);
        patience.deliver(undelivered(), pending()).await;
        assert_eq!(begun.elapsed(), BEYOND_THE_END * 3 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_is_given_up_is_not_delivered() {
        let (output, mut taken) = WayIn::new("webhook", 1, &Metrics::default());
        let announcer = Announcer::new([output]);
        let ending = CancellationToken::new();
        let patience = Patience::new(ending.clone());
        ending.cancel();
        for is_taken in [true, false] {
            let output = async {
                let event = taken.recv().await.unwrap();
                match is_taken {
                    true => patience.deliver(event, ready(())).await,
                    false => patience.deliver(event, pending()).await,
                }
            };
            let (is_delivered, ()) = tokio::join!(announcer.announce_surely(event()), output);
            assert_eq!(is_delivered, is_taken);
        }
    }
}
