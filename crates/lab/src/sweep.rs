//! Learning at many prices of time, on all cores.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
    sync::mpsc,
    thread,
};

use outpost_exit_policy::{Function, LearnError, Price, Problem, Settings, learn};

/// Prices that are learned one after the other, each from where the one before ended. Fixed, so that
/// the policies do not depend on the number of cores.
const PRICES_TOGETHER: usize = 5;

/// Learns a policy for each of `prices` from the examples `on`; calls `done` after each few with
/// their number.
///
/// # Errors
/// [`LearnError`] where there is nothing to learn from.
pub fn sweep(
    problem: &Problem<'_>,
    on: &[u32],
    prices: &[Price],
    settings: &Settings,
    mut done: impl FnMut(usize),
) -> Result<Vec<Vec<Function>>, LearnError> {
    let chunks: Vec<&[Price]> = prices.chunks(PRICES_TOGETHER).collect();
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (sender, receiver) = mpsc::channel();
    let mut learned: Vec<Option<Result<Vec<Vec<Function>>, LearnError>>> = vec![None; chunks.len()];
    thread::scope(|scope| {
        for _ in 0..threads.min(chunks.len()) {
            let (sender, chunks, next) = (sender.clone(), &chunks, &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(chunk) = chunks.get(index) else {
                        break;
                    };
                    let policies = learn(problem, on, chunk, settings);
                    if sender.send((index, policies)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (index, policies) in receiver {
            done(chunks[index].len());
            learned[index] = Some(policies);
        }
    });
    let learned = learned
        .into_iter()
        .map(|chunk| chunk.expect("every chunk is learned"));
    Ok(learned.collect::<Result<Vec<_>, _>>()?.concat())
}
