//! What a policy that follows the link loses to the best fixed one, chosen after all is over.

use super::{
    super::{plan::Policy, rows::Row},
    experiment::{Experiment, Setting},
    figures::{Estimate, Times, estimate, latencies, pairs, rows, share},
    speed::POINTS,
};

/// A learned policy that follows the link, on a path that changes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Regret {
    pub(super) setting: Setting,
    pub(super) goal: String,
    pub(super) followed: Outcome,
    /// The same point, kept throughout, and milliseconds that following it saves an image on the mean.
    pub(super) kept: Option<(Outcome, Estimate)>,
    /// The fastest fixed point that is no more than a point less accurate on the same images, and milliseconds an image that
    /// following loses to it: below 0 where no fixed point is as good. Absent where none is as accurate.
    pub(super) best: Option<(Policy, Outcome, Estimate)>,
}

/// What a policy did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome {
    pub(super) mean: f64,
    pub(super) top1: f64,
    pub(super) sent: f64,
    pub(super) fallbacks: f64,
}

impl Outcome {
    fn of(experiment: &Experiment, setting: &Setting, policy: &Policy) -> Option<Self> {
        let runs = experiment.of(setting, policy);
        Some(Self {
            mean: Times::of_runs(&runs)?.mean,
            top1: share(rows(&runs), Row::is_right)?,
            sent: share(rows(&runs), Row::is_offloaded)?,
            fallbacks: share(rows(&runs), Row::is_fallback)?,
        })
    }
}

/// Every learned policy that was run beside fixed ones on a path that changes.
pub(super) fn regrets(experiment: &Experiment) -> Vec<Regret> {
    let settings = experiment.settings.iter();
    let changing = settings.filter(|setting| experiment.changes(&setting.profile));
    let of_setting = |setting| {
        let policies = experiment.policies(setting);
        let fixed: Vec<Policy> = policies
            .iter()
            .filter(|policy| matches!(policy, Policy::Fixed(_)))
            .cloned()
            .collect();
        policies
            .into_iter()
            .filter_map(|policy| match policy {
                Policy::Learned(goal) if !fixed.is_empty() => {
                    regret(experiment, setting, goal, &fixed)
                }
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    changing.flat_map(of_setting).collect()
}

fn regret(
    experiment: &Experiment,
    setting: &Setting,
    goal: String,
    fixed: &[Policy],
) -> Option<Regret> {
    let learned = Policy::Learned(goal.clone());
    let beside = |policy: &Policy| {
        pairs(
            &experiment.of(setting, &learned),
            &experiment.of(setting, policy),
        )
    };
    let lost = |pairs: &[Vec<(&Row, &Row)>]| {
        estimate(&latencies(pairs), |pairs| {
            let differences = pairs.iter().map(|(learned, fixed)| learned - fixed);
            differences.sum::<f64>() / pairs.len() as f64
        })
    };
    let is_as_accurate = |pairs: &[Vec<(&Row, &Row)>]| {
        let right = |of: fn(&(&Row, &Row)) -> bool| {
            pairs.iter().flatten().filter(|pair| of(pair)).count() as f64
        };
        let allowed = POINTS / 100.0 * pairs.iter().flatten().count() as f64;
        right(|pair| pair.1.is_right()) >= right(|pair| pair.0.is_right()) - allowed
    };
    let same = Policy::Fixed(goal.clone());
    let kept = fixed.contains(&same).then(|| {
        let outcome = Outcome::of(experiment, setting, &same)?;
        let lost = lost(&beside(&same))?;
        let saved = Estimate {
            value: -lost.value,
            low: -lost.high,
            high: -lost.low,
            ..lost
        };
        Some((outcome, saved))
    });
    let best = fixed
        .iter()
        .filter_map(|policy| {
            let pairs = beside(policy);
            let lost = is_as_accurate(&pairs).then(|| lost(&pairs)).flatten()?;
            let outcome = Outcome::of(experiment, setting, policy)?;
            Some((policy.clone(), outcome, lost))
        })
        .max_by(|a, b| a.2.value.total_cmp(&b.2.value));
    Some(Regret {
        setting: setting.clone(),
        followed: Outcome::of(experiment, setting, &learned)?,
        goal,
        kept: kept.flatten(),
        best,
    })
}
