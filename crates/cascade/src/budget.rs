//! How much may be sent within a time.

use std::{collections::VecDeque, time::Duration};

/// What is used counts for a period and up to one such part of it: it is noted by parts.
const PARTS: u32 = 60;

/// At most so much in any period, wherever it begins.
#[derive(Debug, Clone)]
pub struct Budget {
    most: f64,
    part: Duration,
    /// What was used in a part of time, by its number, oldest first.
    used: VecDeque<(u128, f64)>,
    at: Duration,
}

impl Budget {
    /// One of `most` in any `period`, of which nothing is used.
    ///
    /// # Panics
    /// Where the period is less than a microsecond.
    pub fn new(most: u32, period: Duration) -> Self {
        let part = period / PARTS;
        assert!(!part.is_zero(), "a period takes time");
        Self {
            most: f64::from(most),
            part,
            used: VecDeque::new(),
            at: Duration::ZERO,
        }
    }

    /// Holds `most` in any period from now on; what was used counts against it.
    pub fn resize(&mut self, most: u32) {
        self.most = f64::from(most);
    }

    /// The most that may be used in a period.
    pub fn most(&self) -> f64 {
        self.most
    }

    /// Whether so much is left at `now`, a time since any origin.
    pub fn has(&mut self, amount: f64, now: Duration) -> bool {
        amount <= self.left(now)
    }

    /// What is left at `now`.
    pub fn left(&mut self, now: Duration) -> f64 {
        self.at = self.at.max(now);
        let current = self.part_of(self.at);
        while let Some(&(part, _)) = self.used.front()
            && part + u128::from(PARTS) < current
        {
            self.used.pop_front();
        }
        let used: f64 = self.used.iter().map(|(_, amount)| amount).sum();
        (self.most - used).max(0.0)
    }

    /// Uses so much of what is left.
    pub fn take(&mut self, amount: f64) {
        let current = self.part_of(self.at);
        match self.used.back_mut() {
            Some((part, used)) if *part == current => *used += amount,
            _ => self.used.push_back((current, amount)),
        }
    }

    fn part_of(&self, at: Duration) -> u128 {
        at.as_nanos() / self.part.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn no_period_has_more_wherever_it_begins_and_little_less_is_lost() {
        let mut budget = Budget::new(60, HOUR);
        let mut taken = Vec::new();
        for second in 0..10 * 3600 {
            let now = Duration::from_secs(second);
            // In bursts, with pauses that fit no part.
            if second % 1111 < 400 && budget.has(7.0, now) {
                budget.take(7.0);
                taken.push(second);
            }
        }
        let most = taken.iter().map(|&from| {
            let within = taken
                .iter()
                .filter(|&&at| (from..from + 3600).contains(&at));
            7 * within.count()
        });
        assert_eq!(most.max(), Some(56), "8 of 7 are the most within 60");
        assert!(taken.len() >= 8 * 9, "{}", taken.len());
    }

    #[test]
    fn what_is_used_is_back_after_a_period_and_a_part_of_it_and_no_more_than_that() {
        let mut budget = Budget::new(60, HOUR);
        assert!(budget.has(60.0, Duration::ZERO));
        budget.take(50.0);
        assert!(!budget.has(11.0, HOUR));
        assert_eq!(budget.left(HOUR), 10.0);
        assert_eq!(budget.left(HOUR + HOUR / PARTS), 60.0);
        assert!(!budget.has(61.0, 100 * HOUR));
        // A time that is told late changes nothing.
        assert!(budget.has(60.0, Duration::ZERO));
    }

    #[test]
    fn one_of_another_size_is_not_a_fresh_one() {
        let mut budget = Budget::new(60, HOUR);
        assert!(budget.has(50.0, Duration::ZERO));
        budget.take(50.0);
        budget.resize(100);
        assert!(!budget.has(51.0, Duration::ZERO));
        assert!(budget.has(50.0, Duration::ZERO));
        budget.resize(20);
        assert!(!budget.has(1.0, Duration::ZERO));
        assert_eq!(budget.left(Duration::ZERO), 0.0);
        assert!(budget.has(20.0, 2 * HOUR));
        assert!(!budget.has(21.0, 100 * HOUR));
    }
}
