//! Dynamic batching: requests that wait for the same network run together.
//!
//! A [`Batcher`] belongs to one network. It admits a bounded number of requests; each waits in a
//! [`queue`] until an instance of the network, a thread of its own, takes it with its neighbours,
//! runs them as one batch and gives each its own rows.

mod queue;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ndarray::{Array2, Array4, ArrayView4, Axis, concatenate, s};
use outpost_runtime::{Classifier, InferError};
use outpost_transport::Deadline;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{config::Batching, error::ServiceError};
use queue::{Item, Next, Policy, Queue};

/// The first guess of what an image costs, before one was run.
const FIRST_PACE: Duration = Duration::from_millis(20);
/// A caller that is told to come back is told to wait at least so long, and at most so long.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));

/// What a network said about the images of a request, and when.
#[derive(Debug)]
pub(crate) struct Scores {
    /// Scores, `[images, classes]`.
    pub(crate) rows: Array2<f32>,
    /// Time from joining the queue to the start of the batch.
    pub(crate) queued: Duration,
    /// Time of the whole batch.
    pub(crate) computed: Duration,
    /// Images in the batch, those of others included.
    pub(crate) batch: usize,
}

/// A place in the queue, kept from the arrival of a request until it runs or leaves.
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// The queue of one network and the threads that run it.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    max_queue: usize,
    instances: usize,
}

struct Shared {
    model: Arc<Classifier>,
    max_batch: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    queue: Queue<Request>,
    /// Time of one image in the batches of late, a moving mean.
    pace: Duration,
}

struct Request {
    images: Array4<f32>,
    deadline: Option<Deadline>,
    joined: Instant,
    reply: oneshot::Sender<Result<Scores, ServiceError>>,
    /// Free again once the request runs.
    place: Option<Place>,
}

impl Item for Request {
    fn images(&self) -> usize {
        self.images.len_of(Axis(0))
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|deadline| deadline.instant().into_std())
    }

    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}

impl Batcher {
    /// Starts the instances of a network.
    pub(crate) fn start(model: Arc<Classifier>, batching: &Batching) -> Self {
        let shared = Arc::new(Shared {
            max_batch: batching.max_batch,
            state: Mutex::new(State {
                queue: Queue::new(Policy {
                    max_batch: batching.max_batch,
                    max_delay: batching.max_delay(),
                    preferred: batching.preferred.clone(),
                }),
                pace: FIRST_PACE,
            }),
            changed: Condvar::new(),
            model,
        });
        for _ in 0..batching.instances {
            let shared = shared.clone();
            thread::Builder::new()
                .name("instance".to_owned())
                .spawn(move || shared.run())
                .expect("the system has a thread to give");
        }
        Self {
            shared,
            places: Arc::new(Semaphore::new(batching.max_queue)),
            max_queue: batching.max_queue,
            instances: batching.instances,
        }
    }

    /// The network.
    pub(crate) fn model(&self) -> &Arc<Classifier> {
        &self.shared.model
    }

    /// Takes a place in the queue.
    ///
    /// # Errors
    /// [`ServiceError::QueueFull`] at once where there is none, with the time after which there may be.
    pub(crate) fn admit(&self) -> Result<Place, ServiceError> {
        let place = self.places.clone().try_acquire_owned();
        place.map(Place).map_err(|_| ServiceError::QueueFull {
            limit: self.max_queue,
            retry_after: self.retry_after(),
        })
    }

    /// About the time until half of what waits has run.
    fn retry_after(&self) -> Duration {
        let (waiting, pace) = {
            let state = self.shared.lock();
            (state.queue.images(), state.pace)
        };
        let rounds = waiting.div_ceil(2 * self.instances).max(1);
        let wait = pace.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        wait.clamp(RETRY_AFTER.0, RETRY_AFTER.1)
    }

    /// Runs `images`, `[n, 3, height, width]`, together with what else waits. A caller that goes away
    /// leaves the queue without costing compute.
    ///
    /// # Errors
    /// [`ServiceError::DeadlinePassed`] where the request's turn came too late,
    /// [`ServiceError::Infer`] where the network failed, [`ServiceError::WorkerLost`] where it panicked.
    pub(crate) async fn run(
        &self,
        images: Array4<f32>,
        deadline: Option<Deadline>,
        place: Place,
    ) -> Result<Scores, ServiceError> {
        let (reply, answer) = oneshot::channel();
        let joined = Instant::now();
        self.shared.lock().queue.push(
            Request {
                images,
                deadline,
                joined,
                reply,
                place: Some(place),
            },
            joined,
        );
        self.shared.changed.notify_one();
        answer.await.map_err(|_| ServiceError::WorkerLost)?
    }
}

