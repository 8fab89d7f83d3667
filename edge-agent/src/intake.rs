//! The way in: how many images are taken up at a time, and what happens to more.
//!
//! An input that can wait, such as a folder, waits for a place. One that cannot, such as the API, may wait only while
//! few others do, and else is told to come back: [`Intake::place_soon`].

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
    /// Permits of those that wait for a place and may be turned away.
    waiting: Arc<Semaphore>,
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
    /// Callers that may wait for a place.
    pub(crate) waiting: usize,
}

/// The right to have one image taken up.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Too many wait already.
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
            waiting: Arc::new(Semaphore::new(bounds.waiting)),
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

    /// Waits for a place, where not too many do.
    pub(crate) async fn place_soon(&self) -> Result<Place, Full> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        let _waits = self.waiting.try_acquire().map_err(|_| Full)?;
        Ok(self.place().await)
    }

    /// Answers an image and announces the answer, or that there is none; a correction may be announced later.
    pub(crate) async fn take(&self, place: Place, input: Arc<str>, image: Image) -> Arc<Event> {
        let id = Uuid::now_v7();
        let in_flight = self.metrics.taken(&input);
        let (record, late) = self.agent.answer(image).await;
        self.metrics.said(&input, &record);
        drop((place, in_flight));
        let event = self
            .announcer
            .announce(Event::new(id, &input, record))
            .await;
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
