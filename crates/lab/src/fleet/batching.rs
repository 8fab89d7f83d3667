//! The rules by which a server lets requests of one image wait and run together: those of `cloud-service` (its
//! `batching/queue.rs` and `admission.rs`), in simulated time.

use std::collections::VecDeque;

/// The first guess of what an image costs, as `cloud-service` has it.
const FIRST_PACE: f64 = 0.02;
/// Seconds that a refused caller is told to wait, at least and at most.
const RETRY_AFTER: (f64, f64) = (1e-3, 10.0);

/// When requests run together; see `cloud-service`'s `[batching]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Most images of a batch.
    pub max_batch: usize,
    /// Seconds that a request waits for others while an instance is free.
    pub max_delay: f64,
    /// Sizes that run at once.
    pub preferred: Vec<usize>,
    /// Images that may wait, decoding included.
    pub max_queue: usize,
    /// Batches at a time.
    pub instances: u32,
}

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Waiting {
    pub(super) call: u32,
    pub(super) joined: f64,
    /// When its answer is of no use any more.
    pub(super) deadline: f64,
}

/// What a free instance does next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    /// Runs so many from the front.
    Run(usize),
    /// Looks again then, or when something comes.
    WaitUntil(f64),
    /// Waits for something to come.
    Wait,
}

/// Requests in the order in which they came.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// No deadline of those that wait is before.
    earliest: f64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            earliest: f64::INFINITY,
        }
    }

    pub(super) fn push(&mut self, waiting: Waiting) {
        self.earliest = self.earliest.min(waiting.deadline);
        self.waiting.push_back(waiting);
    }

    /// What a free instance does at `now`, where an image takes `pace` seconds; those that are too late leave through
    /// `dropped`.
    pub(super) fn next(
        &mut self,
        now: f64,
        pace: f64,
        rules: &Rules,
        dropped: &mut Vec<u32>,
    ) -> Next {
        self.drop_useless(now, dropped);
        let Some(oldest) = self.waiting.front() else {
            return Next::Wait;
        };
        let count = self.waiting.len();
        let most = count.min(rules.max_batch);
        let mut due = oldest.joined + rules.max_delay;
        if count >= rules.max_batch || now >= due {
            return Next::Run(most);
        }
        // Nobody waits for company until it is too late.
        due = due.min(self.earliest_deadline() - pace);
        if now >= due {
            return Next::Run(most);
        }
        let preferred = rules.preferred.iter().filter(|&&size| size <= most);
        match preferred.max() {
            Some(&size) => Next::Run(size),
            None => Next::WaitUntil(due),
        }
    }

    /// The first `count` requests.
    pub(super) fn take(&mut self, count: usize, batch: &mut Vec<u32>) {
        batch.extend(self.waiting.drain(..count).map(|waiting| waiting.call));
        if self.waiting.is_empty() {
            self.earliest = f64::INFINITY;
        }
    }

    /// Takes out those whose deadline is over.
    pub(super) fn drop_useless(&mut self, now: f64, dropped: &mut Vec<u32>) {
        if self.earliest > now {
            return;
        }
        self.waiting.retain(|waiting| {
            let is_late = waiting.deadline <= now;
            if is_late {
                dropped.push(waiting.call);
            }
            !is_late
        });
        self.earliest_deadline();
    }

    fn earliest_deadline(&mut self) -> f64 {
        let deadlines = self.waiting.iter().map(|waiting| waiting.deadline);
        self.earliest = deadlines.fold(f64::INFINITY, f64::min);
        self.earliest
    }
}

/// Seconds of one image of late, a moving mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace(pub(super) f64);

impl Default for Pace {
    fn default() -> Self {
        Self(FIRST_PACE)
    }
}

impl Pace {
    pub(super) fn keep(&mut self, seconds: f64, images: usize) {
        self.0 = (7.0 * self.0 + seconds / images as f64) / 8.0;
    }

    /// Seconds after which who is refused may come back: about those in which half of a full queue runs.
    pub(super) fn retry_after(self, rules: &Rules) -> f64 {
        let rounds = rules.max_queue.div_ceil(2 * rules.instances as usize);
        (self.0 * rounds as f64).clamp(RETRY_AFTER.0, RETRY_AFTER.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(max_batch: usize, max_delay: f64, preferred: &[usize]) -> Rules {
        Rules {
            max_batch,
            max_delay,
            preferred: preferred.to_vec(),
            max_queue: 256,
            instances: 1,
        }
    }

    fn queue(joined: &[f64], deadline: f64) -> Queue {
        let mut queue = Queue::new();
        for (call, &joined) in joined.iter().enumerate() {
            queue.push(Waiting {
                call: call as u32,
                joined,
                deadline: joined + deadline,
            });
        }
        queue
    }

    fn next(queue: &mut Queue, now: f64, rules: &Rules) -> Next {
        let mut dropped = Vec::new();
        let next = queue.next(now, 0.002, rules, &mut dropped);
        assert!(dropped.is_empty());
        next
    }

    #[test]
    fn what_waits_runs_together_up_to_the_largest_batch() {
        let rules = rules(4, 0.0, &[]);
        assert_eq!(next(&mut queue(&[], 9.0), 0.0, &rules), Next::Wait);
        assert_eq!(next(&mut queue(&[0.0; 3], 9.0), 0.0, &rules), Next::Run(3));
        let mut six = queue(&[0.0; 6], 9.0);
        assert_eq!(next(&mut six, 0.0, &rules), Next::Run(4));
        let mut batch = Vec::new();
        six.take(4, &mut batch);
        assert_eq!(batch, [0, 1, 2, 3]);
        assert_eq!(next(&mut six, 0.0, &rules), Next::Run(2));
    }

    #[test]
    fn a_request_waits_for_company_until_its_delay_or_its_deadline() {
        let with_delay = rules(4, 0.010, &[]);
        let mut two = queue(&[0.0, 0.004], 9.0);
        assert_eq!(next(&mut two, 0.005, &with_delay), Next::WaitUntil(0.010));
        assert_eq!(next(&mut two, 0.010, &with_delay), Next::Run(2));
        let mut hurried = queue(&[0.0], 0.008);
        let waits = next(&mut hurried, 0.001, &with_delay);
        assert!(matches!(waits, Next::WaitUntil(due) if (due - 0.006).abs() < 1e-12));
        assert_eq!(next(&mut hurried, 0.0065, &with_delay), Next::Run(1));
        let preferred = rules(8, 0.010, &[2, 4]);
        let mut three = queue(&[0.0; 3], 9.0);
        assert_eq!(next(&mut three, 0.0, &preferred), Next::Run(2));
    }

    #[test]
    fn who_is_too_late_leaves_before_it_costs_compute() {
        let mut queue = queue(&[0.0, 0.5], 1.0);
        let mut dropped = Vec::new();
        let next = queue.next(1.2, 0.002, &rules(4, 0.0, &[]), &mut dropped);
        assert_eq!((next, dropped), (Next::Run(1), vec![0]));
    }

    #[test]
    fn a_refused_caller_is_told_the_time_of_half_a_queue() {
        let mut pace = Pace::default();
        let rules = rules(1, 0.0, &[]);
        assert!((pace.retry_after(&rules) - 2.56).abs() < 1e-9);
        for _ in 0..100 {
            pace.keep(8e-6, 4);
        }
        assert!((pace.retry_after(&rules) - 1e-3).abs() < 1e-9);
    }
}
