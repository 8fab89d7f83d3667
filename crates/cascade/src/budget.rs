//! How much may be sent: a store that fills up with time.

use std::time::Duration;

/// A store of so much a period, which begins full; what is not used is kept, up to the whole.
#[derive(Debug, Clone)]
pub struct Budget {
    most: f64,
    per_second: f64,
    left: f64,
    at: Duration,
}

impl Budget {
    /// One of `most` a `period`, full at the origin of the times that it is told.
    ///
    /// # Panics
    /// Where the period is zero.
    pub fn new(most: u32, period: Duration) -> Self {
        assert!(!period.is_zero(), "a period takes time");
        let most = f64::from(most);
        Self {
            most,
            per_second: most / period.as_secs_f64(),
            left: most,
            at: Duration::ZERO,
        }
    }

    /// Holds `most` a `period` from now on; what was used counts against it.
    ///
    /// # Panics
    /// Where the period is zero.
    pub fn resize(&mut self, most: u32, period: Duration) {
        let used = self.most - self.left;
        let resized = Self::new(most, period);
        self.left = (resized.most - used).max(0.0);
        self.most = resized.most;
        self.per_second = resized.per_second;
    }

    /// Whether so much is left at `now`.
    pub fn has(&mut self, amount: f64, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        self.left = (self.left + self.per_second * passed.as_secs_f64()).min(self.most);
        amount <= self.left
    }

    /// What is left at `now`.
    pub fn left(&mut self, now: Duration) -> f64 {
        self.has(0.0, now);
        self.left
    }

    /// Takes so much of what is left.
    pub fn take(&mut self, amount: f64) {
        self.left -= amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_is_used_comes_back_with_time_and_no_more_than_that() {
        let mut budget = Budget::new(60, HOUR);
        let mut now = Duration::ZERO;
        let mut taken = 0.0;
        for _ in 0..10 * 3600 {
            if budget.has(7.0, now) {
                budget.take(7.0);
                taken += 7.0;
            }
            now += Duration::from_secs(1);
        }
        // What it began with, and that of ten hours.
        assert!((653.0..=660.0).contains(&taken), "{taken}");
        assert!(!budget.has(61.0, now + 100 * HOUR));
        assert!(budget.has(60.0, now + 100 * HOUR));
        assert_eq!(budget.left(now + 100 * HOUR), 60.0);
        // A time that is told late changes nothing.
        assert!(budget.has(60.0, now));
    }

    #[test]
    fn one_of_another_size_is_not_a_fresh_one() {
        let mut budget = Budget::new(60, HOUR);
        assert!(budget.has(50.0, Duration::ZERO));
        budget.take(50.0);
        budget.resize(100, HOUR);
        assert!(!budget.has(51.0, Duration::ZERO));
        assert!(budget.has(50.0, Duration::ZERO));
        budget.resize(20, HOUR);
        assert!(!budget.has(1.0, Duration::ZERO));
        assert!(budget.has(20.0, HOUR));
        assert!(!budget.has(21.0, 100 * HOUR));
    }
}
