//! What is left of a budget.

use std::{num::NonZeroU32, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota};

use super::config::Budget;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is left of a [`Budget`], which begins whole.
pub(super) struct Allowance {
    offloads: Option<DefaultDirectRateLimiter>,
    bytes: Option<DefaultDirectRateLimiter>,
}

/// Which budget is used up.
#[derive(Debug, thiserror::Error)]
#[error("the budget `{0}` is used up; it fills up with time")]
pub(super) struct UsedUp(&'static str);

impl Allowance {
    pub(super) fn new(budget: &Budget) -> Self {
        let bytes = |bytes: NonZeroU32| {
            let quota = Quota::with_period(DAY / bytes.get()).expect("a day has more nanoseconds");
            DefaultDirectRateLimiter::direct(quota.allow_burst(bytes))
        };
        Self {
            offloads: budget
                .offloads_per_hour
                .map(|offloads| DefaultDirectRateLimiter::direct(Quota::per_hour(offloads))),
            bytes: budget.bytes_per_day.map(bytes),
        }
    }

    /// Takes an offload of so many bytes.
    ///
    /// # Errors
    /// [`UsedUp`] where it is more than what is left.
    pub(super) fn take(&self, bytes: u64) -> Result<(), UsedUp> {
        if let Some(left) = &self.bytes {
            let used_up = || UsedUp("bytes_per_day");
            let bytes = u32::try_from(bytes.max(1)).map_err(|_| used_up())?;
            let bytes = NonZeroU32::new(bytes).ok_or_else(used_up)?;
            match left.check_n(bytes) {
                Ok(Ok(())) => {}
                _ => return Err(used_up()),
            }
        }
        match self.offloads.as_ref().map(|left| left.check()) {
            Some(Err(_)) => Err(UsedUp("offloads_per_hour")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up_by_offloads_and_by_bytes() {
        let budget = |offloads, bytes| Budget {
            offloads_per_hour: NonZeroU32::new(offloads),
            bytes_per_day: NonZeroU32::new(bytes),
        };
        let unbounded = Allowance::new(&budget(0, 0));
        assert!((0..1000).all(|_| unbounded.take(1 << 40).is_ok()));
        let offloads = Allowance::new(&budget(3, 0));
        assert!((0..3).all(|_| offloads.take(1 << 40).is_ok()));
        let error = offloads.take(1).unwrap_err().to_string();
        assert!(error.contains("offloads_per_hour"), "{error}");
        let bytes = Allowance::new(&budget(0, 1000));
        assert!(bytes.take(600).is_ok());
        // Too much for what is left, and what is left can still be had.
        for too_much in [600, 5000, 1 << 40] {
            let error = bytes.take(too_much).unwrap_err().to_string();
            assert!(error.contains("bytes_per_day"), "{error}");
        }
        assert!(bytes.take(300).is_ok());
    }
}
