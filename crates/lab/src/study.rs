//! A study of a cascade: what learned policies make of its networks, beside what they are compared
//! with, on labelled images that no policy has seen.
//!
//! `lab evaluate` prints it, `lab report` draws it. This file reads the arguments and judges
//! policies; `findings` is what is found, `compare` how policies are told apart.

mod compare;
mod findings;

use std::path::PathBuf;

use fastrand::Rng;
use indicatif::ProgressBar;
use outpost_cascade::{Cascade, Site};
use outpost_exit_policy::{
    Confidence, Family, Function, Measure, Oracle, Outcomes, Price, Settings,
    calibrate::{Bin, expected_calibration_error, reliability, temperature},
    one_threshold, random_exits,
};

pub use compare::{AtBudget, Comparison, Rival};
pub(crate) use findings::find;
pub use findings::{
    Calibration, Curve, ExitSpeedUp, ExitTable, Judged, Kind, Overlap, Shares, SpeedUp, Study,
};

use crate::{
    learn::{LearnOptions, LearnPolicyError, load_cascade, progress},
    sweep::sweep,
    topology::{Instance, Topology, TopologyError},
    trace::Trace,
};

/// Points of loss at which speed-ups are told, as the paper does for early exits.
pub const LOSSES: [f64; 4] = [0.0, 1.0, 2.0, 5.0];
/// Shares of the largest network's time at which time and examples are broken down.
const BUDGETS: [f64; 3] = [0.2, 0.35, 0.6];
/// Steps of the probability with which random exits go on.
const RANDOM_STEPS: u32 = 50;
/// Values that a threshold for all nodes is tuned over.
const THRESHOLD_STEPS: usize = 100;
/// Networks that a study takes; what they get right together is told for each set of them.
const MOST_NETWORKS: usize = 6;
/// Ranges of confidence in a calibration diagram.
const BINS: usize = 15;

/// What a study is made of.
#[derive(Debug, Clone, clap::Args)]
pub struct StudyArgs {
    /// The cascade file: its networks and their sites.
    #[arg(long, value_name = "FILE")]
    pub cascade: PathBuf,
    /// A trace to learn from, made by `lab trace`. Exits that it has are studied too.
    #[arg(long, value_name = "FILE.parquet")]
    pub trace: PathBuf,
    /// A trace of other images to judge on; without it, parts of `--trace` take turns.
    #[arg(long, value_name = "FILE.parquet")]
    pub test: Option<PathBuf>,
    /// Parts that take turns where there is no `--test`.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=50))]
    pub folds: u8,
    /// How to learn.
    #[command(flatten)]
    pub options: LearnOptions,
}

/// The traces of a study, and how policies are judged on them.
struct Judge<'a> {
    args: &'a StudyArgs,
    trace: &'a Trace,
    /// Images that nothing is learned from; `None` where parts take turns.
    test: Option<&'a Trace>,
    progress: ProgressBar,
}

