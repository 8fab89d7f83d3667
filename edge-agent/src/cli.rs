//! The command line: flags over `OUTPOST_*` variables over the configuration file.

use std::{
    fs::File,
    io::{ErrorKind, IsTerminal, LineWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outpost_cascade::Mode;
use outpost_engine::PeerConfig;
use outpost_exit_policy::Goal;
use outpost_telemetry::{LogFormat, Telemetry};
use outpost_transport::Transport;

use crate::{Agent, Record, config::Config, paths, table};

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
    Classify(Classify),
}

#[derive(clap::Args)]
#[command(args_override_self = true)]
struct Classify {
    /// Configuration file (see edge-agent.example.toml).
    #[arg(long, env = "OUTPOST_EDGE_CONFIG")]
    config: Option<PathBuf>,
    /// Where hard images go: https://host:port.
    #[arg(long, env = "OUTPOST_CLOUD")]
    cloud: Option<String>,
    /// Certificate authority to trust, PEM.
    #[arg(long, env = "OUTPOST_CA")]
    ca: Option<PathBuf>,
    /// File with the token by which the cloud knows this device.
    #[arg(long, env = "OUTPOST_TOKEN_FILE", value_name = "FILE")]
    token: Option<PathBuf>,
    /// Certificate to show to a cloud that asks for one, PEM.
    #[arg(long, env = "OUTPOST_CLIENT_CERTIFICATE", value_name = "FILE")]
    client_certificate: Option<PathBuf>,
    /// Private key of that certificate, PEM.
    #[arg(long, env = "OUTPOST_CLIENT_KEY", value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// h2, h3 or auto, which prefers HTTP/3.
    #[arg(long, env = "OUTPOST_TRANSPORT")]
    transport: Option<Transport>,
    /// The cascade file.
    #[arg(long, env = "OUTPOST_CASCADE")]
    cascade: Option<PathBuf>,
    /// A policy bundle of `lab learn`, in place of the cascade's policies.
    #[arg(long, env = "OUTPOST_POLICY", value_name = "FILE.json")]
    policy: Option<PathBuf>,
    /// Which of its operating points: a name, `loss=POINTS`, `time=5ms` or `offload=20%`; else the
    /// fastest that is expected to lose at most one point.
    #[arg(long, env = "OUTPOST_OPERATING_POINT", value_name = "GOAL")]
    operating_point: Option<Goal>,
    /// The model folder.
    #[arg(long, env = "OUTPOST_MODELS")]
    models: Option<PathBuf>,
    /// Milliseconds from taking up an image to its answer.
    #[arg(long, env = "OUTPOST_DEADLINE_MS", value_name = "MS")]
    deadline: Option<u64>,
    /// Whose decisions count.
    #[arg(long, value_enum)]
    mode: Option<ModeFlag>,
    /// Collector of traces that speaks OTLP over gRPC: http://host:4317.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How log lines look.
    #[arg(long, env = "OUTPOST_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
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

#[derive(Clone, Copy, ValueEnum)]
enum ModeFlag {
    /// The cascade's policies.
    Policy,
    /// The device alone.
    DeviceOnly,
    /// The cloud has the last word on every image.
    CloudOnly,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Does what the command line says; exit code 0 when every image has an answer, 2 when one has not.
///
/// # Errors
/// What kept the agent from starting or from writing its answers.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Command::Classify(arguments) = arguments.command;
    let config = config(&arguments)?;
    let telemetry = Telemetry::start("edge-agent", arguments.log_format, "warn", &config.traces)?;
    let classified = classify(arguments, &config).await;
    telemetry.end().await;
    classified
}

async fn classify(arguments: Classify, config: &Config) -> anyhow::Result<ExitCode> {
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
            tokio::spawn(async move { agent.classify(&path).await })
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

fn config(arguments: &Classify) -> anyhow::Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if let Some(url) = &arguments.cloud {
        let cloud = config.cloud.get_or_insert_with(|| PeerConfig::new(url));
        cloud.url.clone_from(url);
    }
    let of_cloud = [
        &arguments.ca,
        &arguments.token,
        &arguments.client_certificate,
        &arguments.client_key,
    ];
    if let Some(cloud) = &mut config.cloud {
        cloud.transport = arguments.transport.unwrap_or(cloud.transport);
        let fields = [
            &mut cloud.certificate_authority,
            &mut cloud.token,
            &mut cloud.client_certificate,
            &mut cloud.client_key,
        ];
        for (field, argument) in fields.into_iter().zip(of_cloud) {
            if let Some(path) = argument {
                *field = Some(path.clone());
            }
        }
    } else if of_cloud.iter().any(|path| path.is_some()) || arguments.transport.is_some() {
        anyhow::bail!(
            "--ca, --token, --client-certificate, --client-key and --transport need a cloud: \
             give --cloud URL or a configuration file"
        );
    }
    if let Some(models) = &arguments.models {
        config.models.clone_from(models);
    }
    if let Some(cascade) = &arguments.cascade {
        config.cascade.clone_from(cascade);
    }
    if let Some(policy) = &arguments.policy {
        config.policy = Some(policy.clone());
    }
    if let Some(goal) = &arguments.operating_point {
        config.operating_point.clone_from(goal);
        if config.policy.is_none() {
            anyhow::bail!("--operating-point needs a policy: give --policy FILE.json");
        }
    }
    if let Some(endpoint) = &arguments.otlp_endpoint {
        config.traces.endpoint = Some(endpoint.clone());
    }
    config.deadline_ms = arguments.deadline.unwrap_or(config.deadline_ms);
    config.mode = match arguments.mode {
        None => config.mode,
        Some(ModeFlag::Policy) => Mode::Policy,
        Some(ModeFlag::DeviceOnly) => Mode::DeviceOnly,
        Some(ModeFlag::CloudOnly) => Mode::CloudOnly,
    };
    Ok(config)
}
