//! Times a piece of work that is done again and again, on one thread or several.

use std::{
    num::NonZeroUsize,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::percentile::nearest_rank;

/// How often work is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) threads: NonZeroUsize,
    pub(super) runs_per_thread: NonZeroUsize,
    /// No run starts after this; every thread does at least one.
    pub(super) limit: Option<Duration>,
}

/// Times of work that has warmed up.
#[derive(Debug, Clone)]
pub(super) struct Steady {
    /// Milliseconds of every run, of all threads.
    runs_ms: Vec<f64>,
    elapsed: Duration,
}

/// Latency of one run; percentiles by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Latency {
    pub(super) median_ms: f64,
    pub(super) p5_ms: f64,
    pub(super) p95_ms: f64,
}

/// Does the work by `plan`, after one run a thread that is not counted.
///
/// # Errors
/// The work's own error, the first in the order of the threads.
pub(super) fn steady<E: Send>(
    plan: &Plan,
    work: impl Fn() -> Result<(), E> + Sync,
) -> Result<Steady, E> {
    let threads = plan.threads.get();
    // The threads and this one, which keeps the time.
    let start = Barrier::new(threads + 1);
    let (results, elapsed) = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let warm = work();
                    start.wait();
                    warm.and_then(|()| runs(plan, &work))
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        let results: Vec<_> = handles
            .into_iter()
            .map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect();
        (results, begun.elapsed())
    });
    let mut runs_ms = Vec::with_capacity(threads * plan.runs_per_thread.get().min(1 << 16));
    for result in results {
        runs_ms.extend(result?);
    }
    Ok(Steady { runs_ms, elapsed })
}

impl Steady {
    /// Runs that were counted.
    pub(super) fn images(&self) -> usize {
        self.runs_ms.len()
    }

    /// Runs a second, of all threads together.
    pub(super) fn images_per_sec(&self) -> f64 {
        self.images() as f64 / self.elapsed.as_secs_f64()
    }

    /// Latency of one run.
    pub(super) fn latency(&self) -> Latency {
        let mut runs_ms = self.runs_ms.clone();
        let mut at = |percent| nearest_rank(&mut runs_ms, percent).expect("at least one run");
        Latency {
            median_ms: at(50),
            p5_ms: at(5),
            p95_ms: at(95),
        }
    }
}

/// A duration in milliseconds.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn runs<E>(plan: &Plan, work: &impl Fn() -> Result<(), E>) -> Result<Vec<f64>, E> {
    let begun = Instant::now();
    let mut runs_ms = Vec::new();
    for _ in 0..plan.runs_per_thread.get() {
        let start = Instant::now();
        work()?;
        runs_ms.push(milliseconds(start.elapsed()));
        if plan.limit.is_some_and(|limit| begun.elapsed() >= limit) {
            break;
        }
    }
    Ok(runs_ms)
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn plan(threads: usize, runs: usize, limit: Option<Duration>) -> Plan {
        Plan {
            threads: NonZeroUsize::new(threads).unwrap(),
            runs_per_thread: NonZeroUsize::new(runs).unwrap(),
            limit,
        }
    }

    #[test]
    fn every_thread_does_its_runs_and_one_to_warm_up() {
        let done = AtomicUsize::new(0);
        let steady = steady(&plan(3, 7, None), || {
            done.fetch_add(1, Ordering::Relaxed);
            Ok::<(), Infallible>(())
        });
        assert_eq!(steady.unwrap().images(), 21);
        assert_eq!(done.into_inner(), 24);
    }

    #[test]
    fn the_limit_ends_it_after_one_run_at_the_earliest() {
        let limit = Some(Duration::from_nanos(1));
        let steady = steady(&plan(2, 1000, limit), || {
            thread::yield_now();
            Ok::<(), Infallible>(())
        });
        let images = steady.unwrap().images();
        assert!((2..2000).contains(&images), "{images}");
    }

    #[test]
    fn an_error_while_warming_up_ends_every_thread() {
        let failed = steady(&plan(2, 5, None), || Err("no"));
        assert_eq!(failed.unwrap_err(), "no");
    }

    #[test]
    fn latency_is_by_nearest_rank() {
        let steady = Steady {
            runs_ms: (1..=20).rev().map(f64::from).collect(),
            elapsed: Duration::from_secs(4),
        };
        assert_eq!(steady.images_per_sec(), 5.0);
        assert_eq!(
            steady.latency(),
            Latency {
                median_ms: 10.0,
                p5_ms: 1.0,
                p95_ms: 19.0,
            }
        );
    }
}
