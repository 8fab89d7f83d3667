//! What a study finds.

use outpost_exit_policy::{
    Measure, Outcomes, Price,
    bootstrap::{Interval, interval},
    calibrate::Bin,
};

use super::{Comparison, LOSSES, compare::RESAMPLES};
use crate::{frontier::Frontier, topology::Link, trace::Trace};

/// All findings.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    /// The cascade.
    pub cascade: String,
    /// The processor that the times are of.
    pub processor: String,
    /// Images learned from.
    pub learned_from: usize,
    /// Images judged on.
    pub judged_on: usize,
    /// Parts that took turns; `None` where the images judged on are others.
    pub folds: Option<u8>,
    /// The link between sites.
    pub link: Option<Link>,
    /// Names of the whole networks, each before those that it may go on to.
    pub networks: Vec<String>,
    /// Their letters.
    pub letters: Vec<String>,
    /// The last of them alone.
    pub largest: Outcomes,
    /// Every family of policies on every topology.
    pub curves: Vec<Curve>,
    /// Learned policies beside thresholds, for each topology, those of exits last, and each rival.
    pub comparisons: Vec<Comparison>,
    /// Speed-ups, a topology each.
    pub speed_ups: Vec<SpeedUp>,
    /// Name of the topology with all networks and all jumps.
    pub full_tree: String,
    /// Where time and examples go at some budgets, on the full tree.
    pub shares: Vec<Shares>,
    /// Early exits, a network each.
    pub exits: Vec<ExitTable>,
    /// What the networks get right together and alone.
    pub overlap: Overlap,
    /// Calibration, a network each.
    pub calibrations: Vec<Calibration>,
}

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody: one network answers all.
    Alone,
    /// Learned policies.
    Learned,
    /// One threshold on a measure for all nodes.
    OneThreshold(Measure),
    /// A threshold on a measure for each node, tuned together.
    Thresholds(Measure),
    /// Chance.
    Random,
    /// The oracle that may not correct the largest network.
    SoftOracle,
    /// The oracle that may answer with any network.
    FreeOracle,
}

impl Kind {
    /// Its words in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Learned => "learned",
            Self::OneThreshold(Measure::MaxProbability) => "one threshold on max probability",
            Self::OneThreshold(Measure::Margin) => "one threshold on margin",
            Self::OneThreshold(Measure::Entropy) => "one threshold on entropy",
            Self::Thresholds(Measure::MaxProbability) => "thresholds on max probability",
            Self::Thresholds(Measure::Margin) => "thresholds on margin",
            Self::Thresholds(Measure::Entropy) => "thresholds on entropy",
            Self::Random => "random exits",
            Self::SoftOracle => "soft oracle",
            Self::FreeOracle => "free oracle",
        }
    }
}

/// A policy at one price, judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The price; 0 where there is none.
    pub price: Price,
    /// Mean seconds.
    pub seconds: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Mean bytes on links.
    pub bytes: f64,
    /// Share of the examples sent over a link.
    pub offload_rate: f64,
}

/// A family of policies on a topology.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The topology.
    pub topology: String,
    /// Who decides.
    pub kind: Kind,
    /// Every price, as judged.
    pub judged: Vec<Judged>,
    /// What no other of them beats.
    pub frontier: Frontier,
}

impl Curve {
    pub(super) fn new(topology: String, kind: Kind, points: Vec<(Price, Outcomes)>) -> Self {
        let judged = points.iter().map(|(price, outcomes)| Judged {
            price: *price,
            seconds: outcomes.mean_seconds(),
            accuracy: 1.0 - outcomes.mean_loss(),
            bytes: outcomes.mean_bytes(),
            offload_rate: outcomes.offload_rate,
        });
        Self {
            topology,
            kind,
            judged: judged.collect(),
            frontier: Frontier::new(points.into_iter().map(|(_, outcomes)| outcomes)),
        }
    }
}

/// The curve of a kind of policies on a topology.
pub(crate) fn find<'a>(curves: &'a [Curve], topology: &str, kind: Kind) -> Option<&'a Curve> {
    curves
        .iter()
        .find(|curve| curve.topology == topology && curve.kind == kind)
}

