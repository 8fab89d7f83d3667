//! How much sooner answers come by a learned policy than by the better of the device alone and the cloud alone.

use super::{
    super::plan::Policy,
    experiment::{Experiment, Setting, may_send},
    figures::{Accuracy, Estimate, Reference, Times, mean, pairs, rows, share, times_faster},
};

/// Points of accuracy that a policy may lose against the cloud.
pub(super) const POINTS: f64 = 1.0;
/// How many times sooner answers should come: anywhere, and on LTE near the mast and worse.
const ANYWHERE: f64 = 1.0;
const BAD: f64 = 1.5;

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is.
    Holds,
    /// The interval has both in it.
    Open,
    /// It is not.
    Fails,
    /// Nothing was run that would tell.
    NotRun,
}

impl Verdict {
    /// Of all together: the worst that was found out, as far as any was.
    pub(super) fn all(verdicts: impl IntoIterator<Item = Self>) -> Self {
        let verdicts: Vec<Self> = verdicts.into_iter().collect();
        let worst = [Self::Fails, Self::Open, Self::Holds];
        let found = worst.into_iter().find(|verdict| verdicts.contains(verdict));
        found.unwrap_or(Self::NotRun)
    }

    /// Whether `found` is at least `needed`.
    pub(super) fn at_least(found: &Estimate, needed: f64) -> Self {
        match () {
            () if found.low >= needed => Self::Holds,
            () if found.high < needed => Self::Fails,
            () => Self::Open,
        }
    }
}

/// What the learned policies do in a setting.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Speed {
    pub(super) setting: Setting,
    /// How many times sooner than its rival the policy should answer.
    pub(super) needed: f64,
    /// The learned policy that is told of: of those as accurate as needed the fastest, else the most accurate.
    pub(super) policy: Policy,
    /// Points that it is more accurate than the cloud, over all links, and in this setting alone.
    pub(super) points: Estimate,
    pub(super) here: Estimate,
    /// Whether that is as accurate as needed.
    pub(super) is_as_accurate: bool,
    /// The better of the device and the cloud alone; absent where neither had enough of the same images.
    pub(super) rival: Option<Rival>,
    pub(super) verdict: Verdict,
    /// Where the time goes.
    pub(super) parts: Parts,
}

/// What a learned policy has to beat.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rival {
    pub(super) policy: Policy,
    /// How many times sooner than it the learned policy answers, over the same images.
    pub(super) faster: Estimate,
    pub(super) parts: Parts,
}

/// Where the time of images goes, on the mean, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Parts {
    pub(super) latency: f64,
    pub(super) device: f64,
    /// On the link and in the cloud.
    pub(super) elsewhere: f64,
    /// Share of images that were sent.
    pub(super) sent: f64,
    /// Share that the device answered in place of the cloud.
    pub(super) fallbacks: f64,
}

impl Parts {
    fn of(experiment: &Experiment, setting: &Setting, policy: &Policy) -> Option<Self> {
        let runs = experiment.of(setting, policy);
        let rows = || rows(&runs);
        let part =
            |of: fn(&super::super::rows::Row) -> f64| mean(&rows().map(of).collect::<Vec<f64>>());
        Some(Self {
            latency: Times::of_runs(&runs)?.mean,
            device: part(|row| row.device_ms.unwrap_or(0.0) + row.encode_ms.unwrap_or(0.0))?,
            elsewhere: part(|row| row.link_ms.unwrap_or(0.0) + row.cloud_ms.unwrap_or(0.0))?,
            sent: share(rows(), |row| row.is_offloaded())?,
            fallbacks: share(rows(), |row| row.is_fallback())?,
        })
    }
}

/// Every setting in which a learned policy and the cloud alone were run.
pub(super) fn speeds(experiment: &Experiment, reference: &Reference) -> Vec<Speed> {
    let settings = experiment.settings.iter();
    settings
        .filter_map(|setting| speed(experiment, reference, setting))
        .collect()
}

fn speed(experiment: &Experiment, reference: &Reference, setting: &Setting) -> Option<Speed> {
    let needed = match experiment.is_bad(&setting.profile) {
        true => BAD,
        false => ANYWHERE,
    };
    let points = |policy: &Policy| reference.accuracy(experiment, setting, policy);
    let policies = experiment.policies(setting);
    let qualifies = |found: &Accuracy| found.told.value >= -POINTS && found.here.high >= -POINTS;
    let alone = [Policy::CloudOnly, Policy::DeviceOnly];
    let rivals: Vec<&Policy> = alone
        .iter()
        .filter(|policy| policies.contains(policy))
        .filter(|policy| may_send(policy) || points(policy).is_some_and(|found| qualifies(&found)))
        .collect();
    if !rivals.contains(&&Policy::CloudOnly) {
        return None;
    }
    let learned: Vec<(&Policy, Accuracy)> = policies
        .iter()
        .filter(|policy| matches!(policy, Policy::Learned(_)))
        .filter_map(|policy| Some((policy, points(policy)?)))
        .collect();
    // The rival that is harder to beat.
    let against = |policy: &Policy| {
        let found = rivals.iter().filter_map(|rival| {
            let pairs = pairs(
                &experiment.of(setting, rival),
                &experiment.of(setting, policy),
            );
            Some(Rival {
                policy: (*rival).clone(),
                faster: times_faster(&pairs)?,
                parts: Parts::of(experiment, setting, rival)?,
            })
        });
        found.min_by(|a, b| a.faster.value.total_cmp(&b.faster.value))
    };
    let is_as_accurate = learned.iter().any(|(_, points)| qualifies(points));
    let best = learned
        .iter()
        .filter(|(_, points)| qualifies(points))
        .filter_map(|(policy, points)| Some((*policy, *points, against(policy)?)))
        .max_by(|a, b| a.2.faster.value.total_cmp(&b.2.faster.value));
    let (policy, points, rival) = match best {
        Some((policy, points, rival)) => (policy, points, Some(rival)),
        None => {
            let most = learned.iter();
            let (policy, points) = most.max_by(|a, b| a.1.told.value.total_cmp(&b.1.told.value))?;
            (*policy, *points, against(policy))
        }
    };
    let accurate = match points.told.high.min(points.here.high) >= -POINTS {
        _ if is_as_accurate => Verdict::Holds,
        true => Verdict::Open,
        false => Verdict::Fails,
    };
    let fast = rival.as_ref().map_or(Verdict::Open, |rival| {
        Verdict::at_least(&rival.faster, needed)
    });
    Some(Speed {
        setting: setting.clone(),
        needed,
        policy: policy.clone(),
        points: points.told,
        here: points.here,
        is_as_accurate,
        rival,
        verdict: Verdict::all([accurate, fast]),
        parts: Parts::of(experiment, setting, policy)?,
    })
}
