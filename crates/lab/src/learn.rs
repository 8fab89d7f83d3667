//! `lab learn`: from a trace and a cascade to a policy bundle.
//!
//! The examples are drawn apart by the seed: policies are learned from one part, and the other, which
//! they have not seen, says what each operating point is expected to do and which of them keeps a
//! promised bound on its loss.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use comfy_table::Table;
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use outpost_cascade::{Cascade, CascadeError, Site};
use outpost_exit_policy::{
    Bundle, BundleError, BundleNode, Differences, Expected, Family, Function, LearnError,
    OperatingPoint, Outcomes, Price, Problem, ProblemError, Promise, PromiseError, Reference,
    Settings,
    calibrate::{CalibrationError, temperature},
};

use crate::{
    sweep::sweep,
    table::{percent, row, table},
    topology::{CostModel, Link, Topology, TopologyError, parse_scale},
    trace::{Trace, TraceError},
};

/// How policies are learned; shared by all commands that learn.
#[derive(Debug, Clone, clap::Args)]
pub struct LearnOptions {
    /// The link between two sites, as `ROUND_TRIP,UPLINK`, such as `20ms,10Mbps`. Without it sending
    /// costs bytes and no time.
    #[arg(long, value_name = "LINK")]
    pub link: Option<Link>,
    /// A factor on the traced times of a site, such as `cloud=0.1`; may be repeated.
    #[arg(long, value_name = "SITE=FACTOR", value_parser = parse_scale)]
    pub scale: Vec<(Site, f64)>,
    /// How many prices of time to learn for.
    #[arg(long, value_name = "COUNT", default_value_t = 30, value_parser = clap::value_parser!(u16).range(3..=1000))]
    pub prices: u16,
    /// What saving a megabyte on a link is worth, in points of loss.
    #[arg(long, value_name = "POINTS", default_value_t = 0.0, value_parser = parse_amount)]
    pub points_per_megabyte: f64,
    /// Draws the examples apart. Equal seeds give equal policies.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Do not look at pooled features, even where the trace has them.
    #[arg(long)]
    pub no_features: bool,
}

impl LearnOptions {
    /// What steps cost.
    pub(crate) fn cost_model(&self) -> CostModel {
        CostModel {
            link: self.link,
            scales: self.scale.clone(),
        }
    }

    /// How to learn.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings {
            seed: self.seed,
            ..Settings::default()
        };
        if self.no_features {
            settings
                .families
                .retain(|family| *family != Family::Features);
        }
        settings
    }

    /// The prices to learn for.
    pub(crate) fn sweep_prices(&self, problem: &Problem<'_>) -> Vec<Price> {
        let per_byte = self.points_per_megabyte / 100.0 / 1e6;
        Price::sweep(self.prices.into(), problem.dearest_seconds())
            .into_iter()
            .map(|price| Price { per_byte, ..price })
            .collect()
    }
}

/// What `lab learn` is asked.
#[derive(Debug, clap::Args)]
pub struct LearnArgs {
    /// The cascade file.
    #[arg(long, value_name = "FILE")]
    pub cascade: PathBuf,
    /// A trace of all its nodes, made by `lab trace`.
    #[arg(long, value_name = "FILE.parquet")]
    pub trace: PathBuf,
    /// Where the policy bundle goes.
    #[arg(long, value_name = "FILE.json")]
    pub out: PathBuf,
    /// Share of the examples that policies are not learned from but judged on.
    #[arg(long, value_name = "SHARE", default_value_t = 0.4, value_parser = parse_share)]
    pub calibration_share: f64,
    /// Also promise a bound: find the cheapest operating point that loses at most so many points
    /// against the largest network, with `--promise-confidence`. It gets the name `promised`.
    #[arg(long, value_name = "POINTS")]
    pub promise_loss: Option<f64>,
    /// The least probability that the promised bound holds.
    #[arg(
        long,
        value_name = "PROBABILITY",
        default_value_t = 0.95,
        requires = "promise_loss"
    )]
    pub promise_confidence: f64,
    /// How to learn.
    #[command(flatten)]
    pub options: LearnOptions,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnPolicyError {
    /// The cascade file is at fault.
    #[error("cannot use the cascade {}", path.display())]
    Cascade {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CascadeError,
    },
    /// The trace is at fault.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The trace is not of the cascade.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A trace to judge on is of other nodes than the one to learn from.
    #[error("the two traces are not of the same nodes, weights and features: trace both alike")]
    OtherTrace,
    /// A cost is at fault.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// There is nothing to learn from.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// A node cannot be calibrated.
    #[error("cannot calibrate the node {node:?}")]
    Calibrate {
        /// The node.
        node: String,
        /// Why.
        source: CalibrationError,
    },
    /// No examples are left to judge on.
    #[error("of {0} examples none is left to judge on: give more, or a larger --calibration-share")]
    NoCalibration(usize),
    /// The images to judge on are those to learn from.
    #[error("--trace and --test are of the same images: judge on others, or leave --test out")]
    SameImages,
    /// The cascade has no network to study, or more than a study takes.
    #[error("a study takes 1 to {most} whole networks, the cascade has {found}")]
    Networks {
        /// Most that it takes.
        most: usize,
        /// Whole networks of the cascade.
        found: usize,
    },
    /// The promise is none.
    #[error(transparent)]
    Promise(#[from] PromiseError),
    /// No policy keeps the promise.
    #[error(
        "a loss of at most {tolerance} points with a confidence of {confidence} is not reachable with \
         {examples} calibration examples: the safest policy is held to lose at most {reachable}. Give \
         more examples, a larger loss or a lower confidence"
    )]
    Unreachable {
        /// Promised, in points.
        tolerance: f64,
        /// Promised.
        confidence: f64,
        /// Calibration examples.
        examples: usize,
        /// The least loss that the safest policy can be held to, as words.
        reachable: String,
    },
    /// The bundle does not hold together.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The bundle cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The table cannot be printed.
    #[error("cannot print the operating points")]
    Print(#[from] io::Error),
}

