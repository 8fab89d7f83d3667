//! The way in: how many images are taken up at a time, and what happens to more.
//!
//! An input that can wait, such as a folder, waits for a [`Place`]. A caller of the API is counted before its image is
//! read into memory, and told to come back where too many are here already: [`Intake::caller`].
//!
//! A place is kept until the outputs have taken what was said, so that one that is away holds up the inputs. A caller has
//! its answer before that; of those that wait for a place then, none waits for longer than a while.

mod room;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::poll;
use outpost_offload::{Kind, milliseconds};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    agent::{Audit, Image, LateAnswer},
    audit::{AuditStatus, Auditor},
    event::{Announcer, Event},
    in_charge::InCharge,
    metrics::{Metrics, QueueOutcome},
    queue::{Entry, NotKept, Queue},
    record::Record,
};

pub(crate) use room::Room;

/// How long callers wait while outputs take nothing and hold all places: as long as one is asked to stay away who is told to
/// come back.
const HELD_UP: Duration = Duration::from_secs(1);

/// Takes up images and announces what came of them. Clones share it.
#[derive(Clone)]
pub(crate) struct Intake {
    agent: InCharge,
    announcer: Announcer,
    metrics: Metrics,
    bounds: Bounds,
    places: Arc<Semaphore>,
    /// Places whose image was answered, and whose event an output has not taken yet.
    held: watch::Sender<usize>,
    /// One permit a caller of the API, from before its image is read until it has its answer and the outputs have taken it.
    callers: Arc<Semaphore>,
    /// One permit a byte of theirs.
    bytes: Arc<Semaphore>,
    /// One permit a late call that may still correct an answer; as many as there are places.
    late: Arc<Semaphore>,
    /// Keeps images that find no cloud, where they are to be answered by it eventually.
    queue: Option<Queue>,
    /// Draws answers that the cloud is asked about afterwards, where some are.
    auditor: Option<Auditor>,
    /// Late calls, and audits.
    tasks: TaskTracker,
    ending: CancellationToken,
}

/// How much may come in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Images taken up at a time.
    pub(crate) places: usize,
    /// Callers that may be here at a time.
    pub(crate) callers: usize,
    /// Bytes that they may have here.
    pub(crate) bytes: usize,
}

/// The right to have one image taken up.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// The right of a caller to bring an image.
#[derive(Debug)]
pub(crate) struct Caller {
    _permit: OwnedSemaphorePermit,
    room: Arc<Room>,
}

impl Caller {
    /// Where the caller's bytes are counted, as long as the caller is here.
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }
}

/// Why a caller has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Too many callers are here already.
    Full,
    /// All callers have too many bytes here already.
    NoRoom,
    /// An output takes nothing for now, and what was said before waits for it.
    HeldUp {
        /// Which, in words.
        output: String,
    },
    /// The task ended before its time.
    Failed,
}

impl Intake {
    pub(crate) fn new(
        agent: InCharge,
        announcer: Announcer,
        metrics: Metrics,
        bounds: Bounds,
        (queue, auditor): (Option<Queue>, Option<Auditor>),
        tasks: TaskTracker,
        ending: CancellationToken,
    ) -> Self {
        Self {
            agent,
            announcer,
            metrics,
            bounds,
            places: Arc::new(Semaphore::new(bounds.places)),
            held: watch::Sender::new(0),
            callers: Arc::new(Semaphore::new(bounds.callers)),
            bytes: Arc::new(Semaphore::new(bounds.bytes.min(Semaphore::MAX_PERMITS))),
            late: Arc::new(Semaphore::new(bounds.places)),
            queue,
            auditor,
            tasks,
            ending,
        }
    }

    /// What audits say; none where there are none.
    pub(crate) fn audits(&self) -> Option<AuditStatus> {
        self.auditor.as_ref().map(Auditor::status)
    }

    /// Who answers.
    pub(crate) fn agent(&self) -> &InCharge {
        &self.agent
    }

    /// Images that wait on disk for a cloud; none where none is kept.
    pub(crate) fn waiting(&self) -> Option<u64> {
        self.queue.as_ref().map(|_| self.metrics.queue_images())
    }

    /// Waits for a place.
    pub(crate) async fn place(&self) -> Place {
        let permit = self.places.clone().acquire_owned().await;
        Place {
            _permit: permit.expect("never closed"),
        }
    }

