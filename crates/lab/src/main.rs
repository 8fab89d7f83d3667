//! The `lab` program: parses the command line and runs one command.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use outpost_lab::{
    bench, encoders, evaluate, fetch, fleet, learn, link, load, replay, report, soak, summarise,
    trace,
};

/// Fetch and measure networks; trace, learn and judge exit policies; summarise answers.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Download the published weights of networks into the model folder.
    Fetch(fetch::FetchArgs),
    /// Measure a network on this machine.
    Bench(bench::BenchArgs),
    /// Note what every node of a cascade says about labelled images.
    Trace(trace::TraceArgs),
    /// Learn a policy for a cascade from a trace.
    Learn(learn::LearnArgs),
    /// Compare learned policies with thresholds, chance and the oracle, as tables.
    Evaluate(evaluate::EvaluateArgs),
    /// The same comparison as a page with plots.
    Report(report::ReportArgs),
    /// Take images through the engine with a learned policy, beside the largest network alone.
    Replay(replay::ReplayArgs),
    /// Measure what encoders make of images before they are sent: bytes, accuracy, time.
    Encoders(encoders::EncodersArgs),
    /// Run the real programs at the two ends of an emulated path, for every combination of a plan. Needs root.
    Link(link::LinkArgs),
    /// What `lab link` starts at an end of the path.
    #[command(hide = true)]
    LinkEnd(link::EndArgs),
    /// An experiment of `lab link` as a page with plots.
    LinkReport(link::report::LinkReportArgs),
    /// Call a server of the Open Inference Protocol; tell throughput, latencies and refusals.
    Load(load::LoadArgs),
    /// Leave the device program running beside a cloud that dies, over a link that comes and goes; count what was promised.
    Soak(soak::SoakArgs),
    /// Simulate many devices before a fleet of servers; check the simulator against real runs.
    Fleet(fleet::FleetArgs),
    /// Turn the edge-agent's answers into accuracy, time and bytes.
    Summarise(summarise::SummariseArgs),
}

fn main() -> ExitCode {
    match run(&Cli::parse(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli, out: &mut dyn Write) -> anyhow::Result<()> {
    match &cli.command {
        Command::Fetch(args) => fetch::run(args, out)?,
        Command::Bench(args) => bench::run(args, out)?,
        Command::Trace(args) => trace::run(args, out)?,
        Command::Learn(args) => learn::run(args, out)?,
        Command::Evaluate(args) => evaluate::run(args, out)?,
        Command::Report(args) => report::run(args, out)?,
        Command::Replay(args) => replay::run(args, out)?,
        Command::Encoders(args) => encoders::run(args, out)?,
        Command::Link(args) => link::run(args, out)?,
        Command::LinkEnd(args) => link::run_end(args, out)?,
        Command::LinkReport(args) => link::report::run(args, out)?,
        Command::Load(args) => load::run(args, out)?,
        Command::Soak(args) => soak::run(args, out)?,
        Command::Fleet(args) => fleet::run(args, out)?,
        Command::Summarise(args) => summarise::run(args, out)?,
    }
    Ok(())
}

/// Whether the reader of our output has gone, as in `lab bench … | head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