/// Runs `lab learn`.
///
/// # Errors
/// A [`LearnPolicyError`] that says what is at fault.
pub fn run(args: &LearnArgs, out: &mut dyn Write) -> Result<(), LearnPolicyError> {
    let cascade = load_cascade(&args.cascade)?;
    let trace = Trace::load(&args.trace)?;
    let topology = Topology::of_cascade(&cascade, &trace)?;
    let model = args.options.cost_model();
    let instance = topology.on(&trace, &model)?;
    let problem = instance.problem()?;
    let promise = args
        .promise_loss
        .map(|points| Promise::try_new(points / 100.0, args.promise_confidence))
        .transpose()?;

    let (on, calibration) = split(trace.len(), args.calibration_share, args.options.seed);
    if calibration.is_empty() {
        return Err(LearnPolicyError::NoCalibration(trace.len()));
    }
    let names: Vec<&str> = cascade.nodes().map(|(_, node)| node.name()).collect();
    let traced = topology.traced();
    let nodes = cascade.nodes().enumerate().map(|(place, (_, node))| {
        let labelled = trace.labelled(traced[place], &calibration);
        Ok(BundleNode {
            name: node.name().to_owned(),
            successors: node
                .jumps()
                .iter()
                .map(|j| names[j.index()].to_owned())
                .collect(),
            feature_width: trace.spec.nodes[traced[place]].feature_width,
            temperature: temperature(&labelled).map_err(|source| LearnPolicyError::Calibrate {
                node: node.name().to_owned(),
                source,
            })?,
        })
    });
    let nodes = nodes.collect::<Result<Vec<_>, LearnPolicyError>>()?;

    let prices = args.options.sweep_prices(&problem);
    let progress = progress("learning", prices.len() as u64);
    let learned = sweep(&problem, &on, &prices, &args.options.settings(), |n| {
        progress.inc(n as u64);
    })?;
    progress.finish_and_clear();

    let reference = reference(&problem, &on);
    let of_reference = problem.evaluate(&reference.policy, &calibration);
    let says = |node: usize, example: u32| trace.class(traced[node], example as usize);
    let agrees = |node, example| says(node, example) == says(reference.node, example);
    // The largest network for every image comes first: nothing is safer. It pays for the way to it.
    let learned = frontier(&problem, &on, learned, &prices);
    let largest = (reference.policy, Price::default());
    let mut points = Vec::new();
    for (index, (functions, price)) in [largest].into_iter().chain(learned).enumerate() {
        let agreement = agreement(&problem, &calibration, &functions, agrees);
        let mut point = operating_point(
            format!("p{index:02}"),
            &problem,
            &calibration,
            price,
            functions,
        );
        point.expected.agreement = agreement;
        points.push(point);
    }
    if let Some(promise) = promise {
        points.push(promised(
            &promise,
            &problem,
            &calibration,
            &points,
            &of_reference.loss,
        )?);
    }
    let bundle = Bundle::try_new(
        cascade.name().to_owned(),
        cascade.fingerprint(|network| digest(&trace, network)),
        nodes,
        Reference {
            node: names[reference.node].to_owned(),
            accuracy: 1.0 - of_reference.mean_loss(),
            seconds: topology.seconds_alone(reference.node, &trace, &model, mean_payload(&trace)),
        },
        points,
    )?;
    fs::write(&args.out, bundle.to_json()).map_err(|source| LearnPolicyError::Write {
        path: args.out.clone(),
        source,
    })?;
    writeln!(out, "{}", points_table(&bundle))?;
    writeln!(
        out,
        "learned from {} examples, judged on {} others; {} takes {:.3} ms and gets {:.2} % right",
        on.len(),
        calibration.len(),
        bundle.reference().node,
        1e3 * bundle.reference().seconds,
        100.0 * bundle.reference().accuracy,
    )?;
    writeln!(out, "{}", args.out.display())?;
    Ok(())
}

