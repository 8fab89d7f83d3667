//! Whether learned policies are better than tuned thresholds, and how far from the oracle.

use super::{Curve, Kind, find};
use crate::frontier::Frontier;
use outpost_exit_policy::{Outcomes, bootstrap::simultaneous_intervals};

/// Budgets at which policies are compared.
const BUDGETS: u32 = 16;
/// Resamples of a bootstrap.
pub(super) const RESAMPLES: usize = 1000;

/// What learned policies are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// The same threshold at every node, on the best of the measures.
    OneThreshold,
    /// A threshold a node, tuned together by the learner, on the best of the measures.
    Thresholds,
}

impl Rival {
    /// All, the simpler first.
    pub const ALL: [Self; 2] = [Self::OneThreshold, Self::Thresholds];

    /// Its words in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OneThreshold => "one threshold",
            Self::Thresholds => "a threshold a node",
        }
    }

    fn is(self, kind: Kind) -> bool {
        match self {
            Self::OneThreshold => matches!(kind, Kind::OneThreshold(_)),
            Self::Thresholds => matches!(kind, Kind::Thresholds(_)),
        }
    }
}

/// Learned policies of a topology beside tuned thresholds and the oracle.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The topology.
    pub topology: String,
    /// The thresholds.
    pub rival: Rival,
    /// From the fastest policy to the largest network's time.
    pub budgets: Vec<AtBudget>,
    /// The area between the learned policies and the soft oracle, divided by the span of the times (on a
    /// logarithmic scale): a mean distance in points of loss. Below 0 where policies correct the largest
    /// network, which the soft oracle may not.
    pub above_soft_oracle: f64,
    /// The same against the free oracle.
    pub above_free_oracle: f64,
    /// The same of the thresholds.
    pub rival_above_free_oracle: f64,
}

/// A comparison at one mean time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AtBudget {
    /// The mean time, in seconds.
    pub seconds: f64,
    /// Loss of the learned policy, 0 to 1.
    pub learned: f64,
    /// Loss of the best thresholds at this time; picked where they are judged, in their favour.
    pub threshold: f64,
    /// How much less the learned policy loses: an interval that holds at all budgets of a topology at
    /// once with 95 % confidence, paired by example.
    pub gain: (f64, f64),
}

impl AtBudget {
    /// 1 where the learned policy is better for sure, −1 where the threshold is, else 0.
    pub fn verdict(&self) -> i8 {
        match self.gain {
            (low, _) if low > 0.0 => 1,
            (_, high) if high < 0.0 => -1,
            _ => 0,
        }
    }
}

impl Comparison {
    /// Compares the curves of a topology up to the time of the largest network.
    pub(super) fn new(
        topology: &str,
        rival: Rival,
        curves: &[Curve],
        largest: &Outcomes,
        seed: u64,
    ) -> Self {
        let of = |kind| {
            let curve = find(curves, topology, kind);
            &curve.expect("a topology has curves of all kinds").frontier
        };
        let learned = of(Kind::Learned);
        let (soft, free) = (of(Kind::SoftOracle), of(Kind::FreeOracle));
        let thresholds: Vec<&Frontier> = curves
            .iter()
            .filter(|curve| curve.topology == topology && rival.is(curve.kind))
            .map(|curve| &curve.frontier)
            .collect();
        let fastest = |frontier: &&Frontier| frontier.points[0].mean_seconds();
        let from = thresholds
            .iter()
            .chain([&learned])
            .map(fastest)
            .fold(0.0, f64::max);
        let to = largest.mean_seconds().max(from);
        let (mut budgets, mut gaps) = (Vec::new(), [0.0; 3]);
        let mut differences: Vec<Vec<f64>> = Vec::new();
        for i in 0..BUDGETS {
            let share = f64::from(i) / f64::from(BUDGETS - 1);
            let seconds = from * (to / from).powf(share) * (1.0 + 1e-9);
            let best = thresholds
                .iter()
                .filter_map(|frontier| frontier.at_seconds(seconds))
                .min_by(|a, b| a.loss().total_cmp(&b.loss()));
            let (Some(learned), Some(threshold)) = (learned.at_seconds(seconds), best) else {
                continue;
            };
            let (Some(soft), Some(free)) = (soft.at_seconds(seconds), free.at_seconds(seconds))
            else {
                continue;
            };
            let pairs = threshold.losses().into_iter().zip(learned.losses());
            differences.push(
                pairs
                    .map(|(threshold, learned)| threshold - learned)
                    .collect(),
            );
            gaps[0] += learned.loss() - soft.loss();
            gaps[1] += learned.loss() - free.loss();
            gaps[2] += threshold.loss() - free.loss();
            budgets.push(AtBudget {
                seconds,
                learned: learned.loss(),
                threshold: threshold.loss(),
                gain: (0.0, 0.0),
            });
        }
        let intervals = simultaneous_intervals(&differences, RESAMPLES, seed);
        for (budget, interval) in budgets.iter_mut().zip(intervals) {
            budget.gain = (interval.low, interval.high);
        }
        let points = |gap: f64| 100.0 * gap / budgets.len().max(1) as f64;
        Self {
            topology: topology.to_owned(),
            rival,
            above_soft_oracle: points(gaps[0]),
            above_free_oracle: points(gaps[1]),
            rival_above_free_oracle: points(gaps[2]),
            budgets,
        }
    }

    /// Budgets at which the learned policy is better for sure, and those at which the threshold is.
    pub fn verdicts(&self) -> (usize, usize) {
        let count = |verdict| {
            self.budgets
                .iter()
                .filter(|b| b.verdict() == verdict)
                .count()
        };
        (count(1), count(-1))
    }
}
