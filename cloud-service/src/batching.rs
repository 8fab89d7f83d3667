//! Dynamic batching: requests that wait for the same network run together.
//!
//! A [`Batcher`] belongs to one network. It admits a bounded number of images; each request waits in a
//! [`queue`] until an instance of the network, a thread of its own, takes it with its neighbours,
//! runs them as one batch and gives each its own rows.

mod queue;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ndarray::{Array, Array2, Array4, ArrayView, Axis, RemoveAxis, concatenate, s};
use outpost_runtime::{Classifier, InferError};
use outpost_supervision::Underway;
use outpost_transport::Deadline;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::{
    admission::{Admission, Pace, Places},
    config::Batching,
    error::ServiceError,
    metrics::ModelMetrics,
    statistics::Statistics,
};
use queue::{Next, Policy, Queue, Queued};

/// What a network said about the images of a request, and when.
#[derive(Debug)]
pub(crate) struct Scores {
    /// Scores, `[images, classes]`.
    pub(crate) rows: Array2<f32>,
    /// Time from joining the queue to the start of the batch.
    pub(crate) queued: Duration,
    /// Time of the whole batch.
    pub(crate) computed: Duration,
}

/// The queue of one network and the threads that run it.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    admission: Admission,
}

/// The threads that run networks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Instances {
    /// Those that have not ended.
    pub(crate) running: TaskTracker,
    /// What they run.
    pub(crate) batches: Underway,
}

struct Shared {
    batches: Underway,
    model: Arc<Classifier>,
    metrics: ModelMetrics,
    statistics: Statistics,
    max_batch: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    queue: Queue<Request>,
    /// Of the batches.
    pace: Pace,
}

struct Request {
    images: Array4<f32>,
    deadline: Option<Deadline>,
    joined: Instant,
    reply: oneshot::Sender<Result<Scores, ServiceError>>,
    /// Free again once the request runs.
    places: Option<Places>,
}

impl Queued for Request {
    fn images(&self) -> usize {
        self.images.len_of(Axis(0))
    }

    fn joined(&self) -> Instant {
        self.joined
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|deadline| deadline.instant().into_std())
    }

    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}

impl Batcher {
    /// Starts the instances of a network, which `instances` counts until they have ended.
    ///
    /// # Errors
    /// The system's, where it has no thread to give.
    pub(crate) fn start(
        model: Arc<Classifier>,
        batching: &Batching,
        metrics: ModelMetrics,
        instances: &Instances,
    ) -> io::Result<Self> {
        let admission = Admission::new(batching, metrics.waiting.clone());
        let shared = Shared {
            batches: instances.batches.clone(),
            model,
            metrics,
            statistics: Statistics::default(),
            max_batch: batching.max_batch,
            state: Mutex::new(State {
                queue: Queue::new(Policy {
                    max_batch: batching.max_batch,
                    max_delay: batching.max_delay(),
                    preferred: batching.preferred.clone(),
                }),
                pace: Pace::default(),
            }),
            changed: Condvar::new(),
        };
        // Dropped where a thread is missing, it ends those that are there.
        let batcher = Self {
            shared: Arc::new(shared),
            admission,
        };
        for _ in 0..batching.instances {
            let (shared, counted) = (batcher.shared.clone(), instances.running.token());
            let run = move || {
                shared.run();
                // The last to leave frees the network, and that before it counts as ended.
                drop(shared);
                drop(counted);
            };
            thread::Builder::new()
                .name("instance".to_owned())
                .spawn(run)?;
        }
        Ok(batcher)
    }

    /// The network.
    pub(crate) fn model(&self) -> &Arc<Classifier> {
        &self.shared.model
    }

    /// Its metrics.
    pub(crate) fn metrics(&self) -> &ModelMetrics {
        &self.shared.metrics
    }

