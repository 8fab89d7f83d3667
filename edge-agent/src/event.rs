//! What is said about images while the program runs, and who hears it.

use std::{
    collections::VecDeque,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use futures::future::join_all;
use outpost_offload::Kind;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{broadcast, mpsc};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{metrics::Metrics, record::Record};

mod sure;

use sure::Receipt;
pub(crate) use sure::SureAnnouncer;

/// What is said about an image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// The image's identifier, a UUID of version 7: later images have greater ones. A file in a folder keeps its own.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// When this was said, RFC 3339 in UTC.
    pub at: String,
    /// The input that the image came from: `api`, or the name of a folder or address.
    pub input: String,
    /// What kind of saying.
    pub kind: Kind,
    /// Whether this is the last that is said about the image. There is one such event for each.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// What came of it.
    #[serde(flatten)]
    pub record: Record,
    #[serde(skip)]
    receipt: Option<Arc<Receipt>>,
}

impl Event {
    /// An image's answer or failure, now.
    pub(crate) fn first(id: Uuid, input: &str, record: Record, is_final: bool) -> Self {
        let kind = match record {
            Record::Answered(_) => Kind::Answer,
            Record::Failed { .. } => Kind::Failure,
        };
        Self {
            is_final,
            ..Self::last(id, input, kind, record)
        }
    }

    /// What is said last about an image, now.
    pub(crate) fn last(id: Uuid, input: &str, kind: Kind, record: Record) -> Self {
        let at = OffsetDateTime::now_utc();
        Self {
            id,
            // Years of four digits have their format.
            at: at.format(&Rfc3339).unwrap_or_default(),
            input: input.to_owned(),
            kind,
            is_final: true,
            record,
            receipt: None,
        }
    }

    /// What is said last about an image, unless something else is: that what was said before holds.
    pub(crate) fn promise(id: Uuid, input: &str, record: Record) -> Self {
        Self {
            is_final: false,
            ..Self::last(id, input, Kind::Confirmation, record)
        }
    }

    /// The last event about an image: this one, or what it promises.
    pub(crate) fn or_promised(self) -> Self {
        match self.is_final {
            true => self,
            false => Self::last(self.id, &self.input, self.kind, self.record),
        }
    }

    /// Whether somebody forgets it once it is delivered.
    pub(crate) fn is_awaited(&self) -> bool {
        self.receipt.is_some()
    }

    /// Says, once an output, that there is nothing more to do for the event there: it was delivered, or is not to be. Without
    /// that it is not delivered.
    pub(crate) fn delivered(&self) {
        if let Some(receipt) = &self.receipt {
            receipt.missing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Events that a listener who comes late can still have.
const RECENT: usize = 256;

/// The way of events into an output.
#[derive(Debug)]
pub(crate) struct WayIn {
    output: &'static str,
    events: mpsc::Sender<Undelivered>,
    waiting: Gauge,
}

impl WayIn {
    /// The way into an output for which so many events may wait, and where it takes them.
    pub(crate) fn new(
        output: &'static str,
        max_waiting: usize,
        metrics: &Metrics,
    ) -> (Self, mpsc::Receiver<Undelivered>) {
        let (events, taken) = mpsc::channel(max_waiting);
        let waiting = metrics.output_waiting(output);
        let way_in = Self {
            output,
            events,
            waiting,
        };
        (way_in, taken)
    }

    /// The event, which counts as waiting for the output from now on.
    fn waits(&self, event: &Arc<Event>) -> Undelivered {
        Undelivered::new(event.clone(), &self.waiting)
    }

    /// Returns once the output has taken the event, or has ended.
    async fn send(&self, event: Undelivered) {
        // An output ends after all who speak.
        let _ = self.events.send(event).await;
    }
}

/// An event for an output, where it counts as waiting until this is dropped.
#[derive(Debug)]
pub(crate) struct Undelivered {
    event: Arc<Event>,
    waiting: Gauge,
}

impl Undelivered {
    pub(crate) fn new(event: Arc<Event>, waiting: &Gauge) -> Self {
        waiting.inc();
        Self {
            event,
            waiting: waiting.clone(),
        }
    }
}

impl Deref for Undelivered {
    type Target = Arc<Event>;

    fn deref(&self) -> &Arc<Event> {
        &self.event
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        self.waiting.dec();
    }
}

/// Brings events to outputs, which must not miss any and hold up who speaks, and to listeners, who may come, go, and
/// be too slow. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Announcer {
    outputs: Arc<[WayIn]>,
    listeners: broadcast::Sender<Said>,
    recent: Arc<Mutex<Recent>>,
    /// Tells this run of the program from others.
    run: Uuid,
}

/// An event and its number in this run, from 0. An image's events have one identifier and numbers of their own.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) number: u64,
    pub(crate) event: Arc<Event>,
}

/// The last events.
#[derive(Debug, Default)]
struct Recent {
    said: VecDeque<Said>,
    next: u64,
}

impl Announcer {
    pub(crate) fn new(outputs: impl IntoIterator<Item = WayIn>) -> Self {
        Self {
            outputs: outputs.into_iter().collect(),
            listeners: broadcast::Sender::new(RECENT),
            recent: Arc::default(),
            run: Uuid::now_v7(),
        }
    }

    /// Tells listeners of an event, and brings it to outputs; returns once every output has taken it.
    pub(crate) async fn announce(&self, event: Event) -> Arc<Event> {
        let event = self.tell(event);
        self.bring(&event).await;
        event
    }

    /// Tells listeners of an event, and brings it to outputs; returns once every output has done with it, and whether all have
    /// delivered it.
    #[cfg(test)]
    pub(crate) async fn announce_surely(&self, event: Event) -> bool {
        let (sure, mut delivered) = SureAnnouncer::new(self.clone());
        sure.announce(event);
        drop(sure);
        delivered.recv().await.is_some()
    }

