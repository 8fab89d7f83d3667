//! When to change the operating point: not at once, and not for little.

use std::time::Duration;

/// How readily an operating point is changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FollowerConfig {
    /// Share by which another must be better.
    pub margin: f64,
    /// How long it must have been.
    pub dwell: Duration,
}

impl Default for FollowerConfig {
    /// A tenth, for two seconds: a link's jitter does neither.
    fn default() -> Self {
        Self {
            margin: 0.1,
            dwell: Duration::from_secs(2),
        }
    }
}

/// Follows what is best with hysteresis.
#[derive(Debug)]
pub struct Follower {
    config: FollowerConfig,
    /// Since when another is better.
    better_since: Option<Duration>,
}

impl Follower {
    /// One that has seen nothing.
    pub fn new(config: FollowerConfig) -> Self {
        Self {
            config,
            better_since: None,
        }
    }

    /// Looks at `now`, a time since any origin, at what is in place and at what would be best, each by its place and
    /// its cost (less is better); says whether to change.
    pub fn look(&mut self, current: (usize, f64), best: (usize, f64), now: Duration) -> bool {
        let is_better = best.0 != current.0 && best.1 < current.1 * (1.0 - self.config.margin);
        if !is_better {
            self.better_since = None;
            return false;
        }
        // Which one is best may vary meanwhile, as long as one is.
        let since = *self.better_since.get_or_insert(now);
        if now.saturating_sub(since) < self.config.dwell {
            return false;
        }
        self.better_since = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_better_one_is_taken_once_it_has_been_for_long_and_by_enough() {
        let mut follower = Follower::new(FollowerConfig::default());
        let current = (0, 1.0);
        assert!(!follower.look(current, (1, 0.5), seconds(0.0)));
        assert!(!follower.look(current, (2, 0.5), seconds(1.9)));
        assert!(follower.look(current, (2, 0.5), seconds(2.0)));
        // The next change waits again.
        assert!(!follower.look((2, 1.0), (0, 0.5), seconds(2.1)));
    }

    #[test]
    fn jitter_changes_nothing() {
        let mut follower = Follower::new(FollowerConfig::default());
        for i in 0..100 {
            let now = seconds(f64::from(i));
            // Better by little all the time; by much now and then.
            let cost = if i % 2 == 0 { 0.95 } else { 0.5 };
            assert!(!follower.look((0, 1.0), (1, cost), now));
        }
    }
}
