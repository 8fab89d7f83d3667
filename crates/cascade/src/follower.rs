//! When to follow what is better: not at once.

use std::time::Duration;

/// How long another operating point must have been the better one.
const DWELL: Duration = Duration::from_secs(2);

/// Follows what is better with patience: a link's jitter is over soon.
#[derive(Debug)]
pub struct Follower {
    dwell: Duration,
    /// Since when something is better.
    better_since: Option<Duration>,
}

impl Default for Follower {
    /// One of operating points, which changes once another has been better for two seconds.
    fn default() -> Self {
        Self::new(DWELL)
    }
}

impl Follower {
    /// One that changes once something has been better for so long.
    pub fn new(dwell: Duration) -> Self {
        Self {
            dwell,
            better_since: None,
        }
    }

    /// Looks at `now`, a time since any origin, whether something is better than what is in place, by enough; says
    /// whether to change. What it is may vary meanwhile.
    pub fn look(&mut self, is_better: bool, now: Duration) -> bool {
        if !is_better {
            self.better_since = None;
            return false;
        }
        let since = *self.better_since.get_or_insert(now);
        let is_time = now.saturating_sub(since) >= self.dwell;
        if is_time {
            self.better_since = None;
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn what_is_better_for_long_is_followed_and_the_next_change_waits_again() {
        let mut follower = Follower::new(seconds(2.0));
        assert!(!follower.look(true, seconds(0.0)));
        assert!(!follower.look(true, seconds(1.9)));
        assert!(follower.look(true, seconds(2.0)));
        assert!(!follower.look(true, seconds(2.1)));
        assert!(follower.look(true, seconds(4.1)));
    }

    #[test]
    fn jitter_changes_nothing() {
        let mut follower = Follower::new(seconds(2.0));
        for i in 0..100 {
            let is_better = i % 3 != 0;
            assert!(!follower.look(is_better, seconds(f64::from(i))));
        }
    }
}