/// How many times faster than the largest network a topology is at some losses.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeedUp {
    /// The topology.
    pub topology: String,
    /// For each of [`LOSSES`] the speed-up of the fastest learned policy that loses no more, picked where
    /// it is judged, and its 95 % interval, over resamples that pick anew; `None` where none loses so
    /// little.
    pub learned: Vec<Option<(f64, Interval)>>,
    /// The same of random exits.
    pub random: Vec<Option<f64>>,
    /// Share of the examples that the fastest learned policy without loss sends over a link, and its
    /// 95 % interval; `None` where no learned policy loses nothing, or none sends anything.
    pub zero_loss_offload: Option<(f64, Interval)>,
    /// Accuracy of the most accurate learned policy less that of the largest network, and its 95 %
    /// interval, in points; it was picked where it is judged.
    pub best_gain: (f64, Interval),
}

impl SpeedUp {
    pub(super) fn new(topology: &str, curves: &[Curve], largest: &Outcomes, seed: u64) -> Self {
        let frontier = |kind: Kind| find(curves, topology, kind).map(|curve| &curve.frontier);
        let learned = frontier(Kind::Learned).expect("every topology is learned");
        let random = frontier(Kind::Random).expect("every topology has random exits");
        let allowed = |points: f64| largest.mean_loss() + points / 100.0;
        let all: Vec<u32> = (0..largest.loss.len() as u32).collect();
        let ratio = |points: f64| {
            let speed_up = |drawn: &[u32]| {
                let seconds = |outcomes: &Outcomes| mean_of(&outcomes.seconds, drawn);
                let fastest = crossing(learned, largest, points / 100.0, drawn, seconds)?;
                Some(seconds(largest) / fastest)
            };
            // Where a resample has no such policy, the largest network answers.
            let resampled = |drawn: &[u32]| speed_up(drawn).unwrap_or(1.0);
            Some((
                speed_up(&all)?,
                interval(all.len(), RESAMPLES, seed, resampled),
            ))
        };
        let best = learned.points.last().expect("a frontier has a point");
        let gains: Vec<f64> = largest
            .loss
            .iter()
            .zip(&best.loss)
            .map(|(l, b)| 100.0 * f64::from(l - b))
            .collect();
        let mean = |drawn: &[u32]| {
            drawn.iter().map(|&i| gains[i as usize]).sum::<f64>() / drawn.len() as f64
        };
        Self {
            topology: topology.to_owned(),
            learned: LOSSES.into_iter().map(ratio).collect(),
            random: LOSSES
                .into_iter()
                .map(|points| {
                    let mixture = random.at_loss(allowed(points))?;
                    Some(largest.mean_seconds() / mixture.seconds())
                })
                .collect(),
            zero_loss_offload: zero_loss_offload(learned, largest, seed),
            best_gain: (mean(&all), interval(gains.len(), RESAMPLES, seed, mean)),
        }
    }
}

/// Mean of some examples of a column.
fn mean_of(values: &[f32], drawn: &[u32]) -> f64 {
    drawn
        .iter()
        .map(|&i| f64::from(values[i as usize]))
        .sum::<f64>()
        / drawn.len() as f64
}

/// A figure of the fastest policy of a frontier that loses at most so much against the largest network, by
/// the examples `drawn`. Between two policies a coin lands where the loss is just allowed.
fn crossing(
    frontier: &Frontier,
    largest: &Outcomes,
    tolerance: f64,
    drawn: &[u32],
    figure: impl Fn(&Outcomes) -> f64,
) -> Option<f64> {
    let allowed = mean_of(&largest.loss, drawn) + tolerance;
    let mixture = frontier.at_loss_by(allowed, |outcomes| mean_of(&outcomes.loss, drawn))?;
    Some(mixture.mix(figure))
}

