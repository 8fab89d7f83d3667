//! `edge-agent doctor`: whether a device can do what its configuration says.

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::run::Run;
use crate::doctor::{self, Verdict};

#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Doctor {
    #[command(flatten)]
    pub(super) run: Run,
    /// A table for people, or a JSON object a line.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Examines the device and says what was found; exit code 0 where nothing failed, else 1.
pub(super) async fn doctor(arguments: Doctor) -> anyhow::Result<ExitCode> {
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} looking at {msg} ({elapsed})",
    )?);
    if arguments.format == Format::Json || !std::io::stderr().is_terminal() {
        progress.set_draw_target(ProgressDrawTarget::hidden());
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    let findings = match arguments.run.config() {
        Ok(config) => {
            let tell = |what: &str| progress.set_message(what.to_owned());
            doctor::examine(&config, &tell).await
        }
        Err(error) => vec![doctor::unreadable(&error)],
    };
    progress.finish_and_clear();
    match arguments.format {
        Format::Table => println!("{}", doctor::render(&findings)),
        Format::Json => {
            for finding in &findings {
                println!("{}", serde_json::to_string(finding)?);
            }
        }
    }
    let has_failed = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Failed);
    Ok(ExitCode::from(u8::from(has_failed)))
}