    /// Its counts and times.
    pub(crate) fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    /// Takes places in the queue for a request of so many images; one of more than the queue takes needs
    /// all of it.
    ///
    /// # Errors
    /// [`ServiceError::QueueFull`] at once where there are none, with the time after which there may be.
    pub(crate) fn admit(&self, images: usize) -> Result<Places, ServiceError> {
        let places = self.admission.take(images).or_else(|| {
            // Those that nobody waits for any more make room.
            let mut dropped = Vec::new();
            self.shared
                .lock()
                .queue
                .drop_useless(Instant::now(), &mut dropped);
            refuse(dropped, || ServiceError::DeadlinePassed);
            self.admission.take(images)
        });
        places.ok_or_else(|| self.admission.full(self.shared.lock().pace))
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
        places: Places,
    ) -> Result<Scores, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.shared.lock().queue.push(Request {
            images,
            deadline,
            joined: Instant::now(),
            reply,
            places: Some(places),
        });
        self.shared.changed.notify_one();
        answer.await.map_err(|_| ServiceError::WorkerLost)?
    }
}

impl Drop for Batcher {
    /// What waits is still answered; then the instances end, each on its own, and the last frees the
    /// network: who drops this may be an async thread, which must not wait for a batch.
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
                request.places = None;
            }
            self.run_batch(batch);
        }
    }

    fn next_batch(&self) -> Option<Vec<Request>> {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        loop {
            let pace = state.pace.time();
            let next = state.queue.next(Instant::now(), pace, &mut dropped);
            if let Next::Run(_) = next
                && state.queue.images() > 0
            {
                // What stays may be another instance's batch.
                self.changed.notify_one();
            }
            if !dropped.is_empty() {
                // Callers wake outside of the lock; what is in the queue may change meanwhile.
                drop(state);
                refuse(dropped.drain(..), || ServiceError::DeadlinePassed);
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

    /// Gives each request its rows.
    fn run_batch(&self, batch: Vec<Request>) {
        let images: usize = batch.iter().map(Queued::images).sum();
        let started = Instant::now();
        let _underway = self.batches.begin();
        // A panic is the batch's, not the instance's.
        let scores = catch_unwind(AssertUnwindSafe(|| self.infer(&batch)));
        let computed = started.elapsed();
        // Counted before the callers know.
        self.metrics.batch(images, computed);
        let image = computed / u32::try_from(images).unwrap_or(u32::MAX);
        self.lock().pace.keep(image);
        let mut scores = match scores {
            Ok(Ok(scores)) => {
                self.statistics.ran(images, computed);
                scores
            }
            Ok(Err(error)) => {
                let error = Arc::new(error);
                return refuse(batch, || ServiceError::Infer(error.clone()));
            }
            Err(_) => return refuse(batch, || ServiceError::WorkerLost),
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
            }));
        }
    }

    fn infer(&self, batch: &[Request]) -> Result<Array2<f32>, InferError> {
        let network = self.model.network();
        let (scores, images) = match batch {
            [only] if only.images() <= self.max_batch => {
                (network.infer(only.images.view())?, only.images())
            }
            [large] => {
                let chunks = large.images.axis_chunks_iter(Axis(0), self.max_batch);
                let scores = chunks
                    .map(|chunk| network.infer(chunk))
                    .collect::<Result<Vec<_>, _>>()?;
                let views: Vec<_> = scores.iter().map(|rows| rows.view()).collect();
                (together(&views)?, large.images())
            }
            _ => {
                let views: Vec<_> = batch.iter().map(|request| request.images.view()).collect();
                let images = together(&views)?;
                (network.infer(images.view())?, images.len_of(Axis(0)))
            }
        };
        if scores.nrows() == images {
            Ok(scores)
        } else {
            let found = scores.nrows();
            Err(InferError::Runtime(
                format!("it gave {found} rows for {images} images").into(),
            ))
        }
    }
}

/// Answers requests with the same error.
fn refuse(requests: impl IntoIterator<Item = Request>, error: impl Fn() -> ServiceError) {
    for request in requests {
        request.reply(Err(error()));
    }
}

/// Arrays one after the other.
fn together<D: RemoveAxis>(views: &[ArrayView<'_, f32, D>]) -> Result<Array<f32, D>, InferError> {
    concatenate(Axis(0), views).map_err(|error| InferError::Runtime(error.into()))
}

impl Request {
    fn reply(self, reply: Result<Scores, ServiceError>) {
        // The places free first: who is answered may send the next at once.
        drop(self.places);
        // A caller that has gone needs no answer.
        let _ = self.reply.send(reply);
    }
}

#[cfg(test)]
mod tests;
