//! `lab replay`: a learned policy through the engine, image by image, beside the largest network alone.
//!
//! What `lab evaluate` adds up from a trace is measured here: the walk that the edge-agent takes, its
//! networks and its decisions, on this machine, from the encoded image to the answer. Networks that the
//! cascade places elsewhere run here too; there is no link.

use std::{
    collections::HashMap,
    fs, io,
    io::Write,
    iter,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use comfy_table::Table;
use outpost_cascade::{Action, Cascade, NodeId, Walk};
use outpost_exit_policy::{
    DecisionFunction, Evidence, Function, Goal, GoalError, OperatingPoint, ProblemError, lot,
};
use outpost_runtime::{
    ClassId, ClassifyError, Features, ImageLimits, LocalNetworks, ModelFolder, OpenError, Place,
    Progress, RgbImage, TractRuntime, decode,
};

use crate::{
    bundle::{BundleFileError, read_bundle},
    learn::{LearnPolicyError, load_cascade, progress},
    summarise::{Labels, ReadError},
    table::{row, table},
    topology::{CostModel, Topology, TopologyError},
    trace::{CollectError, Trace, TraceError},
};

/// Images that go through the cascade before the same go through the largest network: few enough that
/// the machine does not change in between, enough that each finds its weights in the cache as it would
/// alone.
const BLOCK: usize = 50;

/// What `lab replay` is asked.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The cascade file.
    #[arg(long, value_name = "FILE")]
    pub cascade: PathBuf,
    /// A policy bundle learned for it.
    #[arg(long, value_name = "FILE.json")]
    pub policy: PathBuf,
    /// Operating points to replay: names, `loss=POINTS`, `time=5ms`, `offload=20%` or `price=POINTS`; may be repeated.
    #[arg(long, value_name = "GOAL", default_values = ["loss=0", "loss=1"])]
    pub operating_point: Vec<Goal>,
    /// The folder of the images.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// True classes: a CSV file with the columns `file` and `label`.
    #[arg(long, value_name = "FILE.csv")]
    pub labels: PathBuf,
    /// A trace of the same images: also tells how often the engine answers where the evaluation of the
    /// trace does.
    #[arg(long, value_name = "FILE.parquet")]
    pub trace: Option<PathBuf>,
    /// The model folder.
    #[arg(long, default_value = "models", env = "OUTPOST_MODELS")]
    pub models: PathBuf,
    /// Times that every image is taken through; the median of its times counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub rounds: u8,
}

