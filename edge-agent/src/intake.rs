//! The way in: how many images are taken up at a time, and what happens to more.
//!
//! An input that can wait, such as a folder, waits for a [`Place`]. A caller of the API is counted before its image is
//! read into memory, and told to come back where too many are here already: [`Intake::caller`].

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    agent::{Agent, Image, LateAnswer},
    event::{Announcer, Event},
    metrics::Metrics,
};

/// Takes up images and announces what came of them. Clones share it.
#[derive(Clone)]
pub(crate) struct Intake {
    agent: Arc<Agent>,
    announcer: Announcer,
    metrics: Metrics,
    places: Arc<Semaphore>,
    /// One permit a caller of the API, from before its image is read until it has its answer.
    callers: Arc<Semaphore>,
    /// One permit a late call that may still correct an answer; as many as there are places.
    late: Arc<Semaphore>,
    /// Late calls.
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
        agent: Arc<Agent>,
        announcer: Announcer,
        metrics: Metrics,
        bounds: Bounds,
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
            tasks,
            ending,
        }
    }

    /// Who answers.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
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

    /// Answers an image and announces the answer, or that there is none; a correction may be announced later.
    pub(crate) async fn take(&self, place: Place, input: Arc<str>, image: Image) -> Arc<Event> {
        let id = Uuid::now_v7();
        let in_flight = self.metrics.taken(&input);
        let (record, late) = self.agent.answer(image).await;
        self.metrics.said(&input, &record);
        drop(in_flight);
        let event = self
            .announcer
            .announce(Event::new(id, &input, record))
            .await;
        // Kept until now: an output that does not take what was said holds up the inputs.
        drop(place);
        if let Some(late) = late
            && let Ok(permit) = self.late.clone().try_acquire_owned()
        {
            let intake = self.clone();
            let said = event.clone();
            self.tasks.spawn(async move {
                intake.correct(&said, late).await;
                drop(permit);
            });
        }
        event
    }

    /// Announces a correction, where it comes before the end.
    async fn correct(&self, said: &Event, late: LateAnswer) {
        let correction = self.agent.correction(late);
        let Some(Some(record)) = self.ending.run_until_cancelled(correction).await else {
            return;
        };
        self.metrics.corrected(&said.record, &record);
        let event = Event::correction(said.id, &said.input, record);
        self.announcer.announce(event).await;
    }
}