impl Drop for Batcher {
    /// What waits is still answered; then the instances end.
    fn drop(&mut self) {
        self.shared.lock().queue.close();
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// The state is whole after every statement.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance: takes batches until the queue is closed and empty.
    fn run(&self) {
        while let Some(mut batch) = self.next_batch() {
            for request in &mut batch {
                request.place = None;
            }
            let images: usize = batch.iter().map(Item::images).sum();
            let computed = self.run_batch(batch, images);
            let pace = computed / u32::try_from(images).unwrap_or(u32::MAX);
            let mut state = self.lock();
            state.pace = (state.pace * 7 + pace) / 8;
        }
    }

    fn next_batch(&self) -> Option<Vec<Request>> {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        loop {
            let next = state.queue.next(Instant::now(), &mut dropped);
            if !dropped.is_empty() {
                // Callers wake outside of the lock; what is in the queue may change meanwhile.
                drop(state);
                for request in dropped.drain(..) {
                    request.reply(Err(ServiceError::DeadlinePassed));
                }
                if let Next::Run(batch) = next {
                    return Some(batch);
                }
                state = self.lock();
                continue;
            }
            state = match next {
                Next::Run(batch) => return Some(batch),
                Next::Wait if state.queue.is_done() => return None,
                Next::Wait => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Next::WaitUntil(due) => {
                    let time = due.saturating_duration_since(Instant::now());
                    let waited = self.changed.wait_timeout(state, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Gives each request its rows, and the time that all took.
    fn run_batch(&self, batch: Vec<Request>, images: usize) -> Duration {
        let started = Instant::now();
        // A panic is the batch's, not the instance's.
        let scores = catch_unwind(AssertUnwindSafe(|| self.infer(&batch)));
        let computed = started.elapsed();
        let mut scores = match scores {
            Ok(Ok(scores)) => scores,
            Ok(Err(error)) => {
                let error = Arc::new(error);
                for request in batch {
                    request.reply(Err(ServiceError::Infer(error.clone())));
                }
                return computed;
            }
            Err(_) => {
                for request in batch {
                    request.reply(Err(ServiceError::WorkerLost));
                }
                return computed;
            }
        };
        let mut from = 0;
        for request in batch {
            let count = request.images();
            // One request, the usual case, takes all rows without a copy.
            let rows = if count == images {
                std::mem::take(&mut scores)
            } else {
                scores.slice(s![from..from + count, ..]).to_owned()
            };
            from += count;
            let queued = started.saturating_duration_since(request.joined);
            request.reply(Ok(Scores {
                rows,
                queued,
                computed,
                batch: images,
            }));
        }
        computed
    }

    fn infer(&self, batch: &[Request]) -> Result<Array2<f32>, InferError> {
        let network = self.model.network();
        if let [only] = batch {
            if only.images() <= self.max_batch {
                return network.infer(only.images.view());
            }
            let chunks = only.images.axis_chunks_iter(Axis(0), self.max_batch);
            let scores = chunks
                .map(|chunk| network.infer(chunk))
                .collect::<Result<Vec<_>, _>>()?;
            let views: Vec<_> = scores.iter().map(|rows| rows.view()).collect();
            return Ok(concatenate(Axis(0), &views).expect("every chunk has the network's classes"));
        }
        let views: Vec<ArrayView4<'_, f32>> =
            batch.iter().map(|request| request.images.view()).collect();
        let together =
            concatenate(Axis(0), &views).map_err(|error| InferError::Runtime(error.into()))?;
        network.infer(together.view())
    }
}

impl Request {
    fn reply(self, reply: Result<Scores, ServiceError>) {
        // The place frees first: who is answered may send the next at once.
        drop(self.place);
        // A caller that has gone needs no answer.
        let _ = self.reply.send(reply);
    }
}

#[cfg(test)]
mod tests;
