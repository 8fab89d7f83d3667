//! Places for images that wait: so many of a model, and when to come back where there are none.

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{config::Batching, error::ServiceError};

/// The first guess of what an image costs, until one was run: about a mid-sized network on one core.
const FIRST_PACE: Duration = Duration::from_millis(20);
/// A caller that is told to come back waits at least so long, the least that the trailer can say, and at
/// most so long: a load changes within seconds.
pub(crate) const RETRY_AFTER: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(10));

/// The places of one model.
pub(crate) struct Admission {
    free: Arc<Semaphore>,
    max_queue: usize,
    instances: usize,
    waiting: Gauge,
}

/// Places in the queue, one an image, kept from the arrival of a request until it runs or leaves.
#[derive(Debug)]
pub(crate) struct Places {
    permit: OwnedSemaphorePermit,
    waiting: Gauge,
}

/// Time of one image of late, a moving mean.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace(Duration);

impl Admission {
    /// All places free; `waiting` tells how many are not.
    pub(crate) fn new(batching: &Batching, waiting: Gauge) -> Self {
        Self {
            free: Arc::new(Semaphore::new(batching.max_queue)),
            max_queue: batching.max_queue,
            instances: batching.instances,
            waiting,
        }
    }

    /// Takes places for a request of so many images; one of more than there are needs all. `None` where there are
    /// too few.
    pub(crate) fn take(&self, images: usize) -> Option<Places> {
        let images = u32::try_from(images.min(self.max_queue)).unwrap_or(u32::MAX);
        let permit = self.free.clone().try_acquire_many_owned(images).ok()?;
        self.waiting.inc_by(permit.num_permits() as i64);
        Some(Places {
            permit,
            waiting: self.waiting.clone(),
        })
    }

    /// The error where there are none, with about the time in which half of a full queue runs.
    pub(crate) fn full(&self, pace: Pace) -> ServiceError {
        let rounds = self.max_queue.div_ceil(2 * self.instances);
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        let wait = pace.0.saturating_mul(rounds);
        ServiceError::QueueFull {
            limit: self.max_queue,
            retry_after: wait.clamp(RETRY_AFTER.0, RETRY_AFTER.1),
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.waiting.dec_by(self.permit.num_permits() as i64);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self(FIRST_PACE)
    }
}

impl Pace {
    /// The mean.
    pub(crate) fn time(self) -> Duration {
        self.0
    }

    /// Takes the time of one image into the mean.
    pub(crate) fn keep(&mut self, image: Duration) {
        self.0 = (self.0 * 7 + image) / 8;
    }
}
