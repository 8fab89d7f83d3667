//! CPU work off the async threads: a bounded number of decoders.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::error::ServiceError;

/// Runs work on blocking threads, at most so many at a time; the others wait their turn. Who may wait is
/// bounded by the queues of the networks.
#[derive(Clone)]
pub(crate) struct Workers {
    /// Fair: first come, first served.
    running: Arc<Semaphore>,
}

impl Workers {
    /// At most `workers` at a time.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(workers)),
        }
    }

    /// Runs `work` on a blocking thread.
    ///
    /// A caller that goes away while waiting costs nothing.
    ///
    /// # Errors
    /// [`ServiceError::WorkerLost`] when `work` panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let running = self
            .running
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ServiceError::WorkerLost)?;
        spawn_blocking(move || {
            // Held by the work, not by the caller, who may go away while it runs.
            let _running = running;
            work()
        })
        .await
        .map_err(|_| ServiceError::WorkerLost)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_frees_its_place() {
        let workers = Workers::new(1);
        let lost = workers.run::<()>(|| panic!("on purpose")).await;
        assert!(matches!(lost, Err(ServiceError::WorkerLost)));
        assert_eq!(workers.run(|| Ok(3)).await.unwrap(), 3);
    }
}
