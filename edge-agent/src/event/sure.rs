//! Announces events that somebody keeps until every output has delivered them.

use std::sync::{Arc, atomic::AtomicUsize};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Announcer, Event, Undelivered};

/// Brings events to each output in order and at that output's own pace: one that takes nothing keeps no other, and no listener,
/// from hearing of them. Tells which of them all outputs have delivered.
///
/// What an output has not taken waits in memory: who speaks says how much that is.
#[derive(Debug)]
pub(crate) struct SureAnnouncer {
    announcer: Announcer,
    /// The ways to the outputs, in their order.
    ways: Vec<mpsc::UnboundedSender<Undelivered>>,
    delivered: mpsc::UnboundedSender<Uuid>,
}

/// Tells who waits for it, once no output has an event any more, that all have delivered it; nothing where not.
#[derive(Debug)]
pub(super) struct Receipt {
    /// The event's image.
    id: Uuid,
    /// Outputs that have not.
    pub(super) missing: AtomicUsize,
    delivered: mpsc::UnboundedSender<Uuid>,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if *self.missing.get_mut() == 0 {
            // Who waits may have ended.
            let _ = self.delivered.send(self.id);
        }
    }
}

impl SureAnnouncer {
    /// One, and where it says of which images the event was delivered; no more come once it is gone and each output has done
    /// with what it was brought.
    ///
    /// Must be called in a tokio runtime where there are outputs.
    pub(crate) fn new(announcer: Announcer) -> (Self, mpsc::UnboundedReceiver<Uuid>) {
        let (delivered, receipts) = mpsc::unbounded_channel();
        let ways = (0..announcer.outputs.len())
            .map(|output| {
                let (events, mut waiting) = mpsc::unbounded_channel();
                let outputs = announcer.outputs.clone();
                tokio::spawn(async move {
                    while let Some(event) = waiting.recv().await {
                        outputs[output].send(event).await;
                    }
                });
                events
            })
            .collect();
        let sure = Self {
            announcer,
            ways,
            delivered,
        };
        (sure, receipts)
    }

    /// Tells listeners of an event, and has it brought to outputs.
    pub(crate) fn announce(&self, event: Event) {
        let receipt = Receipt {
            id: event.id,
            missing: AtomicUsize::new(self.ways.len()),
            delivered: self.delivered.clone(),
        };
        let guarded = Arc::new(Event {
            receipt: Some(Arc::new(receipt)),
            ..event.clone()
        });
        self.announcer.tell(event);
        for (way, output) in self.ways.iter().zip(self.announcer.outputs.iter()) {
            // It ends after all who speak.
            let _ = way.send(output.waits(&guarded));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::event::tests::{event, output};

    #[tokio::test]
    async fn what_is_delivered_is_told_once_the_outputs_have_done() {
        let (output, mut taken) = output();
        let (sure, mut delivered) = SureAnnouncer::new(Announcer::new([output]));
        sure.announce(event());
        let event = taken.recv().await.unwrap();
        assert!(delivered.recv().now_or_never().is_none());
        event.delivered();
        assert!(delivered.recv().now_or_never().is_none());
        let id = event.id;
        drop(event);
        assert_eq!(delivered.recv().await, Some(id));
        drop(sure);
        assert_eq!(delivered.recv().await, None);
    }

    #[tokio::test]
    async fn what_one_output_drops_is_not_delivered() {
        let (output, mut taken) = output();
        let (other, mut taken_by_other) = self::output();
        let announcer = Announcer::new([output, other]);
        let outputs = async {
            taken.recv().await.unwrap().delivered();
            drop(taken_by_other.recv().await);
        };
        let (is_delivered, ()) = tokio::join!(announcer.announce_surely(event()), outputs);
        assert!(!is_delivered);
        // Nor what an output that has ended cannot take.
        drop(taken_by_other);
        let output = async { taken.recv().await.unwrap().delivered() };
        let (is_delivered, ()) = tokio::join!(announcer.announce_surely(event()), output);
        assert!(!is_delivered);
        assert!(Announcer::new([]).announce_surely(event()).await);
    }

    #[tokio::test]
    async fn an_output_that_takes_nothing_keeps_no_other_and_no_listener_waiting() {
        let (stuck, mut taken_late) = output();
        let (other, mut taken) = output();
        let announcer = Announcer::new([stuck, other]);
        let (_, mut heard) = announcer.listen(None);
        let (sure, mut delivered) = SureAnnouncer::new(announcer);
        let events: Vec<Event> = (0..20).map(|_| event()).collect();
        for event in &events {
            sure.announce(event.clone());
            assert_eq!(heard.try_recv().unwrap().event.id, event.id);
        }
        for event in &events {
            let came = taken.recv().await.unwrap();
            assert_eq!(came.id, event.id);
            came.delivered();
        }
        assert!(delivered.recv().now_or_never().is_none());
        for event in &events {
            let came = taken_late.recv().await.unwrap();
            assert_eq!(came.id, event.id);
            came.delivered();
            drop(came);
            assert_eq!(delivered.recv().await, Some(event.id));
        }
    }
}
