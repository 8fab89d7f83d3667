//! What may be sent to a peer, by its budgets.

use std::time::Duration;

use outpost_cascade::Budget;

use super::config::BudgetConfig;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is left of a peer's budgets.
pub(super) struct Budgets {
    offloads: Option<Budget>,
    bytes: Option<Budget>,
}

/// Which budget is used up.
#[derive(Debug, thiserror::Error)]
#[error("the budget `{0}` is used up; it fills up with time")]
pub(super) struct UsedUp(&'static str);

impl Budgets {
    /// Whole ones.
    pub(super) fn new(config: &BudgetConfig) -> Self {
        let offloads = config.offloads_per_hour;
        let bytes = config.bytes_per_day;
        Self {
            offloads: offloads.map(|most| Budget::new(most.get(), HOUR)),
            bytes: bytes.map(|most| Budget::new(most.get(), DAY)),
        }
    }

    /// Goes by other bounds from now on; what was used counts against them. One that is new begins whole.
    pub(super) fn resize(&mut self, config: &BudgetConfig) {
        let whole = Self::new(config);
        for (present, most, whole, period) in [
            (
                &mut self.offloads,
                config.offloads_per_hour,
                whole.offloads,
                HOUR,
            ),
            (&mut self.bytes, config.bytes_per_day, whole.bytes, DAY),
        ] {
            match (present.as_mut(), most) {
                (Some(budget), Some(most)) => budget.resize(most.get(), period),
                _ => *present = whole,
            }
        }
    }

    /// Takes an offload of so many bytes at `now`; takes nothing where it is more than what is left.
    ///
    /// # Errors
    /// [`UsedUp`], which names the budget.
    pub(super) fn take(&mut self, bytes: u64, now: Duration) -> Result<(), UsedUp> {
        let bytes = bytes as f64;
        for (budget, amount, name) in [
            (&mut self.offloads, 1.0, "offloads_per_hour"),
            (&mut self.bytes, bytes, "bytes_per_day"),
        ] {
            if budget
                .as_mut()
                .is_some_and(|budget| !budget.has(amount, now))
            {
                return Err(UsedUp(name));
            }
        }
        for (budget, amount) in [(&mut self.offloads, 1.0), (&mut self.bytes, bytes)] {
            if let Some(budget) = budget {
                budget.take(amount);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn one_that_is_used_up_leaves_the_other_as_it_was() {
        let budgets = |offloads, bytes| {
            Budgets::new(&BudgetConfig {
                offloads_per_hour: NonZeroU32::new(offloads),
                bytes_per_day: NonZeroU32::new(bytes),
            })
        };
        let now = Duration::ZERO;
        let mut unbounded = budgets(0, 0);
        assert!((0..1000).all(|_| unbounded.take(1 << 40, now).is_ok()));
        let mut both = budgets(2, 1000);
        assert!(both.take(600, now).is_ok());
        let error = both.take(600, now).unwrap_err().to_string();
        assert!(error.contains("bytes_per_day"), "{error}");
        assert!(both.take(300, now).is_ok());
        for _ in 0..10 {
            let error = both.take(50, now).unwrap_err().to_string();
            assert!(error.contains("offloads_per_hour"), "{error}");
        }
        // In an hour both offloads are back, and of the bytes a twenty-fourth beside the 100 that were left.
        assert!(both.take(141, now + HOUR).is_ok());
        assert!(both.take(10, now + HOUR).is_err());
    }
}
