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
    /// Sizes that run at once, without waiting for more; `max_batch` is always one.
    pub(crate) preferred: Vec<usize>,
}

/// A request that waits.
pub(crate) trait Queued {
    /// Images in it, at least 1.
    fn images(&self) -> usize;
    /// When it joined the queue.
    fn joined(&self) -> Instant;
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

/// Requests in the order in which they came.
pub(crate) struct Queue<T> {
    policy: Policy,
    waiting: VecDeque<T>,
    images: usize,
    closed: bool,
}

impl<T: Queued> Queue<T> {
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
    pub(crate) fn push(&mut self, item: T) {
        self.images += item.images();
        self.waiting.push_back(item);
    }

    /// Nothing more comes, so nothing waits for more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing waits and nothing more comes.
    pub(crate) fn is_done(&self) -> bool {
        self.closed && self.waiting.is_empty()
    }

    /// What a free instance does at `now`, where one image takes it `pace`. Requests that are too late, or
    /// whose callers have gone, leave through `dropped` before they cost compute.
    pub(crate) fn next(&mut self, now: Instant, pace: Duration, dropped: &mut Vec<T>) -> Next<T> {
        self.drop_useless(now, dropped);
        let Some(oldest) = self.waiting.front() else {
            return Next::Wait;
        };
        // Nobody waits for company until it is too late.
        let deadlines = self.waiting.iter().filter_map(T::deadline);
        let latest = deadlines
            .min()
            .and_then(|deadline| deadline.checked_sub(pace));
        let due = oldest.joined() + self.policy.max_delay;
        let due = latest.map_or(due, |latest| latest.min(due));
        let full = self.images >= self.policy.max_batch;
        if full || self.closed || now >= due {
            return Next::Run(self.take(self.fitting(|_| true).unwrap_or(1)));
        }
        match self.fitting(|images| self.policy.preferred.contains(&images)) {
            Some(count) => Next::Run(self.take(count)),
            None => Next::WaitUntil(due),
        }
    }

    /// The most requests from the front that make a batch whose size is `right`.
    fn fitting(&self, right: impl Fn(usize) -> bool) -> Option<usize> {
        let sizes = self.waiting.iter().scan(0, |images, waiting| {
            *images += waiting.images();
            Some(*images)
        });
        let fitting = sizes
            .take_while(|&images| images <= self.policy.max_batch)
            .enumerate()
            .filter(|&(_, images)| right(images));
        fitting.last().map(|(place, _)| place + 1)
    }

    /// The first `count` requests.
    fn take(&mut self, count: usize) -> Vec<T> {
        let batch: Vec<T> = self.waiting.drain(..count).collect();
        self.images -= batch.iter().map(T::images).sum::<usize>();
        batch
    }

    /// Takes out the requests that are too late, or whose callers have gone.
    pub(crate) fn drop_useless(&mut self, now: Instant, dropped: &mut Vec<T>) {
        let useless =
            |item: &T| item.is_gone() || item.deadline().is_some_and(|deadline| deadline <= now);
        // The usual case costs no move.
        if !self.waiting.iter().any(useless) {
            return;
        }
        for item in std::mem::take(&mut self.waiting) {
            if useless(&item) {
                self.images -= item.images();
                dropped.push(item);
            } else {
                self.waiting.push_back(item);
            }
        }
    }
}

#[cfg(test)]
mod tests;
