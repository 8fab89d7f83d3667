//! Inference off the async threads: a bounded queue before a bounded number of workers.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::error::ServiceError;

/// Admits work, then runs it on blocking threads, at most `workers` at a time.
#[derive(Clone)]
pub struct Workers {
    /// One permit a request that is waiting or running.
    admission: Arc<Semaphore>,
    /// One permit a request that is running. Fair: first come, first served.
    running: Arc<Semaphore>,
    limit: usize,
}

impl Workers {
    /// At most `workers` running and `max_queue` more waiting.
    pub fn new(workers: usize, max_queue: usize) -> Self {
        Self {
            admission: Arc::new(Semaphore::new(workers + max_queue)),
            running: Arc::new(Semaphore::new(workers)),
            limit: workers + max_queue,
        }
    }

    /// Runs `work` on a blocking thread.
    ///
    /// A caller that goes away while waiting leaves the queue without costing compute.
    ///
    /// # Errors
    /// [`ServiceError::QueueFull`] at once when the queue is full; [`ServiceError::WorkerLost`] when
    /// `work` panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let admitted = self
            .admission
            .clone()
            .try_acquire_owned()
            .map_err(|_| ServiceError::QueueFull { limit: self.limit })?;
        let running = self
            .running
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ServiceError::WorkerLost)?;
        spawn_blocking(move || {
            // Held by the work, not by the caller, who may go away while it runs.
            let _permits = (admitted, running);
            work()
        })
        .await
        .map_err(|_| ServiceError::WorkerLost)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_a_place_that_frees_is_used() {
        let workers = Workers::new(1, 0);
        let (release, wait) = mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let busy = tokio::spawn({
            let workers = workers.clone();
            async move {
                workers
                    .run(move || {
                        started.send(()).unwrap();
                        wait.recv().unwrap();
                        Ok(1)
                    })
                    .await
            }
        });
        has_started.await.unwrap();
        let refused = workers.run(|| Ok(2)).await;
        assert!(matches!(refused, Err(ServiceError::QueueFull { .. })));
        release.send(()).unwrap();
        assert_eq!(busy.await.unwrap().unwrap(), 1);
        assert_eq!(workers.run(|| Ok(3)).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_frees_its_place() {
        let workers = Workers::new(1, 0);
        let lost = workers.run::<()>(|| panic!("on purpose")).await;
        assert!(matches!(lost, Err(ServiceError::WorkerLost)));
        assert_eq!(workers.run(|| Ok(3)).await.unwrap(), 3);
    }
}
