//! `lab summarise`: turns the edge-agent's answers into accuracy, time and bytes.
//!
//! This file reads the arguments and writes the result; `answers` reads the files, `summary` counts,
//! `page` shows what `summary.json` holds.

mod answers;
mod page;
mod summary;

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use comfy_table::{Attribute, Cell, Table};
use indicatif::HumanBytes;

use crate::{
    bundle::{BundleFileError, read_bundle},
    table::{percent, row, table},
};

pub use answers::{Answer, Given, Labels, ReadError, Site};
use outpost_exit_policy::{Goal, GoalError};
pub use summary::{FrontierPoint, Policy, Summary, Tally};

/// What `lab summarise` is asked.
#[derive(Debug, clap::Args)]
pub struct SummariseArgs {
    /// Answers of the edge-agent, one JSON object a line.
    #[arg(long, value_name = "FILE.jsonl")]
    pub answers: PathBuf,
    /// True classes: a CSV file with the columns `file` and `label`.
    #[arg(long, value_name = "FILE.csv")]
    pub labels: PathBuf,
    /// Answers to the same images by the device alone.
    #[arg(long, value_name = "FILE.jsonl")]
    pub device_only: Option<PathBuf>,
    /// Answers to the same images by the cloud alone.
    #[arg(long, value_name = "FILE.jsonl")]
    pub cloud_only: Option<PathBuf>,
    /// Name of the cascade, under which its summary goes.
    #[arg(long, value_name = "NAME")]
    pub cascade: String,
    /// The policy bundle that ran.
    #[arg(long, value_name = "FILE.json", requires = "operating_point")]
    pub policy: Option<PathBuf>,
    /// The operating point of it that ran, as the edge-agent was told.
    #[arg(long, value_name = "GOAL", requires = "policy")]
    pub operating_point: Option<Goal>,
    /// Where the summary goes, as JSON with an entry a cascade. Entries of others stay.
    #[arg(long, value_name = "FILE.json")]
    pub out: PathBuf,
    /// Also write a page that shows all entries.
    #[arg(long, value_name = "FILE.html")]
    pub page: Option<PathBuf>,
}

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SummariseError {
    /// A file of answers or labels is at fault.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The summary cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The policy bundle is at fault.
    #[error(transparent)]
    Bundle(#[from] BundleFileError),
    /// The bundle has no such operating point.
    #[error(transparent)]
    Goal(#[from] GoalError),
    /// What is there already is no summary.
    #[error("{} holds no summaries of cascades: remove it or give another --out", path.display())]
    Summaries {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The table cannot be printed.
    #[error("cannot print the summary")]
    Print(#[from] io::Error),
}

/// Runs `lab summarise`: writes the summary and prints a table to `out`.
///
/// # Errors
/// A [`SummariseError`] that names the file, and the line where there is one.
pub fn run(args: &SummariseArgs, out: &mut dyn Write) -> Result<(), SummariseError> {
    let labels = Labels::load(&args.labels)?;
    let tally = |path: &Path| Ok::<_, ReadError>(Tally::new(&answers::load(path)?, &labels));
    let outpost = tally(&args.answers)?;
    let device_only = args.device_only.as_deref().map(tally).transpose()?;
    let cloud_only = args.cloud_only.as_deref().map(tally).transpose()?;
    let mut summary = Summary::new(&outpost, device_only.as_ref(), cloud_only.as_ref());
    if let (Some(path), Some(goal)) = (&args.policy, &args.operating_point) {
        let bundle = read_bundle(path)?;
        summary.policy = Some(Policy::new(&bundle, &bundle.choose(goal)?));
    }
    let mut summaries = read_summaries(&args.out)?;
    summaries.insert(args.cascade.clone(), summary);
    let mut json = serde_json::to_vec_pretty(&summaries).map_err(io::Error::from)?;
    json.push(b'\n');
    write(&args.out, &json)?;
    if let Some(path) = &args.page {
        write(path, page::page(&summaries).into_string().as_bytes())?;
    }

    let rows = [
        ("device only", device_only.as_ref()),
        ("Outpost", Some(&outpost)),
        ("cloud only", cloud_only.as_ref()),
    ];
    writeln!(out, "{}", tallies_table(&rows))?;
    writeln!(
        out,
        "{}",
        sentence(&outpost, device_only.as_ref(), cloud_only.as_ref())
    )?;
    for (name, tally) in rows {
        if let Some(note) = tally.and_then(|tally| note(name, tally, outpost.images)) {
            writeln!(out, "{note}")?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SummariseError> {
    fs::write(path, bytes).map_err(|source| SummariseError::Write {
        path: path.to_owned(),
        source,
    })
}

/// The entries of an earlier run; none where there is no file.
fn read_summaries(path: &Path) -> Result<BTreeMap<String, Summary>, SummariseError> {
    let json = match fs::read(path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => {
            return Err(ReadError::Read {
                path: path.to_owned(),
                source,
            }
            .into());
        }
    };
    serde_json::from_slice(&json).map_err(|source| SummariseError::Summaries {
        path: path.to_owned(),
        source,
    })
}

/// One row a tally; those that were not given are left out.
fn tallies_table(tallies: &[(&str, Option<&Tally>)]) -> Table {
    let header = ["", "top-1", "mean ms", "bytes an image", "offloaded"];
    let mut rows = table(&header);
    for (name, tally) in tallies {
        let Some(tally) = tally else { continue };
        let figures = [
            tally.top1().map(percent),
            tally.mean_total_ms().map(|ms| format!("{ms:.1}")),
            tally.bytes_per_image().map(|bytes| format!("{bytes:.0}")),
            tally.offload_rate().map(percent),
        ];
        let mut name = Cell::new(name);
        if tally.is_of_a_cascade() {
            name = name.add_attribute(Attribute::Bold);
        }
        let figures = figures.map(|figure| figure.unwrap_or_else(|| "–".to_owned()));
        rows.add_row(row(name, figures));
    }
    rows
}

/// What the table says, for those who read one line.
fn sentence(outpost: &Tally, device_only: Option<&Tally>, cloud_only: Option<&Tally>) -> String {
    let mut text = format!(
        "The device answered {} of {} images",
        outpost.answered_by_device, outpost.images
    );
    if outpost.fallbacks > 0 {
        text += &format!(" ({} as fallback)", outpost.fallbacks);
    }
    if let Some(top1) = outpost.top1() {
        text += &format!("; {} are right", percent(top1));
        for (name, other) in [("the device", device_only), ("the cloud", cloud_only)] {
            if let Some(other) = other.and_then(Tally::top1) {
                let points = 100.0 * (top1 - other);
                let side = if points < 0.0 { "below" } else { "above" };
                text += &format!(", {:.1} points {side} {name} alone", points.abs());
            }
        }
    }
    match cloud_only.map(|cloud| cloud.bytes_sent) {
        Some(all) if all > 0 => {
            text += &format!(
                "; {} were sent, {} of what the cloud alone takes.",
                HumanBytes(outpost.bytes_sent),
                percent(outpost.bytes_sent as f64 / all as f64)
            );
        }
        _ => text += &format!("; {} were sent.", HumanBytes(outpost.bytes_sent)),
    }
    text
}

/// What a reader should know before trusting a row.
fn note(name: &str, tally: &Tally, outpost_images: usize) -> Option<String> {
    let mut notes = Vec::new();
    if tally.images != outpost_images {
        notes.push(format!(
            "{} images, not the {outpost_images} of Outpost",
            tally.images
        ));
    }
    if tally.unreadable > 0 {
        notes.push(format!("{} unreadable, counted as wrong", tally.unreadable));
    }
    if tally.unlabelled > 0 {
        notes.push(format!(
            "{} without a label, left out of top-1",
            tally.unlabelled
        ));
    }
    (!notes.is_empty()).then(|| format!("{name}: {}.", notes.join("; ")))
}

#[cfg(test)]
mod tests;