    /// Brings an event that listeners were told of to outputs; returns once every one has taken it. None waits for another.
    pub(crate) async fn bring(&self, event: &Arc<Event>) {
        let outputs = self.outputs.iter();
        join_all(outputs.map(|output| output.send(output.waits(event)))).await;
    }

    /// Outputs that can take no more for now.
    pub(crate) fn full(&self) -> impl Iterator<Item = &'static str> {
        let full = |way_in: &&WayIn| way_in.events.capacity() == 0;
        self.outputs.iter().filter(full).map(|way_in| way_in.output)
    }

    /// Tells listeners of an event, which outputs are still to get.
    pub(crate) fn tell(&self, event: Event) -> Arc<Event> {
        let event = Arc::new(event);
        let mut recent = self.recent();
        let said = Said {
            number: recent.next,
            event: event.clone(),
        };
        recent.next += 1;
        if recent.said.len() == RECENT {
            recent.said.pop_front();
        }
        recent.said.push_back(said.clone());
        // Without listeners nobody hears it. Within the lock: a listener gets each event once, in order.
        let _ = self.listeners.send(said);
        event
    }

    /// The name of an event's place among all that were said.
    pub(crate) fn place(&self, said: &Said) -> String {
        format!("{}.{}", self.run.simple(), said.number)
    }

    /// The recent events after the place `last`, all where it is of another run, none where it is `None`; and those to
    /// come.
    pub(crate) fn listen(&self, last: Option<&str>) -> (Vec<Said>, broadcast::Receiver<Said>) {
        let recent = self.recent();
        let missed = match last {
            None => Vec::new(),
            Some(last) => {
                let of_this_run = last
                    .split_once('.')
                    .filter(|(run, _)| *run == self.run.simple().to_string());
                let number = of_this_run.and_then(|(_, number)| number.parse::<u64>().ok());
                let is_new = |said: &&Said| number.is_none_or(|number| said.number > number);
                recent.said.iter().filter(is_new).cloned().collect()
            }
        };
        (missed, self.listeners.subscribe())
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::record::FailureCause;

    pub(super) fn output() -> (WayIn, mpsc::Receiver<Undelivered>) {
        WayIn::new("file", 1, &Metrics::default())
    }

    pub(super) fn event() -> Event {
        let record = Record::Failed {
            image: "x".to_owned(),
            cause: FailureCause::NotAnImage,
            error: "y".to_owned(),
        };
        Event::first(Uuid::now_v7(), "api", record, true)
    }

    #[tokio::test]
    async fn a_listener_that_comes_back_gets_what_it_missed_once() {
        let announcer = Announcer::new([]);
        let (_, mut all) = announcer.listen(None);
        let first = announcer.announce(event()).await;
        let heard = announcer.place(&all.recv().await.unwrap());
        let second = announcer.announce(event()).await;
        // One that corrects the first has its identifier, and comes after the second.
        let correction = Event::last(first.id, "api", Kind::Correction, first.record.clone());
        announcer.announce(correction).await;
        let (missed, mut to_come) = announcer.listen(Some(&heard));
        let missed: Vec<Uuid> = missed.iter().map(|said| said.event.id).collect();
        assert_eq!(missed, [second.id, first.id]);
        let fourth = announcer.announce(event()).await;
        assert_eq!(to_come.recv().await.unwrap().event.id, fourth.id);
        assert!(announcer.listen(None).0.is_empty());
        // One who heard another run gets all that there is.
        for other in ["", "x.3", "0190.7"] {
            assert_eq!(announcer.listen(Some(other)).0.len(), 4);
        }
        for _ in 0..2 * RECENT {
            announcer.announce(event()).await;
        }
        assert_eq!(announcer.listen(Some(&heard)).0.len(), RECENT);
    }

    #[tokio::test]
    async fn an_output_that_takes_nothing_keeps_no_other_from_what_is_said() {
        let (stuck, _taken) = output();
        let (other, mut taken) = WayIn::new("webhook", 3, &Metrics::default());
        let announcer = Announcer::new([stuck, other]);
        announcer.announce(event()).await;
        for _ in 0..2 {
            let mut announced = Box::pin(announcer.announce(event()));
            assert!(announced.as_mut().now_or_never().is_none());
            drop(announced);
        }
        for _ in 0..3 {
            assert!(taken.try_recv().is_ok());
        }
    }

    #[tokio::test]
    async fn an_output_holds_up_who_speaks_and_no_listener() {
        let metrics = Metrics::default();
        let (output, mut taken) = WayIn::new("webhook", 1, &metrics);
        let announcer = Announcer::new([output]);
        let (_, mut heard) = announcer.listen(None);
        let waiting = || {
            let waiting = "outpost_edge_output_waiting_events{output=\"webhook\"} ";
            let text = metrics.encode();
            let waiting = text.lines().find_map(|line| line.strip_prefix(waiting));
            waiting.unwrap().parse::<u64>().unwrap()
        };
        assert_eq!((waiting(), announcer.full().count()), (0, 0));
        announcer.announce(event()).await;
        let mut second = Box::pin(announcer.announce(event()));
        assert!(second.as_mut().now_or_never().is_none());
        let (sure, _delivered) = SureAnnouncer::new(announcer.clone());
        sure.announce(event());
        assert_eq!(waiting(), 3);
        assert!(announcer.full().eq(["webhook"]));
        for number in 0..3 {
            assert_eq!(heard.try_recv().unwrap().number, number);
        }
        let first = taken.recv().await.unwrap();
        assert_eq!(waiting(), 3);
        drop(first);
        second.await;
        assert_eq!(waiting(), 2);
    }
}
