//! Plots of an experiment.

use super::{
    super::{plan::Policy, profile::Event, rows::Row},
    experiment::{Experiment, Measured, Setting},
    figures::{Reference, Times, by_second, rows, share},
};
use crate::report::{Mark, NARROW, Plot, SMALL, Scale, Series, WIDE};

/// Points of a distribution.
const STEPS: usize = 150;
/// Size of the plot of a rate above one of what came of it.
const LOW: (u32, u32) = (860, 180);

/// A kind of image and its name.
type Kind = (&'static str, usize, fn(&Row) -> bool);

/// How a policy is drawn: its colour and whether it is one of those that are compared most.
fn look(policy: &Policy, policies: &[Policy]) -> (usize, Mark) {
    let place = |is: fn(&Policy) -> bool| {
        let family = policies.iter().filter(|other| is(other));
        family.take_while(|other| *other != policy).count()
    };
    match policy {
        Policy::DeviceOnly => (7, Mark::Line),
        Policy::CloudOnly => (1, Mark::Line),
        Policy::Learned(_) => {
            let place = place(|other| matches!(other, Policy::Learned(_)));
            ([0, 5, 6][place % 3], Mark::Line)
        }
        Policy::Threshold(_) => {
            let place = place(|other| matches!(other, Policy::Threshold(_)));
            ([2, 4, 3][place % 3], Mark::Thin)
        }
        Policy::Fixed(_) => {
            let place = place(|other| matches!(other, Policy::Fixed(_)));
            ([2, 4, 3, 6, 5][place % 5], Mark::Thin)
        }
    }
}

fn series(policy: &Policy, policies: &[Policy], points: Vec<(f64, f64)>) -> Series {
    let (colour, mark) = look(policy, policies);
    Series {
        name: policy.to_string(),
        colour,
        mark,
        points,
    }
}

/// Policies but those that keep to a point: on a path that stays as it is, they do what those that follow it do.
fn but_fixed(policy: &Policy) -> bool {
    !matches!(policy, Policy::Fixed(_))
}

/// How many images in a hundred had their answer by when, under each policy.
pub(super) fn distribution(experiment: &Experiment, setting: &Setting) -> Plot {
    let policies = experiment.policies_of(&setting.cascade);
    let shown = policies.iter().filter(|policy| but_fixed(policy));
    let of_policy = shown.map(|policy| {
        let runs = experiment.of(setting, policy);
        let mut latencies: Vec<f64> = rows(&runs).map(|row| row.latency_ms).collect();
        latencies.sort_unstable_by(f64::total_cmp);
        series(policy, &policies, steps(&latencies))
    });
    Plot {
        x: "ms to the answer",
        y: "images, %",
        series: of_policy
            .filter(|series| !series.points.is_empty())
            .collect(),
        scale: Scale::LogarithmicX,
        y_range: Some((0.0, 101.0)),
        ..Plot::new(SMALL)
    }
}

/// The distribution of sorted values, by at most so many steps.
fn steps(sorted: &[f64]) -> Vec<(f64, f64)> {
    let count = sorted.len();
    let each = count.div_ceil(STEPS).max(1);
    let mut points = Vec::new();
    for (place, &value) in sorted.iter().enumerate() {
        if place % each == 0 || place + 1 == count {
            if place == 0 {
                points.push((value, 0.0));
            }
            points.push((value, 100.0 * (place + 1) as f64 / count as f64));
        }
    }
    points
}

/// A family of policies in a plot of accuracy by time.
type Family = (&'static str, usize, Mark, fn(&Policy) -> bool);

/// Accuracy by mean latency, a dot a policy.
pub(super) fn frontier(experiment: &Experiment, reference: &Reference, setting: &Setting) -> Plot {
    let changing = experiment.changes(&setting.profile);
    let families: [Family; 5] = [
        ("device-only", 7, Mark::Dots, |p| *p == Policy::DeviceOnly),
        ("cloud-only", 1, Mark::Dots, |p| *p == Policy::CloudOnly),
        ("threshold", 2, Mark::Thin, |p| {
            matches!(p, Policy::Threshold(_))
        }),
        ("fixed", 3, Mark::Thin, |p| matches!(p, Policy::Fixed(_))),
        ("learned", 0, Mark::Line, |p| {
            matches!(p, Policy::Learned(_))
        }),
    ];
    let mut all = Vec::new();
    for (name, colour, mark, is_of) in families {
        if name == "fixed" && !changing {
            continue;
        }
        let policies = experiment.policies(setting).into_iter();
        let mut points: Vec<(f64, f64)> = policies
            .filter(is_of)
            .filter_map(|policy| point(experiment, reference, setting, &policy))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if points.is_empty() {
            continue;
        }
        if mark != Mark::Dots {
            all.push(Series {
                name: String::new(),
                colour,
                mark,
                points: points.clone(),
            });
        }
        all.push(Series {
            name: name.to_owned(),
            colour,
            mark: Mark::Dots,
            points,
        });
    }
    Plot {
        x: "mean ms to the answer",
        y: "top-1, %",
        series: all,
        scale: Scale::LogarithmicX,
        ..Plot::new(SMALL)
    }
}

/// Mean latency and accuracy of a policy: the cloud's over all its images, and what the policy is better or worse; its own where the
/// cloud alone was not run.
pub(super) fn point(
    experiment: &Experiment,
    reference: &Reference,
    setting: &Setting,
    policy: &Policy,
) -> Option<(f64, f64)> {
    let runs = experiment.of(setting, policy);
    let mean = Times::of_runs(&runs)?.mean;
    let cloud = reference.top1(&setting.cascade, &setting.payload);
    let points = reference.accuracy(experiment, setting, policy);
    let top1 = match (cloud, points) {
        (Some((top1, _)), Some(points)) => 100.0 * top1 + points.told.value,
        _ => 100.0 * share(rows(&runs), Row::is_right)?,
    };
    Some((mean, top1))
}

/// What of links is along a plot of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Along {
    /// Megabits a second from the device.
    Uplink,
    /// Milliseconds there and back.
    RoundTrip,
}

impl Along {
    /// In what the links of these settings differ most: rates where there are several, else round trips.
    pub(super) fn of(experiment: &Experiment, settings: &[&Setting]) -> Option<Self> {
        [Self::Uplink, Self::RoundTrip].into_iter().find(|along| {
            let values = settings
                .iter()
                .filter_map(|setting| along.value(experiment, setting));
            let mut values: Vec<f64> = values.collect();
            values.sort_unstable_by(f64::total_cmp);
            values.dedup();
            values.len() > 1
        })
    }

    fn value(self, experiment: &Experiment, setting: &Setting) -> Option<f64> {
        let condition = &experiment.profiles[&setting.profile].condition;
        match self {
            Self::Uplink => condition.uplink_mbps,
            Self::RoundTrip => Some(condition.round_trip_ms),
        }
    }

    /// Its words on an axis.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Uplink => "uplink, Mbit/s",
            Self::RoundTrip => "round trip, ms",
        }
    }
}

