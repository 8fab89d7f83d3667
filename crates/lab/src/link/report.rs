//! `lab link-report`: an experiment as one page that needs nothing else, and as words on a terminal.
//!
//! [`experiment`](self) is read from its folder; `figures` are what all else is made of; `speed`, `events`, `regret`, `transports`
//! and `spent` answer one question each; `targets` says what was aimed at and whether it was met. Only `page` and its sections know
//! how any of it looks.

mod changing;
mod events;
mod experiment;
mod figures;
mod page;
mod plots;
mod regret;
mod sections;
mod speed;
mod spent;
mod targets;
mod transports;

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    plan::PlanError,
    profile::ProfilesError,
    rows::{RowsError, Store},
};
use crate::table::{row, table};
use events::{Move, Outage};
use experiment::Experiment;
use figures::Reference;
use regret::Regret;
use speed::{Speed, Verdict};
use spent::{Bytes, Counted, Spent};
use targets::Target;
use transports::Matrix;

/// What `lab link-report` is asked.
#[derive(Debug, clap::Args)]
pub struct LinkReportArgs {
    /// The folder of an experiment: the `--out` of `lab link`.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Where the page goes; by default to report.html in that folder.
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
    /// The page of `lab fleet`, which is taken into this one.
    #[arg(long, value_name = "FILE.html")]
    pub fleet: Option<PathBuf>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The folder has no experiment.
    #[error("{} has no experiment: name the folder that `lab link` was given as --out", .0.display())]
    None(PathBuf),
    /// No run has ended.
    #[error("the experiment in {} has no run yet: let `lab link` go on", .0.display())]
    Empty(PathBuf),
    /// A record or rows are damaged.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The plan that the experiment was made of is at fault.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Its profiles are.
    #[error(transparent)]
    Profiles(#[from] ProfilesError),
    /// The page of `lab fleet` is none.
    #[error("{} is no page of `lab fleet`: it has no <main>", .0.display())]
    Fleet(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn file(path: &Path) -> impl Fn(io::Error) -> ReportError {
    let path = path.to_owned();
    move |source| ReportError::File {
        path: path.clone(),
        source,
    }
}

/// All that a report tells.
struct Findings {
    experiment: Experiment,
    reference: Reference,
    speeds: Vec<Speed>,
    regrets: Vec<Regret>,
    /// By cascade, in their order.
    matrices: Vec<Option<Matrix>>,
    bytes: Vec<Bytes>,
    spent: Vec<Spent>,
    targets: Vec<Target>,
}

impl Findings {
    fn new(experiment: Experiment) -> Self {
        let reference = Reference::new(&experiment);
        let speeds = speed::speeds(&experiment, &reference);
        let cascades = experiment.cascades();
        let matrices = cascades.iter();
        let matrices = matrices.map(|cascade| transports::matrix(&experiment, cascade));
        let outages = events::outages(&experiment);
        let targets = vec![
            targets::speed(&experiment, &speeds),
            targets::answered(&experiment, &outages),
            targets::resumes(&experiment, &outages),
            targets::moves(&experiment, &events::moves(&experiment)),
            targets::counts(&spent::counts(&experiment)),
        ];
        Self {
            regrets: regret::regrets(&experiment),
            matrices: matrices.collect(),
            bytes: spent::bytes(&experiment),
            spent: spent::spent(&experiment),
            reference,
            speeds,
            targets,
            experiment,
        }
    }

    fn outages(&self) -> Vec<Outage<'_>> {
        events::outages(&self.experiment)
    }

    fn moves(&self) -> Vec<Move<'_>> {
        events::moves(&self.experiment)
    }

    fn counts(&self) -> Vec<Counted<'_>> {
        spent::counts(&self.experiment)
    }
}

/// Runs `lab link-report`.
///
/// # Errors
/// A [`ReportError`] that names what is at fault.
pub fn run(args: &LinkReportArgs, out: &mut dyn Write) -> Result<(), ReportError> {
    if !args.folder.join("origin.json").exists() {
        return Err(ReportError::None(args.folder.clone()));
    }
    let store = Store::at(&args.folder)?;
    let page = match &args.out {
        Some(page) => page.clone(),
        None => store.path("report.html"),
    };
    let words = report(&store, &page, args.fleet.as_deref())?;
    writeln!(out, "{words}\n{}", page.display()).map_err(file(&page))
}

/// Writes the page of an experiment to `out`; gives what was found in few words, for a terminal. The main part of `fleet`, a page of
/// `lab fleet`, becomes a part of it.
///
/// # Errors
/// Where a run is damaged, there is none, or the page cannot be written.
pub fn report(store: &Store, out: &Path, fleet: Option<&Path>) -> Result<String, ReportError> {
    let found = Findings::new(Experiment::load(store)?);
    let fleet = fleet.map(main_of).transpose()?;
    let page = page::page(&found, fleet.as_deref()).into_string();
    fs::write(out, page).map_err(file(out))?;
    Ok(words(&found))
}

/// What stands in the `<main>` of a page.
fn main_of(path: &Path) -> Result<String, ReportError> {
    let page = fs::read_to_string(path).map_err(file(path))?;
    let main = page.split_once("<main>");
    let main = main.and_then(|(_, rest)| rest.rsplit_once("</main>"));
    let main = main.ok_or_else(|| ReportError::Fleet(path.to_owned()))?;
    Ok(main.0.to_owned())
}

fn words(found: &Findings) -> String {
    let mut speeds = table(&[
        "link",
        "by",
        "policy",
        "points",
        "mean ms",
        "times sooner",
        "than",
        "needed",
        "",
    ]);
    for speed in &found.speeds {
        let rival = speed.rival.as_ref();
        let faster = rival.map(|rival| {
            let faster = &rival.faster;
            format!(
                "{:.2} ({:.2} to {:.2})",
                faster.value, faster.low, faster.high
            )
        });
        let than = rival.map_or("–".to_owned(), |rival| rival.policy.to_string());
        let name = format!(
            "{}, {}",
            speed.setting.cascade,
            found.experiment.words(&speed.setting)
        );
        speeds.add_row(row(
            name,
            [
                speed.setting.transport.to_owned(),
                speed.policy.to_string(),
                format!("{:+.1}", speed.points.value),
                format!("{:.1}", speed.parts.latency),
                faster.unwrap_or("–".to_owned()),
                than,
                format!("{:.1}", speed.needed),
                sign(speed.verdict).to_owned(),
            ],
        ));
    }
    let mut lines = match found.speeds.is_empty() {
        true => String::new(),
        false => format!("{speeds}\n"),
    };
    for target in &found.targets {
        lines += &format!(
            "{} {}: {}\n",
            sign(target.verdict),
            target.wanted,
            target.found
        );
    }
    let void = found.experiment.void.len();
    if void > 0 {
        lines +=
            &format!("{void} runs are void and left out: their path was not as its profile says\n");
    }
    lines.trim_end().to_owned()
}

const fn sign(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Holds => "✓",
        Verdict::Open => "≈",
        Verdict::Fails => "✗",
        Verdict::NotRun => "–",
    }
}