/// Share of the examples that the fastest policy without loss offloads. In a resample where none is
/// without loss all is offloaded, as the largest network alone does.
fn zero_loss_offload(
    frontier: &Frontier,
    largest: &Outcomes,
    seed: u64,
) -> Option<(f64, Interval)> {
    let rate = |drawn: &[u32]| {
        let sent = |outcomes: &Outcomes| {
            let sent = drawn
                .iter()
                .filter(|&&i| outcomes.bytes[i as usize] > 0.0)
                .count();
            sent as f64 / drawn.len() as f64
        };
        crossing(frontier, largest, 0.0, drawn, sent)
    };
    let sends = frontier.points.iter().any(|point| point.offload_rate > 0.0);
    let all: Vec<u32> = (0..largest.loss.len() as u32).collect();
    let found = rate(&all).filter(|_| sends)?;
    let resampled = |drawn: &[u32]| rate(drawn).unwrap_or(1.0);
    Some((found, interval(all.len(), RESAMPLES, seed, resampled)))
}

/// Where time and examples go at a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    /// The mean time, as a share of the largest network's.
    pub budget: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Share of the examples that each network answers.
    pub answered: Vec<f64>,
    /// Share of the time that each network takes.
    pub time: Vec<f64>,
}

impl Shares {
    /// `None` where no policy is as fast.
    pub(super) fn new(
        frontier: &Frontier,
        largest: &Outcomes,
        budget: f64,
        networks: usize,
    ) -> Option<Self> {
        let mixture = frontier.at_seconds(budget * largest.mean_seconds())?;
        let total: f64 = (0..networks).map(|node| mixture.node_seconds(node)).sum();
        Some(Self {
            budget,
            accuracy: 1.0 - mixture.loss(),
            answered: (0..networks).map(|node| mixture.answered(node)).collect(),
            time: (0..networks)
                .map(|node| mixture.node_seconds(node) / total)
                .collect(),
        })
    }
}

/// What early exits make of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitTable {
    /// The network.
    pub network: String,
    /// Its topology, by which its curves are found.
    pub topology: String,
    /// For each of [`LOSSES`].
    pub rows: Vec<ExitSpeedUp>,
    /// The whole network.
    pub whole: Outcomes,
}

/// How many times faster than the whole network at a loss; `None` where it is not reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExitSpeedUp {
    /// Learned policies.
    pub learned: Option<f64>,
    /// One threshold for all exits, on the best measure.
    pub one_threshold: Option<f64>,
    /// Random exits.
    pub random: Option<f64>,
}

impl ExitTable {
    pub(super) fn new(network: &str, topology: &str, curves: &[Curve], whole: Outcomes) -> Self {
        let speed_up = |kind: Kind, points: f64| {
            let frontier = &find(curves, topology, kind)?.frontier;
            let mixture = frontier.at_loss(whole.mean_loss() + points / 100.0)?;
            Some(whole.mean_seconds() / mixture.seconds())
        };
        let row = |points: f64| ExitSpeedUp {
            learned: speed_up(Kind::Learned, points),
            one_threshold: Measure::ALL
                .into_iter()
                .filter_map(|measure| speed_up(Kind::OneThreshold(measure), points))
                .max_by(f64::total_cmp),
            random: speed_up(Kind::Random, points),
        };
        Self {
            network: network.to_owned(),
            topology: topology.to_owned(),
            rows: LOSSES.into_iter().map(row).collect(),
            whole,
        }
    }
}

/// Which networks are right about the same images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// For every set of networks, as bits, the images that exactly these are right about.
    pub right: Vec<usize>,
}

impl Overlap {
    pub(super) fn new(trace: &Trace, networks: &[usize]) -> Self {
        let mut right = vec![0; 1 << networks.len()];
        for image in 0..trace.len() {
            let bits = networks.iter().enumerate();
            let set: usize = bits
                .map(|(bit, &node)| usize::from(trace.is_right(node, image)) << bit)
                .sum();
            right[set] += 1;
        }
        Self { right }
    }
}

/// How far a network's probabilities mean what they say.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The network.
    pub network: String,
    /// The temperature, found on the images that policies are learned from; without others to judge on,
    /// these are the judged ones.
    pub temperature: f32,
    /// Expected calibration error on the judged images before scaling.
    pub error_before: f64,
    /// The same after scaling.
    pub error_after: f64,
    /// Ranges of confidence before scaling.
    pub before: Vec<Bin>,
    /// The same after scaling.
    pub after: Vec<Bin>,
}