/// What of images is seen over several links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The share that was sent.
    Sent,
    /// The mean latency.
    Mean,
}

/// What images saw over links of several rates or round trips: dots, and a line through them where no two links share a place.
pub(super) fn over_links(
    experiment: &Experiment,
    settings: &[&Setting],
    along: Along,
    seen: Seen,
) -> Plot {
    let cascade = settings.first().map_or("", |setting| &setting.cascade);
    let policies = experiment.policies_of(cascade);
    let mut all = Vec::new();
    for policy in policies.iter().filter(|policy| but_fixed(policy)) {
        let points = settings.iter().filter_map(|setting| {
            let runs = experiment.of(setting, policy);
            let y = match seen {
                Seen::Sent => 100.0 * share(rows(&runs), Row::is_offloaded)?,
                Seen::Mean => Times::of_runs(&runs)?.mean,
            };
            Some((along.value(experiment, setting)?, y))
        });
        let mut points: Vec<(f64, f64)> = points.collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let line = series(policy, &policies, points);
        if line.points.is_empty() {
            continue;
        }
        let is_line = line.points.is_sorted_by(|a, b| a.0 < b.0);
        if is_line {
            all.push(Series {
                name: String::new(),
                mark: Mark::Thin,
                ..line.clone()
            });
        }
        all.push(Series {
            mark: Mark::Dots,
            ..line
        });
    }
    Plot {
        x: along.as_str(),
        y: match seen {
            Seen::Sent => "sent, %",
            Seen::Mean => "mean ms to the answer",
        },
        series: all,
        scale: Scale::LogarithmicX,
        y_range: (seen == Seen::Sent).then_some((-2.0, 102.0)),
        ..Plot::new(NARROW)
    }
}

