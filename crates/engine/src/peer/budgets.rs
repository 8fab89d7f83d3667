//! What may be sent to a peer, by its budgets and by what the device runs from.

use std::{num::NonZeroU32, time::Duration};

use outpost_cascade::{Budget, OffloadEnergy};

use super::config::BudgetConfig;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How a device spares what it runs from, beside its budgets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thrift {
    /// Offloads an hour; no bound by default.
    pub offloads_per_hour: Option<NonZeroU32>,
    /// Joules an hour that offloads may take; no bound by default. Needs `energy`.
    pub joules_per_hour: Option<NonZeroU32>,
    /// What an offload takes, where that is known.
    pub energy: Option<OffloadEnergy>,
    /// How many times as long the pauses are between questions to endpoints that are not in use. Default 1.
    pub slowdown: NonZeroU32,
}

impl Default for Thrift {
    fn default() -> Self {
        Self {
            offloads_per_hour: None,
            joules_per_hour: None,
            energy: None,
            slowdown: NonZeroU32::MIN,
        }
    }
}

/// The energy that offloads took, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnergyUse {
    /// Joules since the start.
    pub spent: f64,
    /// Joules that are left of the hour's; none without a bound.
    pub left: Option<f64>,
}

/// A budget that is in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetLeft {
    /// Its name: `offloads_per_hour`, `bytes_per_day`, or one of what the device runs from, as `power: joules_per_hour`.
    pub name: &'static str,
    /// What may be used in any such time.
    pub most: f64,
    /// What is left of it.
    pub left: f64,
}

/// What is left of a peer's budgets.
pub(super) struct Budgets {
    offloads: Bound,
    bytes: Bound,
    thrifty_offloads: Bound,
    joules: Bound,
    energy: Option<OffloadEnergy>,
    /// When the last offload was, while its energy is known.
    last: Option<Duration>,
    spent: f64,
}

/// One of them.
struct Bound {
    name: &'static str,
    period: Duration,
    /// Kept while it does not bound: one that is put in force again goes on.
    budget: Option<Budget>,
    is_in_force: bool,
}