impl Judge<'_> {
    /// The trace whose images judge.
    fn judged(&self) -> &Trace {
        self.test.unwrap_or(self.trace)
    }

    /// A topology as the traces have seen it.
    fn instances(&self, topology: &Topology) -> Result<Instances, LearnPolicyError> {
        let model = self.args.options.cost_model();
        let on = |trace: &Trace| topology.on(trace, &model);
        Ok(Instances {
            known: on(self.trace)?,
            test: self.test.map(on).transpose()?,
        })
    }

    /// Learns at every price and judges each policy on images that it has not seen.
    fn learned(
        &self,
        instances: &Instances,
        settings: &Settings,
    ) -> Result<Vec<(Price, Outcomes)>, LearnPolicyError> {
        let problem = instances.known.problem()?;
        let prices = self.args.options.sweep_prices(&problem);
        let learn = |on: &[u32]| {
            sweep(&problem, on, &prices, settings, |n| {
                self.progress.inc(n as u64)
            })
        };
        let outcomes: Vec<Outcomes> = match &instances.test {
            Some(test) => {
                let policies = learn(&problem.all())?;
                let problem = test.problem()?;
                let all = problem.all();
                policies
                    .iter()
                    .map(|policy| problem.evaluate(policy, &all))
                    .collect()
            }
            None => {
                let mut folds: Vec<Vec<(Outcomes, Vec<u32>)>> = vec![Vec::new(); prices.len()];
                for (rest, fold) in self.folds() {
                    let policies = learn(&rest)?;
                    for (outcomes, policy) in folds.iter_mut().zip(&policies) {
                        outcomes.push((problem.evaluate(policy, &fold), fold.clone()));
                    }
                }
                folds.iter().map(|folds| Outcomes::join(folds)).collect()
            }
        };
        Ok(prices.into_iter().zip(outcomes).collect())
    }

    /// For every part, the other images and its own.
    fn folds(&self) -> Vec<(Vec<u32>, Vec<u32>)> {
        let mut order: Vec<u32> = (0..self.trace.len() as u32).collect();
        Rng::with_seed(self.args.options.seed).shuffle(&mut order);
        let folds = usize::from(self.args.folds);
        (0..folds)
            .map(|fold| {
                let is_here = |place: &usize| place % folds == fold;
                let pick = |here: bool| {
                    let mut picked: Vec<u32> = (0..order.len())
                        .filter(|place| is_here(place) == here)
                        .map(|place| order[place])
                        .collect();
                    picked.sort_unstable();
                    picked
                };
                (pick(false), pick(true))
            })
            .collect()
    }

    /// All curves of a topology.
    fn curves(
        &self,
        topology: &Topology,
        settings: &Settings,
    ) -> Result<Vec<Curve>, LearnPolicyError> {
        let instances = self.instances(topology)?;
        let reference = topology.traced().len() - 1;
        let mut curves = vec![
            (Kind::Learned, self.learned(&instances, settings)?),
            (Kind::Random, self.random(&instances)?),
            (
                Kind::SoftOracle,
                self.oracle(&instances, Oracle::Soft { reference })?,
            ),
            (Kind::FreeOracle, self.oracle(&instances, Oracle::Free)?),
        ];
        for measure in Measure::ALL {
            let settings = Settings {
                families: vec![Family::Constant, Family::Threshold],
                measures: vec![measure],
                ..settings.clone()
            };
            curves.push((
                Kind::Thresholds(measure),
                self.learned(&instances, &settings)?,
            ));
            curves.push((
                Kind::OneThreshold(measure),
                self.one_threshold(&instances, measure)?,
            ));
        }
        Ok(curves
            .into_iter()
            .map(|(kind, points)| Curve::new(topology.name.clone(), kind, points))
            .collect())
    }

    /// The same threshold at every node, at many values.
    fn one_threshold(
        &self,
        instances: &Instances,
        measure: Measure,
    ) -> Result<Vec<(Price, Outcomes)>, LearnPolicyError> {
        let known = instances.known.problem()?;
        let graph = known.graph();
        let decides = (0..graph.nodes()).filter(|&node| !graph.successors(node).is_empty());
        let mut said: Vec<Confidence> = decides
            .flat_map(|node| {
                let all = known.all();
                all.into_iter().map(move |example| (node, example))
            })
            .map(|(node, example)| measure.of(&known.examples().evidence(node, example as usize)))
            .collect();
        said.sort_unstable_by(|a, b| a.get().total_cmp(&b.get()));
        let judged = instances.judged().problem()?;
        let all = judged.all();
        let values = (0..=THRESHOLD_STEPS)
            .filter_map(|step| said.get(step * (said.len() - 1) / THRESHOLD_STEPS));
        Ok(values
            .map(|&value| {
                let policy = one_threshold(graph, measure, value);
                (Price::default(), judged.evaluate(&policy, &all))
            })
            .collect())
    }

    fn random(&self, instances: &Instances) -> Result<Vec<(Price, Outcomes)>, LearnPolicyError> {
        let problem = instances.judged().problem()?;
        let all = problem.all();
        let steps = (0..=RANDOM_STEPS).map(|i| f64::from(i) / f64::from(RANDOM_STEPS));
        Ok(steps
            .map(|go_on| (Price::default(), random_exits(&problem, &all, go_on)))
            .collect())
    }

    fn oracle(
        &self,
        instances: &Instances,
        oracle: Oracle,
    ) -> Result<Vec<(Price, Outcomes)>, LearnPolicyError> {
        let problem = instances.judged().problem()?;
        let all = problem.all();
        let prices = self.args.options.sweep_prices(&problem).into_iter();
        Ok(prices
            .map(|price| (price, oracle.evaluate(&problem, &all, price)))
            .collect())
    }
}

