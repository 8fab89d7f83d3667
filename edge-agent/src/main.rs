//! `edge-agent`: parse, build, run.

use std::process::ExitCode;

use clap::Parser;
use outpost_edge_agent::cli::{self, Arguments};

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("edge-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
