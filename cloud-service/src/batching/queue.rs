//! What waits for a network, and when it runs: no threads, no clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// When requests run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Most images in a batch; a request of more runs alone.
    pub(crate) max_batch: usize,
    /// Longest that a request waits for others while the network is free.
    pub(crate) max_delay: Duration,
    /// Sizes that run at once, without waiting for more; `max_batch` is always one. Sorted.
    pub(crate) preferred: Vec<usize>,
}

/// A request that waits.
pub(crate) trait Item {
    /// Images in it, at least 1.
    fn images(&self) -> usize;
    /// When its answer is of no use any more.
    fn deadline(&self) -> Option<Instant>;
    /// Whether its caller has gone.
    fn is_gone(&self) -> bool;
}

/// What a free instance of the network does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<T> {
    /// Runs these together, in the order in which they came.
    Run(Vec<T>),
    /// Looks again at that time, or when something comes.
    WaitUntil(Instant),
    /// Waits for something to come.
    Wait,
}

struct Waiting<T> {
    item: T,
    since: Instant,
}

/// Requests in the order in which they came.
pub(crate) struct Queue<T> {
    policy: Policy,
    waiting: VecDeque<Waiting<T>>,
    images: usize,
    closed: bool,
}

impl<T: Item> Queue<T> {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            waiting: VecDeque::new(),
            images: 0,
            closed: false,
        }
    }

    /// Images that wait.
    pub(crate) fn images(&self) -> usize {
        self.images
    }

    /// Adds a request at the end. Its length is bounded by who adds.
    pub(crate) fn push(&mut self, item: T, now: Instant) {
        self.images += item.images();
        self.waiting.push_back(Waiting { item, since: now });
    }

    /// Nothing more comes, so nothing waits for more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing waits and nothing more comes.
    pub(crate) fn is_done(&self) -> bool {
        self.closed && self.waiting.is_empty()
    }

    /// What a free instance does at `now`. Requests that are too late, or whose callers have gone, leave
    /// through `dropped` before they cost compute.
    pub(crate) fn next(&mut self, now: Instant, dropped: &mut Vec<T>) -> Next<T> {
        self.drop_useless(now, dropped);
        let Some(oldest) = self.waiting.front() else {
            return Next::Wait;
        };
        let due = oldest.since + self.policy.max_delay;
        let full = self.images >= self.policy.max_batch;
        let wanted = if full || self.closed || now >= due {
            self.policy.max_batch
        } else {
            let preferred = self.policy.preferred.iter().rev();
            match preferred.copied().find(|&size| size <= self.images) {
                Some(size) => size,
                None => return Next::WaitUntil(due),
            }
        };
        Next::Run(self.take(wanted))
    }

    /// The first requests with at most `images` together, and at least one.
    fn take(&mut self, images: usize) -> Vec<T> {
        let mut taken = 0;
        let count = self.waiting.iter().take_while(|waiting| {
            taken += waiting.item.images();
            taken <= images
        });
        let count = count.count().clamp(1, self.waiting.len());
        let batch: Vec<T> = self
            .waiting
            .drain(..count)
            .map(|waiting| waiting.item)
            .collect();
        self.images -= batch.iter().map(Item::images).sum::<usize>();
        batch
    }

    fn drop_useless(&mut self, now: Instant, dropped: &mut Vec<T>) {
        let useless =
            |item: &T| item.is_gone() || item.deadline().is_some_and(|deadline| deadline <= now);
        // The usual case costs no move.
        if !self.waiting.iter().any(|waiting| useless(&waiting.item)) {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if useless(&waiting.item) {
                self.images -= waiting.item.images();
                dropped.push(waiting.item);
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }
}

#[cfg(test)]
mod tests;