/// A topology as the traces of a study have seen it.
struct Instances {
    /// What is learned from.
    known: Instance,
    /// What nothing is learned from; `None` where parts take turns.
    test: Option<Instance>,
}

impl Instances {
    /// What judges.
    fn judged(&self) -> &Instance {
        self.test.as_ref().unwrap_or(&self.known)
    }
}

/// Studies what the arguments say.
///
/// # Errors
/// A [`LearnPolicyError`] that names what is at fault.
pub fn study(args: &StudyArgs) -> Result<Study, LearnPolicyError> {
    let cascade = load_cascade(&args.cascade)?;
    let trace = Trace::load(&args.trace)?;
    let test = args.test.as_deref().map(Trace::load).transpose()?;
    if let Some(test) = &test {
        same_nodes(&trace, test)?;
        if trace.spec.images == test.spec.images {
            return Err(LearnPolicyError::SameImages);
        }
    }
    let networks = networks(&cascade, &trace)?;
    if !(1..=MOST_NETWORKS).contains(&networks.len()) {
        return Err(LearnPolicyError::Networks {
            most: MOST_NETWORKS,
            found: networks.len(),
        });
    }
    let topologies = topologies(&networks);
    let exits: Vec<(usize, Topology)> = networks
        .iter()
        .enumerate()
        .filter_map(|(index, network)| Some((index, exits(&trace, network, networks[0].site)?)))
        .collect();
    let sweeps = (topologies.len() + exits.len()) * (1 + Measure::ALL.len());
    let turns = if test.is_some() {
        1
    } else {
        usize::from(args.folds)
    };
    let judge = Judge {
        args,
        trace: &trace,
        test: test.as_ref(),
        progress: progress(
            "learning",
            (sweeps * turns * usize::from(args.options.prices)) as u64,
        ),
    };

    let settings = args.options.settings();
    let mut curves = Vec::new();
    for network in &networks {
        let alone = Topology::chain(
            network.letter.clone(),
            networks[0].site,
            &[(network.traced, network.site)],
        );
        let instances = judge.instances(&alone)?;
        let problem = instances.judged().problem()?;
        let outcomes = problem.evaluate(&[Function::EXIT], &problem.all());
        let points = vec![(Price::default(), outcomes)];
        curves.push(Curve::new(alone.name, Kind::Alone, points));
    }
    for topology in topologies
        .iter()
        .chain(exits.iter().map(|(_, exits)| exits))
    {
        curves.extend(judge.curves(topology, &settings)?);
    }
    judge.progress.finish_and_clear();
    findings(&cascade, &judge, &networks, &topologies, curves, &exits)
}