/// Reads a cascade file.
pub(crate) fn load_cascade(path: &Path) -> Result<Cascade, LearnPolicyError> {
    Cascade::load(path).map_err(|source| LearnPolicyError::Cascade {
        path: path.to_owned(),
        source,
    })
}

fn mean_payload(trace: &Trace) -> f64 {
    let bytes = &trace.rows.payload_bytes;
    bytes.iter().map(|&bytes| f64::from(bytes)).sum::<f64>() / bytes.len() as f64
}

/// SHA-256 of a network's weights, by the trace.
fn digest(trace: &Trace, network: &str) -> String {
    let node = trace.spec.nodes.iter().find(|node| node.network == network);
    node.map(|node| node.digest.clone()).unwrap_or_default()
}

/// Draws the numbers of examples apart: those to learn from, and a share to judge on.
fn split(examples: usize, judged: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..examples as u32).collect();
    Rng::with_seed(seed ^ 0x5eed).shuffle(&mut order);
    let mut judge = order.split_off(examples - (examples as f64 * judged) as usize);
    order.sort_unstable();
    judge.sort_unstable();
    (order, judge)
}

/// The largest network alone.
pub(crate) struct ReferencePolicy {
    /// Its node.
    pub(crate) node: usize,
    /// Constants that lead to it.
    pub(crate) policy: Vec<Function>,
}

/// The largest network: of the nodes that go on to nothing the one that is right most often. The way to
/// it is the shortest in time.
pub(crate) fn reference(problem: &Problem<'_>, on: &[u32]) -> ReferencePolicy {
    let (graph, examples) = (problem.graph(), problem.examples());
    let loss = |node: usize| -> f64 {
        on.iter()
            .map(|&example| f64::from(examples.loss(node, example as usize)))
            .sum()
    };
    let ends = (0..graph.nodes()).filter(|&node| graph.successors(node).is_empty());
    let node = ends
        .min_by(|&a, &b| loss(a).total_cmp(&loss(b)))
        .expect("a graph has an end");
    let mut policy = vec![Function::EXIT; graph.nodes()];
    let mut distance = vec![f64::INFINITY; graph.nodes()];
    distance[node] = 0.0;
    for &from in graph.bottom_up() {
        for (index, (&to, step)) in graph
            .successors(from)
            .iter()
            .zip(&problem.costs().jumps[from])
            .enumerate()
        {
            if step.seconds + distance[to] < distance[from] {
                distance[from] = step.seconds + distance[to];
                policy[from] = Function::go_to(outpost_exit_policy::Successor(index));
            }
        }
    }
    ReferencePolicy { node, policy }
}

/// Of learned policies those that no other beats in accuracy, time and bytes on the examples that all
/// were learned from; the slowest first.
fn frontier(
    problem: &Problem<'_>,
    on: &[u32],
    learned: Vec<Vec<Function>>,
    prices: &[Price],
) -> Vec<(Vec<Function>, Price)> {
    let judged = learned.into_iter().zip(prices).map(|(policy, &price)| {
        let outcomes = problem.evaluate(&policy, on);
        let figures = [
            outcomes.mean_loss(),
            outcomes.mean_seconds(),
            outcomes.mean_bytes(),
        ];
        (figures, policy, price)
    });
    let mut kept: Vec<([f64; 3], Vec<Function>, Price)> = Vec::new();
    for (figures, policy, price) in judged {
        let beats = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).all(|(a, b)| a <= b);
        if kept.iter().any(|(others, _, _)| beats(others, &figures)) {
            continue;
        }
        kept.retain(|(others, _, _)| !beats(&figures, others));
        kept.push((figures, policy, price));
    }
    kept.sort_by(|a, b| b.0[1].total_cmp(&a.0[1]));
    kept.into_iter()
        .map(|(_, policy, price)| (policy, price))
        .collect()
}

