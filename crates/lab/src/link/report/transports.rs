//! HTTP/2 beside HTTP/3: the same images by both, on every path and under every policy that sends some.

use super::{
    super::{plan::Policy, rows::Row},
    experiment::{Experiment, Setting, may_send},
    figures::{Estimate, Times, estimate, latencies, pairs, rows, times_faster},
};
use crate::percentile::nearest_rank;

/// Both transports in a setting, under one policy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    /// How many times the mean latency by HTTP/2 is that by HTTP/3.
    pub(super) faster: Estimate,
    /// The same of the 95th percentiles.
    pub(super) p95: Estimate,
    /// By HTTP/2 and by HTTP/3: times of the images that both had.
    pub(super) times: (Times, Times),
    /// Images that the device answered in place of the cloud.
    pub(super) fallbacks: (usize, usize),
}

/// All cells of a cascade: a line a setting, a column a policy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) policies: Vec<Policy>,
    pub(super) lines: Vec<(Setting, Vec<Option<Cell>>)>,
}

/// `None` where no setting was run by both.
pub(super) fn matrix(experiment: &Experiment, cascade: &str) -> Option<Matrix> {
    let columns = experiment.policies_of(cascade).into_iter();
    let columns: Vec<Policy> = columns
        .filter(|policy| may_send(policy) && !matches!(policy, Policy::Fixed(_)))
        .collect();
    let settings = experiment.settings.iter();
    let by_h3 = settings.filter(|setting| setting.cascade == cascade && setting.transport == "h3");
    let line = |setting: &Setting| {
        let cells = columns
            .iter()
            .map(|policy| cell(experiment, setting, policy));
        let cells: Vec<Option<Cell>> = cells.collect();
        (setting.clone(), cells)
    };
    let lines = by_h3
        .map(line)
        .filter(|line| line.1.iter().any(Option::is_some));
    let lines: Vec<_> = lines.collect();
    // Policies that were not run by both have no column.
    let kept: Vec<bool> = (0..columns.len())
        .map(|column| lines.iter().any(|line| line.1[column].is_some()))
        .collect();
    let only = |place: usize| kept[place];
    let lines = lines.into_iter().map(|(setting, cells)| {
        let cells = cells.into_iter().enumerate();
        let cells = cells.filter(|(place, _)| only(*place));
        (setting, cells.map(|(_, cell)| cell).collect())
    });
    let lines: Vec<(Setting, Vec<Option<Cell>>)> = lines.collect();
    let policies = columns.iter().enumerate();
    let policies = policies.filter(|(place, _)| only(*place));
    (!lines.is_empty()).then(|| Matrix {
        policies: policies.map(|(_, policy)| policy.clone()).collect(),
        lines,
    })
}

fn cell(experiment: &Experiment, setting: &Setting, policy: &Policy) -> Option<Cell> {
    let by_h2 = experiment.of(&setting.by("h2"), policy);
    let by_h3 = experiment.of(&setting.by("h3"), policy);
    let pairs = pairs(&by_h2, &by_h3);
    let both = latencies(&pairs);
    let times = |of: fn(&(f64, f64)) -> f64| Times::of(both.iter().flatten().map(of));
    let fallbacks = |runs: &[_]| rows(runs).filter(|row| Row::is_fallback(row)).count();
    Some(Cell {
        faster: times_faster(&pairs)?,
        p95: estimate(&both, |pairs| {
            let p95 = |of: fn(&(f64, f64)) -> f64| {
                let mut values: Vec<f64> = pairs.iter().map(of).collect();
                nearest_rank(&mut values, 95).unwrap_or(0.0)
            };
            p95(|pair| pair.0) / p95(|pair| pair.1).max(f64::MIN_POSITIVE)
        })?,
        times: (times(|pair| pair.0)?, times(|pair| pair.1)?),
        fallbacks: (fallbacks(&by_h2), fallbacks(&by_h3)),
    })
}