fn findings(
    cascade: &Cascade,
    judge: &Judge<'_>,
    networks: &[Network],
    topologies: &[Topology],
    curves: Vec<Curve>,
    exits: &[(usize, Topology)],
) -> Result<Study, LearnPolicyError> {
    let args = judge.args;
    let judged = judge.judged();
    let largest = curves[networks.len() - 1].frontier.points[0].clone();
    let full = topologies
        .last()
        .map_or(String::new(), |topology| topology.name.clone());
    let whole = |network: usize| curves[network].frontier.points[0].clone();
    let of_networks = topologies
        .iter()
        .map(|topology| (topology, largest.clone()));
    let of_exits = exits
        .iter()
        .map(|(network, topology)| (topology, whole(*network)));
    let comparisons = of_networks
        .chain(of_exits)
        .flat_map(|(topology, largest)| {
            Rival::ALL.map(|rival| {
                Comparison::new(&topology.name, rival, &curves, &largest, args.options.seed)
            })
        })
        .collect();
    let exits = exits
        .iter()
        .map(|(network, topology)| {
            ExitTable::new(
                &networks[*network].name,
                &topology.name,
                &curves,
                whole(*network),
            )
        })
        .collect();
    let speed_ups = topologies
        .iter()
        .map(|topology| SpeedUp::new(&topology.name, &curves, &largest, args.options.seed))
        .collect();
    let names: Vec<String> = networks
        .iter()
        .map(|network| network.name.clone())
        .collect();
    let letters: Vec<String> = networks
        .iter()
        .map(|network| network.letter.clone())
        .collect();
    let all: Vec<u32> = (0..judged.len() as u32).collect();
    let known: Vec<u32> = (0..judge.trace.len() as u32).collect();
    let calibrations = networks.iter().map(|network| {
        let learned = temperature(&judge.trace.labelled(network.traced, &known));
        let temperature = learned.map_err(|source| LearnPolicyError::Calibrate {
            node: network.name.clone(),
            source,
        })?;
        let labelled = judged.labelled(network.traced, &all);
        let bins = |t: f64| -> Vec<Bin> { reliability(&labelled, t, BINS) };
        let (before, after) = (bins(1.0), bins(temperature.into()));
        Ok(Calibration {
            network: network.name.clone(),
            temperature,
            error_before: expected_calibration_error(&before),
            error_after: expected_calibration_error(&after),
            before,
            after,
        })
    });
    let calibrations = calibrations.collect::<Result<Vec<_>, LearnPolicyError>>()?;
    let shares = find(&curves, &full, Kind::Learned).map(|curve| {
        let budgets = BUDGETS.iter();
        budgets
            .filter_map(|share| Shares::new(&curve.frontier, &largest, *share, networks.len()))
            .collect()
    });
    Ok(Study {
        cascade: cascade.name().to_owned(),
        processor: judged.spec.processor.clone(),
        learned_from: judge.trace.len(),
        judged_on: judged.len(),
        folds: judge.test.is_none().then_some(args.folds),
        link: args.options.link,
        overlap: Overlap::new(
            judged,
            &networks.iter().map(|n| n.traced).collect::<Vec<_>>(),
        ),
        networks: names,
        letters,
        largest,
        comparisons,
        speed_ups,
        shares: shares.unwrap_or_default(),
        full_tree: full,
        curves,
        exits,
        calibrations,
    })
}

/// A whole network of the study.
struct Network {
    name: String,
    /// A letter for reports.
    letter: String,
    traced: usize,
    site: Site,
}

/// The whole networks of a cascade, each before those that it may go on to.
fn networks(cascade: &Cascade, trace: &Trace) -> Result<Vec<Network>, LearnPolicyError> {
    let graph = Topology::of_cascade(cascade, trace)?
        .graph()
        .map_err(TopologyError::from)?;
    let nodes: Vec<_> = cascade.nodes().map(|(_, node)| node).collect();
    let order = graph.bottom_up().iter().rev().map(|&node| nodes[node]);
    let whole = order.filter(|node| node.exit().is_none());
    let mut networks: Vec<Network> = whole
        .filter_map(|node| {
            Some(Network {
                name: node.name().to_owned(),
                letter: String::new(),
                traced: trace.node(node.name())?,
                site: node.site(),
            })
        })
        .collect();
    let names: Vec<String> = networks
        .iter()
        .map(|network| network.name.clone())
        .collect();
    for (network, letter) in networks.iter_mut().zip(letters(&names)) {
        network.letter = letter;
    }
    Ok(networks)
}

