//! `edge-agent classify`: images in, a table or lines out.

use std::{
    fs::File,
    io::{ErrorKind, IsTerminal, LineWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::ValueEnum;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::common::Common;
use crate::{Agent, Image, Record, config::Config, paths, table};

#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Classify {
    #[command(flatten)]
    pub(super) common: Common,
    /// A table for people, or a JSON object a line.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Also write a JSON object a line to this file.
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Images, folders of images, or - for a list on standard input.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Answers the images; exit code 0 when every image has an answer, 2 when one has not.
pub(super) async fn classify(arguments: Classify, config: &Config) -> anyhow::Result<ExitCode> {
    let mut answers_file = arguments.answers.as_deref().map(create).transpose()?;
    let agent = Agent::start(config)?;
    let progress = ProgressBar::no_length().with_style(ProgressStyle::with_template(
        "{spinner} {pos} images, {per_sec}, {elapsed}",
    )?);
    if arguments.format == Format::Json || !std::io::stderr().is_terminal() {
        progress.set_draw_target(ProgressDrawTarget::hidden());
    }
    let agent = Arc::new(agent);
    // Each image is a task of its own, so that none waits for another's turn to be polled.
    let mut answers = paths::images(arguments.paths)
        .map(|path| {
            let agent = agent.clone();
            tokio::spawn(async move { agent.record(Image::file(path)).await })
        })
        .buffered(config.max_in_flight);
    let mut records = Vec::new();
    let mut unanswered = false;
    while let Some(record) = answers.next().await {
        let record = record.context("an image's task failed")?;
        unanswered |= matches!(record, Record::Failed { .. });
        progress.inc(1);
        let line = serde_json::to_string(&record)?;
        if let Some(file) = &mut answers_file {
            writeln!(file, "{line}").context("cannot write the answers")?;
        }
        match arguments.format {
            Format::Json => match writeln!(std::io::stdout(), "{line}") {
                // Whoever reads has seen enough, as `head` does.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                written => written.context("cannot print the answers")?,
            },
            Format::Table => records.push(record),
        }
    }
    progress.finish_and_clear();
    if arguments.format == Format::Table {
        println!("{}\n{}", table::render(&records), table::summary(&records));
    }
    Ok(ExitCode::from(if unanswered { 2 } else { 0 }))
}

/// A file whose lines are there as soon as their images are answered.
fn create(path: &Path) -> anyhow::Result<LineWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(LineWriter::new(file))
}
