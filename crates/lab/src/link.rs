//! `lab link`: the real programs at the two ends of an emulated path, for every combination of a plan.
//!
//! [`plan`] says what is run, [`profile`] what paths are like. For each run an emulated path is checked, the device program is
//! started at its near end, and images are brought to it as its callers do; the cloud is at the far end. What came of each image is
//! a row ([`rows`]). An experiment that is stopped goes on where it was.

mod emulator;
mod end;
mod images;
pub mod plan;
pub mod profile;
pub mod report;
pub mod rows;
mod stage;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use outpost_transport::development_certificates::GenerateError;

use crate::{
    host,
    learn::LearnPolicyError,
    programs::{ProgramError, beside},
    summarise::ReadError,
    table::{row, table},
};
use emulator::Emulator;
pub use emulator::{EmulatorError, Kind};
pub use end::{EndArgs, run as run_end};
use plan::{Plan, PlanError, Run};
use profile::{Profiles, ProfilesError};
use report::ReportError;
use rows::{Origin, RowsError, Store};
use stage::{Programs, Stage};

/// Where `cargo install` puts the emulator that scripts/experiment-all installs.
const INSTALLED: &str = "target/tools/bin/rattan";

/// What `lab link` is asked.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct LinkArgs {
    /// The plan: see crates/lab/plans.
    #[arg(long, value_name = "FILE.toml", required_unless_present = "from")]
    pub plan: Option<PathBuf>,
    /// Profiles of links beside those that are built in, or in their place.
    #[arg(long, value_name = "FILE.toml")]
    pub profiles: Option<PathBuf>,
    /// Rows of an experiment, in place of a plan: what they were made of is run again.
    #[arg(long, value_name = "rows.parquet", conflicts_with_all = ["plan", "profiles"])]
    pub from: Option<PathBuf>,
    /// Only this run of it; several times for several.
    #[arg(long, value_name = "RUN")]
    pub only: Vec<String>,
    /// The folder of the experiment. One that was begun goes on.
    #[arg(long, value_name = "DIR", default_value = "target/link")]
    pub out: PathBuf,
    /// What emulates the path.
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    pub emulator: Kind,
    /// The program rattan; by default the one that scripts/experiment-all installs, else the one on the path.
    #[arg(long, value_name = "PROGRAM", env = "OUTPOST_RATTAN")]
    pub rattan: Option<PathBuf>,
    /// The model folder.
    #[arg(long, default_value = "models", env = "OUTPOST_MODELS")]
    pub models: PathBuf,
    /// The device program; by default the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub edge_agent: Option<PathBuf>,
    /// The cloud program; by default the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub cloud_service: Option<PathBuf>,
    /// A page of `lab fleet`, which is taken into the report.
    #[arg(long, value_name = "FILE.html")]
    pub fleet: Option<PathBuf>,
    /// Tells what would be run and how long it takes at the most, and ends.
    #[arg(long)]
    pub dry_run: bool,
}

