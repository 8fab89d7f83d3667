//! The command line.

mod classify;
mod common;
mod doctor;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outpost_telemetry::{LogFormat, Telemetry, TracesConfig, TracesError};

/// Answers easy images on the device and sends the hard ones to the cloud.
#[derive(Parser)]
#[command(name = "edge-agent", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Classifies images, folders of images, or a list on standard input.
    Classify(classify::Classify),
    /// Looks whether the device can do what its configuration says, and tells what to do where it cannot.
    Doctor(doctor::Doctor),
    /// Runs until it is told to end: answers images that come by HTTP or to folders.
    Run(run::Run),
}

/// Does what the command line says. `classify` gives exit code 0 when every image has an answer, 2 when one has not;
/// `doctor` 0 where nothing failed, else 1; `run` ends with SIGINT or SIGTERM.
///
/// # Errors
/// What kept the program from starting or from writing its answers.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Classify(arguments) => {
            let config = arguments.common.config()?;
            let telemetry = telemetry(arguments.common.log_format, "warn", &config.traces)?;
            let classified = classify::classify(arguments, &config).await;
            telemetry.end().await;
            classified
        }
        Command::Doctor(arguments) => {
            let log = arguments.run.common.log_format;
            let telemetry = telemetry(log, "error", &TracesConfig::default())?;
            let examined = doctor::doctor(arguments).await;
            telemetry.end().await;
            examined
        }
        Command::Run(arguments) => {
            let log = arguments.common.log_format;
            let mut source = run::source(arguments);
            let config = source.load()?;
            let telemetry = telemetry(log, "info", &config.traces)?;
            let ran = run::run(config, source).await;
            telemetry.end().await;
            ran.map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Begins to write log lines of the level `default` and to send traces.
fn telemetry(
    log: LogFormat,
    default: &str,
    traces: &TracesConfig,
) -> Result<Telemetry, TracesError> {
    Telemetry::start("edge-agent", log, default, traces)
}