/// Latencies of a run's images by their start, and until when the path was away; dots by who answered.
pub(super) fn timeline(
    run: &Measured,
    away: &[(f64, f64)],
    deadline_ms: f64,
    size: (u32, u32),
) -> Plot {
    let kinds: [Kind; 4] = [
        ("the cloud", 1, |row| row.site == "cloud"),
        ("the device, sure", 0, |row| {
            row.site == "device" && !row.is_fallback()
        }),
        ("the device, without a cloud", 2, |row| {
            row.site == "device" && row.is_fallback()
        }),
        ("no answer", 3, |row| row.class.is_none()),
    ];
    let dots = kinds.iter().map(|&(name, colour, is_of)| Series {
        name: name.to_owned(),
        colour,
        mark: Mark::SmallDots,
        points: run
            .rows
            .iter()
            .filter(|row| is_of(row))
            .map(|row| (row.started_ms / 1e3, row.latency_ms))
            .collect(),
    });
    let mut series: Vec<Series> = dots.filter(|dots| !dots.points.is_empty()).collect();
    let most = run.rows.iter().map(|row| row.latency_ms);
    let most = most.fold(0.0, f64::max);
    let end = run
        .rows
        .iter()
        .map(|row| row.started_ms)
        .fold(0.0, f64::max)
        / 1e3;
    let mut top = 1.1 * most;
    if deadline_ms < 1.5 * most {
        top = top.max(1.1 * deadline_ms);
        series.push(thin(
            "the deadline",
            vec![(0.0, deadline_ms), (end, deadline_ms)],
        ));
    }
    for &(from, to) in away.iter().filter(|(from, to)| from == to) {
        let name = "the device's address changes";
        series.push(thin(name, vec![(from, 0.0), (to, top)]));
    }
    Plot {
        x: "seconds",
        y: "ms to the answer",
        series,
        spans: away.iter().map(|&(from, to)| (from, to.min(end))).collect(),
        y_range: Some((0.0, top.max(1.0))),
        ..Plot::new(size)
    }
}

fn thin(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series {
        name: name.to_owned(),
        colour: 7,
        mark: Mark::Thin,
        points,
    }
}

/// The rate from the device over a run whose path changes; `None` where it has no bound.
pub(super) fn rates(experiment: &Experiment, run: &Measured) -> Option<Plot> {
    let profile = &experiment.profiles[&run.record.run.profile];
    let mut condition = profile.condition;
    let rate = |condition: super::super::profile::Condition| match condition.loss < 1.0 {
        true => condition.uplink_mbps,
        false => Some(0.0),
    };
    let mut points = vec![(0.0, rate(condition)?)];
    for change in &profile.changes {
        if matches!(change.what, Event::NewAddress(_)) {
            continue;
        }
        points.push((change.at, rate(condition)?));
        condition = profile.after(condition, change.what)?;
        points.push((change.at, rate(condition)?));
    }
    points.push((run.record.run.seconds, rate(condition)?));
    let most = points.iter().map(|point| point.1).fold(0.0, f64::max);
    Some(Plot {
        x: "seconds",
        y: "Mbit/s up",
        series: vec![Series {
            name: String::new(),
            colour: 7,
            mark: Mark::Line,
            points,
        }],
        y_range: Some((0.0, 1.08 * most)),
        ..Plot::new(LOW)
    })
}

/// The mean latency of each second while the path changes, of the policies that follow it and of those that keep to a point.
pub(super) fn following(experiment: &Experiment, setting: &Setting) -> Plot {
    let policies = experiment.policies_of(&setting.cascade);
    let shown = policies
        .iter()
        .filter(|policy| matches!(policy, Policy::Learned(_) | Policy::Fixed(_)));
    let of_policy = shown.map(|policy| {
        let runs = experiment.of(setting, policy);
        series(policy, &policies, by_second(rows(&runs)))
    });
    Plot {
        x: "seconds",
        y: "mean ms to the answer",
        series: of_policy
            .filter(|series| !series.points.is_empty())
            .collect(),
        ..Plot::new(WIDE)
    }
}