/// Why an experiment does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The plan is at fault.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A profile is at fault.
    #[error(transparent)]
    Profiles(#[from] ProfilesError),
    /// Rows or records are at fault.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The page cannot be made.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// There is no path.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// A program does not run as it should.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The cascade is at fault.
    #[error(transparent)]
    Cascade(#[from] LearnPolicyError),
    /// The cascade's text is at fault.
    #[error("the cascade is at fault: {0}")]
    CascadeText(String),
    /// The cascade has networks elsewhere than here.
    #[error(
        "node {0:?} is neither on the device nor a network of the cloud that decides nothing: give another cascade"
    )]
    Sites(String),
    /// The cascade has no use for a cloud.
    #[error("the cascade {0:?} has no network in the cloud: give another")]
    NoCloud(String),
    /// The labels are at fault.
    #[error(transparent)]
    Labels(#[from] ReadError),
    /// The labels are not those of the images.
    #[error("the labels {} are at fault: {problem}", path.display())]
    Unlabelled {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A run that is asked for is none of the plan.
    #[error("the plan has no run {0:?}: runs.csv has their names")]
    NoRun(String),
    /// No certificates.
    #[error("cannot make certificates")]
    Certificates(#[from] GenerateError),
    /// The path cannot be probed.
    #[error("cannot probe the path: {0}")]
    Probe(String),
    /// The feed ended, or never does.
    #[error("images are no longer brought to the device: {} says why", .0.display())]
    Feed(PathBuf),
    /// A line of the device program is none.
    #[error("the device program said what is no line of it: {line}")]
    Line {
        /// The line.
        line: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The table cannot be printed.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

pub(crate) fn file(path: &Path) -> impl Fn(io::Error) -> LinkError {
    let path = path.to_owned();
    move |source| LinkError::File {
        path: path.clone(),
        source,
    }
}

/// What is run, and what it was read from.
struct Experiment {
    plan: Plan,
    profiles: Profiles,
    runs: Vec<Run>,
    origin: Origin,
}

impl Experiment {
    fn read(args: &LinkArgs) -> Result<Self, LinkError> {
        let (text, path, folder, profiles_text) = match (&args.from, &args.plan) {
            (Some(rows), _) => {
                let origin = rows::origin_of(rows)?;
                (origin.plan, rows.clone(), origin.folder, origin.profiles)
            }
            (None, plan) => {
                let path = plan.clone().unwrap_or_default();
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")));
                let profiles = args.profiles.as_deref().map(profile::load).transpose()?;
                (
                    plan::load(&path)?,
                    path.clone(),
                    folder.map_err(file(&path))?,
                    profiles,
                )
            }
        };
        let profiles = profile::profiles(profiles_text.as_deref())?;
        let plan = Plan::parse(&text, &path, &profiles)?;
        let mut runs = plan.runs(&profiles);
        for only in &args.only {
            if !runs.iter().any(|run| run.id == *only) {
                return Err(LinkError::NoRun(only.clone()));
            }
        }
        if !args.only.is_empty() {
            runs.retain(|run| args.only.contains(&run.id));
        }
        let origin = Origin {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit(),
            machine: host::cpu_model(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            emulator: String::new(),
            plan: text,
            folder,
            profiles: profiles_text,
        };
        Ok(Self {
            plan,
            profiles,
            runs,
            origin,
        })
    }

    fn describe(&self, out: &mut dyn Write) -> Result<(), LinkError> {
        let mut rows = table(&["profile", "path", "runs", "at most"]);
        for name in &self.plan.profiles {
            let runs: Vec<Run> = self
                .runs
                .iter()
                .filter(|run| run.profile == *name)
                .cloned()
                .collect();
            let profile = &self.profiles[name];
            let mut words = profile.condition.to_string();
            if !profile.changes.is_empty() {
                words += &format!(", {} changes", profile.changes.len());
            }
            let figures = [words, runs.len().to_string(), minutes(plan::at_most(&runs))];
            rows.add_row(row(name, figures));
        }
        let all = self.runs.len();
        let time = minutes(plan::at_most(&self.runs));
        writeln!(out, "{rows}\n{all} runs, which take at most {time}").map_err(LinkError::Print)
    }
}

fn minutes(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        120.0..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// The commit that lies here, where there is a repository.
fn commit() -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs `lab link`.
///
/// # Errors
/// A [`LinkError`]. What was run until then is kept, and the same command goes on from there.
pub fn run(args: &LinkArgs, out: &mut dyn Write) -> Result<(), LinkError> {
    let mut experiment = Experiment::read(args)?;
    experiment.describe(out)?;
    if args.dry_run {
        return Ok(());
    }
    let installed = Path::new(INSTALLED);
    let rattan = args
        .rattan
        .as_deref()
        .or_else(|| installed.exists().then_some(installed));
    let emulator = Emulator::find(args.emulator, rattan)?;
    experiment.origin.emulator = emulator.name().to_owned();
    let store = Store::at(&args.out)?;
    store.claim(&experiment.origin)?;
    let program = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| beside(name));
    let programs = Programs {
        edge_agent: absolute(&program(&args.edge_agent, "edge-agent"))?,
        cloud_service: absolute(&program(&args.cloud_service, "cloud-service"))?,
        lab: beside("lab"),
        models: absolute(&args.models)?,
    };
    let void = experiment.go(&store, &emulator, &programs)?;
    store.gather()?;
    let page = store.path("report.html");
    let found = report::report(&store, &page, args.fleet.as_deref())?;
    let rows = store.path("rows.parquet");
    writeln!(out, "{found}\n{}\n{}", rows.display(), page.display()).map_err(LinkError::Print)?;
    if void > 0 {
        let words =
            "runs are void: their path was not as its profile says; a quieter machine may have it";
        writeln!(out, "{void} {words}").map_err(LinkError::Print)?;
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, LinkError> {
    fs::canonicalize(path).map_err(file(path))
}

impl Experiment {
    /// Makes all runs that are not there yet; gives how many are void.
    fn go(
        &self,
        store: &Store,
        emulator: &Emulator,
        programs: &Programs,
    ) -> Result<usize, LinkError> {
        let bar = ProgressBar::new(self.runs.len() as u64);
        let style = "{wide_bar:.cyan/dim} {pos} of {len} runs, {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
        bar.enable_steady_tick(Duration::from_millis(500));
        let share = |run: &Run, next: &Run| {
            (run.repeat, &run.profile, &run.cascade) == (next.repeat, &next.profile, &next.cascade)
        };
        for block in self.runs.chunk_by(share) {
            let missing: Vec<&Run> = block.iter().filter(|run| !store.has(&run.id)).collect();
            bar.inc((block.len() - missing.len()) as u64);
            let mut folder = tempfile::tempdir().map_err(file(&std::env::temp_dir()))?;
            let made = self.block(&missing, (store, emulator, programs), folder.path(), &bar);
            if made.is_err() {
                // Its message names files there.
                folder.disable_cleanup(true);
            }
            made?;
        }
        bar.finish_and_clear();
        let records = store.records()?;
        Ok(records.iter().filter(|record| !record.path.holds).count())
    }
    /// Makes runs that share a path and a cloud.
    fn block(
        &self,
        runs: &[&Run],
        (store, emulator, programs): (&Store, &Emulator, &Programs),
        folder: &Path,
        bar: &ProgressBar,
    ) -> Result<(), LinkError> {
        let Some(first) = runs.first() else {
            return Ok(());
        };
        let cascade = self.plan.cascade(&first.cascade);
        let cascade = cascade.expect("the run is of the plan");
        let profile = &self.profiles[&first.profile];
        let base = &self.origin.folder;
        let mut stage = Stage::set(emulator, profile, cascade, base, programs, folder)?;
        for run in runs {
            bar.set_message(format!("{}, {}, {}", run.profile, run.cascade, run.policy));
            let found = stage.check()?;
            let (record, rows) = stage.run(run, found, self.plan.images, self.plan.warm_up)?;
            store.keep(&record, &rows)?;
            bar.inc(1);
        }
        stage.end()
    }
}