/// Why nothing was replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The cascade or a cost is at fault.
    #[error(transparent)]
    Learn(#[from] LearnPolicyError),
    /// The policy bundle is at fault.
    #[error(transparent)]
    Bundle(#[from] BundleFileError),
    /// The bundle has no such operating point.
    #[error(transparent)]
    Goal(#[from] GoalError),
    /// The labels are at fault.
    #[error(transparent)]
    Labels(#[from] ReadError),
    /// A network cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An image is at fault.
    #[error(transparent)]
    Image(#[from] CollectError),
    /// A network failed.
    #[error("a network failed on {file}")]
    Classify {
        /// The image.
        file: String,
        /// Why.
        source: ClassifyError,
    },
    /// The trace is at fault.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The labels name no image.
    #[error("{} labels no image", .0.display())]
    Empty(PathBuf),
    /// The trace is of other weights, or lacks the features.
    #[error(
        "the trace is of other weights than the model folder's, or lacks the features that the policy \
         looks at: trace again, with --features"
    )]
    OtherTrace,
    /// The trace is of another cascade.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The trace's costs are at fault.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// The table cannot be printed.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

/// What an operating point came to.
struct Replayed {
    name: String,
    expected: f64,
    right: usize,
    seconds: f64,
    /// Of the largest network alone on the same images, block by block in turn with it.
    alone_seconds: f64,
    /// Images that were answered where the trace says, of those in the trace.
    agreed: Option<(usize, usize)>,
}

/// Runs `lab replay`.
///
/// # Errors
/// A [`ReplayError`] that names what is at fault.
pub fn run(args: &ReplayArgs, out: &mut dyn Write) -> Result<(), ReplayError> {
    let bundle = read_bundle(&args.policy)?;
    let cascade = load_cascade(&args.cascade)?;
    let models = ModelFolder::new(&args.models);
    let digests = models.digests(cascade.nodes().map(|(_, node)| node.network()))?;
    cascade
        .check_fits(&bundle, |network| digests[network].clone())
        .map_err(|source| BundleFileError::Bundle {
            path: args.policy.clone(),
            source,
        })?;
    let reference = cascade
        .nodes()
        .find(|(_, node)| node.name() == bundle.reference().node);
    let (reference, _) = reference.expect("a fitting bundle's nodes are the cascade's");
    let labels = Labels::load(&args.labels)?;
    let mut images: Vec<(&str, ClassId)> = labels.iter().collect();
    images.sort();
    if images.is_empty() {
        return Err(ReplayError::Empty(args.labels.clone()));
    }
    let trace = args.trace.as_deref().map(Trace::load).transpose()?;
    for node in bundle.nodes() {
        let traced = trace.as_ref().and_then(|trace| {
            trace
                .spec
                .nodes
                .iter()
                .find(|traced| traced.name == node.name)
        });
        if let Some(traced) = traced
            && (digests.get(&traced.network) != Some(&traced.digest)
                || traced.feature_width != node.feature_width)
        {
            return Err(ReplayError::OtherTrace);
        }
    }

    let alone = Engine::open(&models, &cascade, &[reference], Features::Omit)?;
    let total = args.operating_point.len() * images.len();
    let progress = progress("replaying", total as u64);
    let mut replayed = Vec::new();
    let mut alone_right = 0;
    for goal in &args.operating_point {
        let choice = bundle.choose(goal)?;
        let points = iter::once(choice.point).chain(choice.other.map(|(other, _)| other));
        let needs = |point: &OperatingPoint| point.functions.iter().any(Function::needs_features);
        let features = if points.clone().any(needs) {
            Features::Give
        } else {
            Features::Omit
        };
        let policies: HashMap<&str, Decided> = points
            .map(|point| {
                Ok((
                    point.name.as_str(),
                    Decided::new(&cascade, trace.as_ref(), point)?,
                ))
            })
            .collect::<Result<_, ReplayError>>()?;
        let nodes: Vec<NodeId> = cascade.nodes().map(|(id, _)| id).collect();
        let engine = Engine::open(&models, &cascade, &nodes, features)?;
        let by_lot = |image: &RgbImage| &policies[choice.of(lot(image.as_raw())).name.as_str()];
        let mut result = Replayed {
            name: choice.to_string(),
            expected: choice.expected().seconds,
            right: 0,
            seconds: 0.0,
            alone_seconds: 0.0,
            agreed: trace.as_ref().map(|_| (0, 0)),
        };
        alone_right = 0;
        for block in images.chunks(BLOCK) {
            let read = |file: &str| {
                let path = args.images.join(file);
                let encoded = fs::read(&path);
                encoded.map_err(|source| CollectError::Read { path, source })
            };
            let encoded = block
                .iter()
                .map(|(file, _)| read(file))
                .collect::<Result<Vec<_>, _>>()?;
            let mut times = vec![[Vec::new(), Vec::new()]; block.len()];
            for round in 0..args.rounds {
                for (place, &(file, label)) in block.iter().enumerate() {
                    let started = Instant::now();
                    let image = decoded(&encoded[place], &args.images.join(file))?;
                    let decided = by_lot(&image);
                    let answer = engine.answer(&decided.cascade, &image);
                    times[place][0].push(started.elapsed());
                    let (node, class) = answer.map_err(|source| failed(file, source))?;
                    if round > 0 {
                        continue;
                    }
                    result.right += usize::from(class == label);
                    let traced = decided
                        .offline
                        .as_ref()
                        .and_then(|by_file| by_file.get(file));
                    if let (Some((agreed, of)), Some(traced)) = (&mut result.agreed, traced) {
                        *of += 1;
                        *agreed += usize::from(node.index() == *traced);
                    }
                }
                for (place, &(file, label)) in block.iter().enumerate() {
                    let started = Instant::now();
                    let image = decoded(&encoded[place], &args.images.join(file))?;
                    let answer = alone.run_alone(&image);
                    times[place][1].push(started.elapsed());
                    let class = answer.map_err(|source| failed(file, source))?;
                    alone_right += usize::from(round == 0 && class == label);
                }
            }
            for [cascade, alone] in times {
                result.seconds += median(cascade).as_secs_f64();
                result.alone_seconds += median(alone).as_secs_f64();
            }
            progress.inc(block.len() as u64);
        }
        replayed.push(result);
    }
    progress.finish_and_clear();
    writeln!(out, "{}", replayed_table(&replayed, images.len()))?;
    writeln!(
        out,
        "{} alone is right about {:.2} % of the same {} images",
        bundle.reference().node,
        100.0 * alone_right as f64 / images.len() as f64,
        images.len()
    )?;
    Ok(())
}

/// A cascade by one operating point.
struct Decided {
    cascade: Cascade,
    /// The node that answers by the evaluation of the trace, by file; where there is a trace.
    offline: Option<HashMap<String, usize>>,
}

impl Decided {
    fn new(
        cascade: &Cascade,
        trace: Option<&Trace>,
        point: &OperatingPoint,
    ) -> Result<Self, ReplayError> {
        let functions = point.functions.iter().cloned();
        let functions = functions.map(|f| Arc::new(f) as Arc<dyn DecisionFunction>);
        let offline = trace.map(|trace| offline(cascade, trace, &point.functions));
        Ok(Self {
            cascade: cascade.clone().with_policies(functions),
            offline: offline.transpose()?,
        })
    }
}

/// Networks of a cascade that run here, whatever its sites.
struct Engine {
    networks: LocalNetworks,
    places: HashMap<NodeId, usize>,
}

impl Engine {
    fn open(
        models: &ModelFolder,
        cascade: &Cascade,
        nodes: &[NodeId],
        features: Features,
    ) -> Result<Self, OpenError> {
        let places: Vec<Place<'_>> = nodes
            .iter()
            .map(|&id| Place {
                network: cascade.node(id).network(),
                exit: cascade.node(id).exit(),
            })
            .collect();
        Ok(Self {
            networks: LocalNetworks::open(models, &places, features, &TractRuntime::default())?,
            places: nodes
                .iter()
                .enumerate()
                .map(|(place, &id)| (id, place))
                .collect(),
        })
    }

    /// Takes an image through the cascade.
    fn answer(
        &self,
        cascade: &Cascade,
        image: &RgbImage,
    ) -> Result<(NodeId, ClassId), ClassifyError> {
        let here = cascade.node(cascade.entry()).site();
        let mut progress = Progress::default();
        let (mut walk, mut action) = Walk::start(cascade, cascade.entry(), here, Duration::MAX);
        let mut said = Vec::new();
        loop {
            action = match action {
                Action::Run(node) | Action::Offload { node, .. } => {
                    let place = self.places[&node];
                    let output = self.networks.run(place, image, &mut progress)?;
                    let evidence = Evidence::new(output.probabilities.as_slice());
                    let evidence = evidence
                        .expect("a network has two classes at least")
                        .with_features(output.features.as_deref());
                    let action = walk.said(node, &evidence, Duration::ZERO);
                    said.push((node, output.probabilities.top1().class_id));
                    action
                }
                Action::Answer(answer) => {
                    let of_answer = said.into_iter().find(|(node, _)| *node == answer.node);
                    return Ok(of_answer.expect("a node that answers has spoken"));
                }
                Action::NoAnswer(_) => unreachable!("no node is reported to have failed"),
            };
        }
    }

    /// Runs the only network.
    fn run_alone(&self, image: &RgbImage) -> Result<ClassId, ClassifyError> {
        let said = self.networks.run(0, image, &mut Progress::default())?;
        Ok(said.probabilities.top1().class_id)
    }
}

fn failed(file: &str, source: ClassifyError) -> ReplayError {
    ReplayError::Classify {
        file: file.to_owned(),
        source,
    }
}

fn decoded(encoded: &[u8], path: &Path) -> Result<RgbImage, CollectError> {
    decode(encoded, &ImageLimits::default()).map_err(|source| CollectError::Decode {
        path: path.to_owned(),
        source,
    })
}

/// The node that answers every image by the evaluation of a trace, by file.
///
/// # Errors
/// [`ReplayError`] where the trace is of another cascade.
pub fn offline(
    cascade: &Cascade,
    trace: &Trace,
    functions: &[Function],
) -> Result<HashMap<String, usize>, ReplayError> {
    let topology = Topology::of_cascade(cascade, trace)?;
    let instance = topology.on(trace, &CostModel::default())?;
    let problem = instance.problem()?;
    let files = trace.rows.files.iter().enumerate();
    Ok(files
        .map(|(image, file)| (file.clone(), problem.walk(functions, image).node))
        .collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn replayed_table(replayed: &[Replayed], images: usize) -> Table {
    let mut points = table(&[
        "operating point",
        "top-1",
        "mean ms",
        "expected, with links",
        "largest alone",
        "speed-up",
        "answered where the trace says",
    ]);
    for point in replayed {
        let mean = |seconds: f64| 1e3 * seconds / images as f64;
        points.add_row(row(
            &point.name,
            [
                format!("{:.2} %", 100.0 * point.right as f64 / images as f64),
                format!("{:.3}", mean(point.seconds)),
                format!("{:.3}", 1e3 * point.expected),
                format!("{:.3}", mean(point.alone_seconds)),
                format!("{:.2}×", point.alone_seconds / point.seconds),
                point
                    .agreed
                    .map_or("–".to_owned(), |(agreed, of)| format!("{agreed} of {of}")),
            ],
        ));
    }
    points
}