/// Which budget is used up.
#[derive(Debug, thiserror::Error)]
#[error("the budget `{0}` is used up; what was used is free again once its time has passed")]
pub(super) struct UsedUp(&'static str);

impl Bound {
    fn new(name: &'static str, period: Duration) -> Self {
        Self {
            name,
            period,
            budget: None,
            is_in_force: false,
        }
    }

    /// Goes by another bound from now on; what was used counts against it. The first one begins whole.
    fn set(&mut self, most: Option<NonZeroU32>) {
        self.is_in_force = most.is_some();
        match (&mut self.budget, most) {
            (Some(budget), Some(most)) => budget.resize(most.get()),
            (None, Some(most)) => self.budget = Some(Budget::new(most.get(), self.period)),
            (_, None) => {}
        }
    }

    fn in_force(&mut self) -> Option<&mut Budget> {
        self.budget.as_mut().filter(|_| self.is_in_force)
    }
}

impl Budgets {
    /// Whole ones.
    pub(super) fn new(config: &BudgetConfig) -> Self {
        let mut budgets = Self {
            offloads: Bound::new("offloads_per_hour", HOUR),
            bytes: Bound::new("bytes_per_day", DAY),
            thrifty_offloads: Bound::new("power: offloads_per_hour", HOUR),
            joules: Bound::new("power: joules_per_hour", HOUR),
            energy: None,
            last: None,
            spent: 0.0,
        };
        budgets.resize(config);
        budgets
    }

    /// Goes by other bounds from now on; what was used counts against them.
    pub(super) fn resize(&mut self, config: &BudgetConfig) {
        self.offloads.set(config.offloads_per_hour);
        self.bytes.set(config.bytes_per_day);
    }

    /// Spares what the device runs from in another way from now on.
    pub(super) fn spare(&mut self, thrift: &Thrift) {
        self.thrifty_offloads.set(thrift.offloads_per_hour);
        self.joules.set(thrift.joules_per_hour);
        self.energy = thrift.energy;
    }

    /// Takes an offload of so many bytes at `now`; takes nothing where it is more than what is left.
    ///
    /// # Errors
    /// [`UsedUp`], which names the budget.
    pub(super) fn take(&mut self, bytes: u64, now: Duration) -> Result<(), UsedUp> {
        let since = self.last.map(|last| now.saturating_sub(last));
        let energy = self.energy.as_ref();
        let joules = energy.map_or(0.0, |energy| energy.joules(bytes, since));
        let mut amounts = [
            (&mut self.offloads, 1.0),
            (&mut self.bytes, bytes as f64),
            (&mut self.thrifty_offloads, 1.0),
            (&mut self.joules, joules),
        ];
        for (bound, amount) in &mut amounts {
            let is_within = bound
                .in_force()
                .is_none_or(|budget| budget.has(*amount, now));
            if !is_within {
                return Err(UsedUp(bound.name));
            }
        }
        for (bound, amount) in amounts {
            if let Some(budget) = bound.in_force() {
                budget.take(amount);
            }
        }
        self.spent += joules;
        self.last = Some(now);
        Ok(())
    }

    /// Those in force, as of `now`.
    pub(super) fn left(&mut self, now: Duration) -> Vec<BudgetLeft> {
        let bounds = [
            &mut self.offloads,
            &mut self.bytes,
            &mut self.thrifty_offloads,
            &mut self.joules,
        ];
        let left = |bound: &mut Bound| {
            let name = bound.name;
            let budget = bound.in_force()?;
            Some(BudgetLeft {
                name,
                most: budget.most(),
                left: budget.left(now),
            })
        };
        bounds.into_iter().filter_map(left).collect()
    }

    /// The energy that offloads took until `now`; none where it is not known what one takes.
    pub(super) fn energy(&mut self, now: Duration) -> Option<EnergyUse> {
        self.energy?;
        Some(EnergyUse {
            spent: self.spent,
            left: self.joules.in_force().map(|budget| budget.left(now)),
        })
    }
}

#[cfg(test)]
mod tests {
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
        let later = now + 2 * HOUR;
        let left = both.left(later);
        assert_eq!(left.len(), 2);
        assert_eq!((left[0].name, left[0].left), ("offloads_per_hour", 2.0));
        assert_eq!((left[1].most, left[1].left), (1000.0, 100.0));
        // After an hour both offloads are free again, and the bytes only after a day.
        assert!(both.take(90, later).is_ok());
        let error = both.take(20, later).unwrap_err().to_string();
        assert!(error.contains("bytes_per_day"), "{error}");
        assert!(both.take(20, now + DAY + HOUR).is_ok());
    }

    fn thrift(joules_per_hour: u32) -> Thrift {
        Thrift {
            joules_per_hour: NonZeroU32::new(joules_per_hour),
            energy: Some(OffloadEnergy {
                joules_per_byte: 1e-3,
                radio_watts: 1.0,
                radio_tail: Duration::from_secs(10),
            }),
            ..Thrift::default()
        }
    }

    #[test]
    fn offloads_end_with_the_energy_that_they_may_take_and_come_back_with_time() {
        let mut budgets = Budgets::new(&BudgetConfig::default());
        budgets.spare(&thrift(100));
        // 20 joules each: 10 a tail, 10 by its bytes.
        let at = |offload: u64| Duration::from_secs(10 * offload);
        let taken = (0..10).take_while(|&offload| budgets.take(10_000, at(offload)).is_ok());
        assert_eq!(taken.count(), 5);
        let error = budgets.take(10_000, at(7)).unwrap_err().to_string();
        assert!(error.contains("power: joules_per_hour"), "{error}");
        let used = budgets.energy(at(7)).unwrap();
        assert_eq!(used.spent, 100.0);
        assert!(used.left.unwrap() < 20.0);
        // Within one tail they cost their bytes alone.
        let later = at(0) + 2 * HOUR;
        assert_eq!(
            (0..20)
                .filter(|_| budgets.take(5_000, later).is_ok())
                .count(),
            18
        );
    }

    #[test]
    fn what_was_used_counts_once_it_is_spared_again() {
        let mut budgets = Budgets::new(&BudgetConfig::default());
        budgets.spare(&thrift(100));
        assert!(budgets.take(80_000, Duration::ZERO).is_ok());
        budgets.spare(&Thrift::default());
        assert!(budgets.take(1 << 30, Duration::ZERO).is_ok());
        assert_eq!(budgets.energy(Duration::ZERO), None);
        budgets.spare(&thrift(100));
        assert!(budgets.take(11_000, Duration::ZERO).is_err());
        assert!(budgets.take(9_000, Duration::ZERO).is_ok());
    }

    #[test]
    fn a_class_may_bound_offloads_below_the_budget() {
        let mut budgets = Budgets::new(&BudgetConfig {
            offloads_per_hour: NonZeroU32::new(100),
            bytes_per_day: None,
        });
        budgets.spare(&Thrift {
            offloads_per_hour: NonZeroU32::new(2),
            ..Thrift::default()
        });
        let taken = (0..5).filter(|_| budgets.take(1, Duration::ZERO).is_ok());
        assert_eq!(taken.count(), 2);
        budgets.spare(&Thrift::default());
        let taken = (0..200).filter(|_| budgets.take(1, Duration::ZERO).is_ok());
        assert_eq!(taken.count(), 98);
    }
}
