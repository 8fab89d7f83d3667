//! Threads that share the work of an image.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tract_linalg::multithread::{Executor, multithread_tract_scope};

/// Who computes: the thread that asks, or a pool, whose threads share each image's convolutions, products and other large
/// operators. Answers are the same to the last bit.
#[derive(Debug, Clone, Default)]
pub struct Threads(Executor);

/// The system gives no threads.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {count} threads that share an image: give fewer")]
pub struct ThreadsError {
    count: usize,
    source: ThreadPoolBuildError,
}

impl Threads {
    /// So many threads of their own, which end with the last network that they run; for one or none, the thread that asks.
    ///
    /// # Errors
    /// [`ThreadsError`] where the system gives none.
    pub fn try_new(count: usize) -> Result<Self, ThreadsError> {
        if count <= 1 {
            return Ok(Self::default());
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|index| format!("network-{index}"))
            .build()
            .map_err(|source| ThreadsError { count, source })?;
        Ok(Self::from_pool(Arc::new(pool)))
    }

    /// Those of a pool. A thread that asks and is none of them waits for them.
    pub fn from_pool(pool: Arc<ThreadPool>) -> Self {
        Self(Executor::MultiThread(pool))
    }

    /// Runs `work`, whose operators find the threads by [`shared`].
    pub(super) fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        multithread_tract_scope(self.0.clone(), work)
    }
}

/// The pool that shares the work at hand; none where the thread is to do it alone.
#[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
pub(super) fn shared() -> Option<Arc<ThreadPool>> {
    match tract_linalg::multithread::current_tract_executor() {
        Executor::MultiThread(pool) if pool.current_num_threads() > 1 => Some(pool),
        _ => None,
    }
}