/// The shortest words that tell networks apart: a letter, as the paper has it, or more.
fn letters(names: &[String]) -> Vec<String> {
    let words: Vec<Vec<&str>> = names.iter().map(|name| name.split('-').collect()).collect();
    // What all names begin with says nothing.
    let shared = (0..)
        .take_while(|&i| {
            names.len() > 1 && words.iter().all(|w| w.len() > i + 1 && w[i] == words[0][i])
        })
        .count();
    let initials = words
        .iter()
        .map(|words| words[shared].chars().take(1).collect::<String>());
    let initials: Vec<String> = initials.map(|initial| initial.to_uppercase()).collect();
    let last: Vec<String> = words
        .iter()
        .map(|words| words[words.len() - 1].to_owned())
        .collect();
    let distinct = |words: &Vec<String>| (1..words.len()).all(|i| !words[..i].contains(&words[i]));
    [initials, last]
        .into_iter()
        .find(distinct)
        .unwrap_or_else(|| names.to_vec())
}

/// All chains of two networks, the chain of all, and the full tree.
fn topologies(networks: &[Network]) -> Vec<Topology> {
    let origin = networks[0].site;
    let node = |index: &usize| (networks[*index].traced, networks[*index].site);
    let name = |chain: &[usize]| {
        chain
            .iter()
            .map(|i| networks[*i].letter.clone())
            .collect::<Vec<_>>()
            .join("→")
    };
    let count = networks.len();
    let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| vec![a, b]));
    let all: Vec<usize> = (0..count).collect();
    let mut topologies: Vec<Topology> = pairs
        .chain((count > 2).then(|| all.clone()))
        .map(|chain| {
            Topology::chain(
                name(&chain),
                origin,
                &chain.iter().map(node).collect::<Vec<_>>(),
            )
        })
        .collect();
    if count > 2 {
        let nodes: Vec<_> = all.iter().map(node).collect();
        topologies.push(Topology::full_tree("full tree".to_owned(), origin, &nodes));
    }
    topologies
}

/// The exits of a network as a chain; `None` where the trace has none.
fn exits(trace: &Trace, network: &Network, origin: Site) -> Option<Topology> {
    let mut nodes: Vec<usize> = (0..trace.spec.nodes.len())
        .filter(|&node| trace.spec.nodes[node].network == network.name)
        .collect();
    nodes.sort_by_key(|&node| trace.spec.nodes[node].stage);
    let chain: Vec<_> = nodes.into_iter().map(|node| (node, network.site)).collect();
    let name = format!("{}, exits", network.letter);
    (chain.len() > 1).then(|| Topology::chain(name, origin, &chain))
}

/// Two traces must be of the same nodes and weights.
fn same_nodes(trace: &Trace, test: &Trace) -> Result<(), LearnPolicyError> {
    let pairs = trace.spec.nodes.iter().zip(&test.spec.nodes);
    let same = trace.spec.nodes.len() == test.spec.nodes.len()
        && pairs.into_iter().all(|(a, b)| {
            (&a.name, &a.digest, a.feature_width) == (&b.name, &b.digest, b.feature_width)
        });
    if same {
        Ok(())
    } else {
        Err(LearnPolicyError::OtherTrace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_get_the_shortest_words_that_tell_them_apart() {
        let named =
            |names: &[&str]| letters(&names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>());
        let cifar = ["cifar10-alexnet", "cifar10-googlenet", "cifar10-resnet"];
        assert_eq!(named(&cifar), ["A", "G", "R"]);
        assert_eq!(
            named(&["efficientnet-lite0", "efficientnet-lite2"]),
            ["lite0", "lite2"]
        );
        assert_eq!(named(&["squeezenet1.0", "efficientnet-lite2"]), ["S", "E"]);
        let photos = ["squeezenet1.0", "efficientnet-lite0", "efficientnet-lite2"];
        assert_eq!(named(&photos), ["squeezenet1.0", "lite0", "lite2"]);
        assert_eq!(named(&["resnet50"]), ["R"]);
    }
}