    /// A caller who brings an image, where not too many are here already: those with a place, and those that wait.
    pub(crate) fn caller(&self) -> Result<Caller, Unanswered> {
        let permit = self.callers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| {
            let held = *self.held.borrow();
            match held == self.bounds.places {
                true => self.held_up(),
                false => Unanswered::Full,
            }
        })?;
        Ok(Caller {
            _permit: permit,
            room: Arc::new(Room::of(self.bytes.clone())),
        })
    }

    /// Answers the image of a caller, who has the answer as soon as there is one. What was accepted is answered and
    /// announced also where the caller goes away.
    pub(crate) async fn answer(
        &self,
        caller: Caller,
        input: Arc<str>,
        image: Image,
    ) -> Result<Arc<Event>, Unanswered> {
        let (tell, told) = oneshot::channel();
        let intake = self.clone();
        self.tasks.spawn(async move {
            let place = tokio::select! {
                biased;
                place = intake.place() => place,
                () = intake.wait_until_held_up() => {
                    let _ = tell.send(Err(intake.held_up()));
                    return;
                }
            };
            let asker = Asker { caller, tell };
            intake.take_for(Some(asker), place, input, image).await;
        });
        told.await.unwrap_or(Err(Unanswered::Failed))
    }

    /// Answers an image and announces the answer, or that there is none; where that is not final, what is follows later.
    /// Returns once all outputs have taken what was said.
    pub(crate) async fn take(&self, place: Place, input: Arc<str>, image: Image) -> Arc<Event> {
        self.take_for(None, place, input, image).await
    }

    /// As [`Self::take`], for somebody who need not wait for the outputs.
    async fn take_for(
        &self,
        mut asker: Option<Asker>,
        place: Place,
        input: Arc<str>,
        image: Image,
    ) -> Arc<Event> {
        let id = image.id.unwrap_or_else(Uuid::now_v7);
        let in_flight = self.metrics.taken(&input);
        let agent = self.agent.get();
        let deadline = agent.deadline();
        let deadline = Instant::now() + image.deadline.unwrap_or(deadline).min(deadline);
        // What the disk takes before an answer is out that is not final.
        let reserve = self.queue.as_ref().map_or(Duration::ZERO, Queue::reserve);
        let mut said = agent.answer(image, reserve).await;
        drop(agent);
        let answered = Instant::now();
        if let (Some(queue), Record::Answered(answered)) = (&self.queue, &said.record)
            && answered.transport.is_some()
        {
            queue.cloud_is_back();
        }
        let kept = match (&self.queue, said.unsent) {
            (Some(queue), Some(unsent)) => {
                let entry = Entry::new(id, &input, &said.record, &unsent);
                self.keep(queue, entry, unsent.encoded).await
            }
            _ => None,
        };
        let mut late = said.late.and_then(|late| {
            let permit = self.late.clone().try_acquire_owned().ok()?;
            Some((late, permit))
        });
        // By lot alone; where as many are under way as may be, or the time is short, as if it had not been drawn.
        let audit = said.audit.filter(|_| answered + reserve <= deadline);
        let mut audit = audit.and_then(|audit| {
            let auditor = self.auditor.as_ref().filter(|auditor| auditor.draws())?;
            let permit = self.late.clone().try_acquire_owned().ok()?;
            Some((auditor.clone(), audit, permit))
        });
        let is_promised = match kept.is_none() && (late.is_some() || audit.is_some()) {
            true => self.promise(id, &input, &said.record).await.is_ok(),
            false => true,
        };
        if !is_promised {
            (late, audit) = (None, None);
        }
        if let (Some(_), Record::Answered(said)) = (&self.queue, &mut said.record) {
            said.total_ms += milliseconds(answered.elapsed());
        }
        self.metrics.said(&input, &said.record);
        drop(in_flight);
        let is_final = kept.is_none() && late.is_none() && audit.is_none();
        let event = Event::first(id, &input, said.record, is_final);
        let event = self.announcer.tell(event);
        {
            let mut bringing = pin!(self.announcer.bring(&event));
            if poll!(bringing.as_mut()).is_pending() {
                let _held = Held::new(&self.held);
                let caller = asker.take().map(|asker| asker.tell(&event));
                bringing.await;
                drop(caller);
            }
        }
        // Kept until now: an output that does not take what was said holds up the inputs.
        drop(place);
        if let Some(asker) = asker {
            asker.leave(&event);
        }
        if let Some((auditor, audit, permit)) = audit {
            let intake = self.clone();
            let said = event.clone();
            self.tasks.spawn(async move {
                intake.audit(&said, &auditor, audit).await;
                drop(permit);
            });
        }
        match (late, kept) {
            (Some((late, permit)), kept) => {
                let intake = self.clone();
                let said = event.clone();
                self.tasks.spawn(async move {
                    intake.correct(&said, late, kept).await;
                    drop(permit);
                });
            }
            (None, Some(kept)) => kept.queue.release(id).await,
            (None, None) => {}
        }
        event
    }

    /// Announces that an image has no answer, as it cannot be read; returns once all outputs have taken that.
    pub(crate) async fn fail(&self, place: Place, input: &str, id: Uuid, record: Record) {
        let in_flight = self.metrics.taken(input);
        self.metrics.said(input, &record);
        drop(in_flight);
        let event = Event::first(id, input, record, true);
        let event = self.announcer.tell(event);
        let _held = Held::new(&self.held);
        self.announcer.bring(&event).await;
        drop(place);
    }

    /// Returns once outputs have held all places for a while, without taking anything.
    async fn wait_until_held_up(&self) {
        let mut held = self.held.subscribe();
        loop {
            let _ = held.wait_for(|&held| held == self.bounds.places).await;
            if timeout(HELD_UP, held.changed()).await.is_err() {
                return;
            }
        }
    }

    /// What a caller is told whom an output holds up.
    fn held_up(&self) -> Unanswered {
        let full = self.announcer.full().map(|output| format!("`{output}`"));
        let full: Vec<String> = full.collect();
        let output = match full.len() {
            // It has just taken something.
            0 => "an output".to_owned(),
            1 => format!("the output {}", full[0]),
            _ => format!("the outputs {}", full.join(" and ")),
        };
        Unanswered::HeldUp { output }
    }

    /// Keeps an image until the cloud is back; none where it cannot be kept, so that what was said about it holds.
    async fn keep(&self, queue: &Queue, entry: Entry, image: Bytes) -> Option<Kept> {
        let kept = Kept {
            queue: queue.clone(),
            entry: entry.clone(),
        };
        match queue.keep(entry, image).await {
            Ok(()) => Some(kept),
            Err(reason) => {
                self.metrics.left_queue(QueueOutcome::NotKept);
                tracing::warn!(id = %kept.entry.id, %reason, "an image that found no cloud is not kept");
                None
            }
        }
    }

    /// Promises a last event about an image, before it is said that what comes now is not; where there is no queue, a crash
    /// breaks that.
    async fn promise(&self, id: Uuid, input: &str, record: &Record) -> Result<(), NotKept> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        let promised = queue.promise(id, input, record.clone()).await;
        promised.inspect_err(|reason| {
            tracing::warn!(%id, %reason, "an answer that the cloud might have corrected is final");
        })
    }

    /// Announces the last event about an image, which was promised.
    async fn say_last(&self, event: Event) {
        match &self.queue {
            Some(queue) => queue.say_last(event).await,
            None => drop(self.announcer.announce(event).await),
        }
    }

    /// Asks the cloud about an answer that the device gave by itself, and announces what it says: a correction where it says
    /// another class, else that what was said holds.
    async fn audit(&self, said: &Event, auditor: &Auditor, audit: Audit) {
        let image = match &said.record {
            Record::Answered(answered) => answered.image.clone(),
            Record::Failed { image, .. } => image.clone(),
        };
        let expected = audit.expected;
        let asked = audit.ask(image);
        let cloud = self.ending.run_until_cancelled(asked).await;
        let (kind, record) = match cloud {
            Some(Ok(cloud)) if !auditor.note(&said.record, &cloud, expected) => {
                (Kind::Correction, cloud)
            }
            Some(Ok(_)) => (Kind::Confirmation, said.record.clone()),
            Some(Err(_)) | None => {
                auditor.failed();
                (Kind::Confirmation, said.record.clone())
            }
        };
        let event = Event::last(said.id, &said.input, kind, record);
        self.say_last(event).await;
    }

    /// Announces what a late call comes to: a correction, or that what was said holds. One that is kept is left to the
    /// queue where no reply comes.
    async fn correct(&self, said: &Event, late: LateAnswer, kept: Option<Kept>) {
        let correction = late.correction();
        let correction = self.ending.run_until_cancelled(correction).await.flatten();
        if let Some(record) = &correction {
            self.metrics.corrected(&said.record, record);
        }
        match (kept, correction) {
            (Some(kept), Some(record)) => kept.queue.finish(kept.entry, Some(record)).await,
            (Some(kept), None) => kept.queue.release(kept.entry.id).await,
            (None, correction) => {
                let (kind, record) = match correction {
                    Some(record) => (Kind::Correction, record),
                    None => (Kind::Confirmation, said.record.clone()),
                };
                let event = Event::last(said.id, &said.input, kind, record);
                self.say_last(event).await;
            }
        }
    }
}

/// A caller that waits for its answer.
struct Asker {
    caller: Caller,
    tell: oneshot::Sender<Result<Arc<Event>, Unanswered>>,
}

impl Asker {
    /// Gives the event to the caller, who counts until what is returned is dropped.
    fn tell(self, event: &Arc<Event>) -> Caller {
        // It may have gone away.
        let _ = self.tell.send(Ok(event.clone()));
        self.caller
    }

    /// Gives the event to the caller, who counts no more by then.
    fn leave(self, event: &Arc<Event>) {
        drop(self.caller);
        let _ = self.tell.send(Ok(event.clone()));
    }
}

/// Counts a place whose event waits for an output, until it is dropped.
struct Held<'a>(&'a watch::Sender<usize>);

impl<'a> Held<'a> {
    fn new(held: &'a watch::Sender<usize>) -> Self {
        held.send_modify(|held| *held += 1);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held -= 1);
    }
}

/// An image that is kept, and by whom.
struct Kept {
    queue: Queue,
    entry: Entry,
}