fn operating_point(
    name: String,
    problem: &Problem<'_>,
    calibration: &[u32],
    price: Price,
    functions: Vec<Function>,
) -> OperatingPoint {
    let outcomes: Outcomes = problem.evaluate(&functions, calibration);
    OperatingPoint {
        name,
        price_per_second: price.per_second,
        price_per_byte: price.per_byte,
        expected: Expected {
            accuracy: 1.0 - outcomes.mean_loss(),
            seconds: outcomes.mean_seconds(),
            local_seconds: problem.local_seconds(&functions, calibration),
            bytes: outcomes.mean_bytes(),
            offload_rate: outcomes.offload_rate,
            agreement: None,
        },
        functions,
    }
}

/// Share of the examples answered before a link whose answer `agrees` with the largest network's; it is given the node that
/// answers and the example.
fn agreement(
    problem: &Problem<'_>,
    calibration: &[u32],
    functions: &[Function],
    agrees: impl Fn(usize, u32) -> bool,
) -> Option<f64> {
    let (mut answered, mut agreeing) = (0u32, 0u32);
    for &example in calibration {
        let outcome = problem.walk(functions, example as usize);
        if outcome.spent.bytes > 0.0 {
            continue;
        }
        answered += 1;
        agreeing += u32::from(agrees(outcome.node, example));
    }
    (answered > 0).then(|| f64::from(agreeing) / f64::from(answered))
}

/// The fastest of `points`, which begin with the slowest, that keeps the promise.
fn promised(
    promise: &Promise,
    problem: &Problem<'_>,
    calibration: &[u32],
    points: &[OperatingPoint],
    reference_loss: &[f32],
) -> Result<OperatingPoint, LearnPolicyError> {
    let differences: Vec<Differences> = points
        .iter()
        .map(|point| {
            let outcomes = problem.evaluate(&point.functions, calibration);
            Differences::count(&outcomes.loss, reference_loss)
        })
        .collect();
    match promise.choose(&differences) {
        Some(index) => Ok(OperatingPoint {
            name: "promised".to_owned(),
            ..points[index].clone()
        }),
        None => {
            // The least tolerance, by tenths of a point, that the safest policy is held to.
            let holds = |tenths: &u32| {
                Promise::try_new(f64::from(*tenths) / 1000.0, promise.confidence())
                    .is_ok_and(|weaker| weaker.choose(&differences[..1]).is_some())
            };
            let reachable = (1..1000).find(holds);
            Err(LearnPolicyError::Unreachable {
                tolerance: 100.0 * promise.tolerance(),
                confidence: promise.confidence(),
                examples: calibration.len(),
                reachable: reachable.map_or("nothing".to_owned(), |t| {
                    format!("{:.1} points", f64::from(t) / 10.0)
                }),
            })
        }
    }
}

fn points_table(bundle: &Bundle) -> Table {
    let mut points = table(&[
        "operating point",
        "top-1",
        "loss",
        "mean ms",
        "speed-up",
        "offloaded",
        "bytes",
        "functions",
    ]);
    let reference = bundle.reference();
    for point in bundle.operating_points() {
        let Expected {
            accuracy,
            seconds,
            bytes,
            offload_rate,
            ..
        } = point.expected;
        let mut cells = row(
            &point.name,
            [
                format!("{:.2} %", 100.0 * accuracy),
                format!("{:+.2}", 100.0 * (reference.accuracy - accuracy)),
                format!("{:.3}", 1e3 * seconds),
                format!("{:.2}×", reference.seconds / seconds),
                percent(offload_rate),
                format!("{bytes:.0}"),
            ],
        );
        let families = point.functions.iter().zip(bundle.nodes());
        let families = families.filter(|(_, node)| !node.successors.is_empty());
        let families: Vec<&str> = families.map(|(f, _)| Family::of(f).as_str()).collect();
        cells.add_cell(families.join(", ").into());
        points.add_row(cells);
    }
    points
}

fn parse_amount(words: &str) -> Result<f64, String> {
    let amount = words
        .parse()
        .ok()
        .filter(|amount: &f64| amount.is_finite() && *amount >= 0.0);
    amount.ok_or_else(|| format!("{words:?} is no amount: give 0 or more"))
}

fn parse_share(words: &str) -> Result<f64, String> {
    let share = words
        .parse()
        .ok()
        .filter(|share: &f64| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| format!("{words:?} is no share: give a number between 0 and 1"))
}

/// A bar for work of so many steps.
pub(crate) fn progress(what: &'static str, total: u64) -> ProgressBar {
    ProgressBar::new(total).with_prefix(what).with_style(
        ProgressStyle::with_template("{prefix} {wide_bar:.cyan/dim} {pos} of {len}  {eta} left")
            .expect("the template is well-formed"),
    )
}
