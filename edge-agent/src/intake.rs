//! The way in: how many images are taken up at a time, and what happens to more.
//!
//! An input that can wait, such as a folder, waits for a [`Place`]. A caller of the API is counted before its image is
//! read into memory, and told to come back where too many are here already: [`Intake::caller`].

use std::sync::Arc;

use bytes::Bytes;
use outpost_offload::Kind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    agent::{Audit, Image, LateAnswer},
    audit::{AuditStatus, Auditor},
    event::{Announcer, Event},
    in_charge::InCharge,
    metrics::{Metrics, QueueOutcome},
    queue::{Entry, Queue},
    record::{FailureCause, Record},
};

/// Takes up images and announces what came of them. Clones share it.
#[derive(Clone)]
pub(crate) struct Intake {
    agent: InCharge,
    announcer: Announcer,
    metrics: Metrics,
    places: Arc<Semaphore>,
    /// One permit a caller of the API, from before its image is read until it has its answer.
    callers: Arc<Semaphore>,
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
}

/// Too many callers are here already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

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
            places: Arc::new(Semaphore::new(bounds.places)),
            callers: Arc::new(Semaphore::new(bounds.callers)),
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
    pub(crate) fn caller(&self) -> Result<Caller, Full> {
        let permit = self.callers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Full)?;
        Ok(Caller { _permit: permit })
    }

    /// Answers an image and announces the answer, or that there is none; where that is not final, what is follows later.
    /// Of a file that cannot be opened for now nothing is announced: who has it brings it again.
    pub(crate) async fn take(&self, place: Place, input: Arc<str>, image: Image) -> Arc<Event> {
        let id = image.id.unwrap_or_else(Uuid::now_v7);
        let in_flight = self.metrics.taken(&input);
        let said = self.agent.get().answer(image).await;
        if let Record::Failed {
            cause: FailureCause::TooManyFiles,
            ..
        } = said.record
        {
            return Arc::new(Event::first(id, &input, said.record, false));
        }
        self.metrics.said(&input, &said.record);
        drop(in_flight);
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
        let late = said.late.and_then(|late| {
            let permit = self.late.clone().try_acquire_owned().ok()?;
            Some((late, permit))
        });
        // By lot alone; where as many are under way as may be, as if it had not been drawn.
        let audit = said.audit.and_then(|audit| {
            let auditor = self.auditor.as_ref().filter(|auditor| auditor.draws())?;
            let permit = self.late.clone().try_acquire_owned().ok()?;
            Some((auditor.clone(), audit, permit))
        });
        let is_final = kept.is_none() && late.is_none() && audit.is_none();
        let event = Event::first(id, &input, said.record, is_final);
        let event = self.announcer.announce(event).await;
        // Kept until now: an output that does not take what was said holds up the inputs.
        drop(place);
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
        self.announcer.announce(event).await;
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
                self.announcer.announce(event).await;
            }
        }
    }
}

/// An image that is kept, and by whom.
struct Kept {
    queue: Queue,
    entry: Entry,
}
