//! `cloud-service`: parse, build, run, shut down.

use std::process::ExitCode;

use clap::Parser;
use outpost_cloud_service::cli::{self, Arguments};

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloud-service: {error:#}");
            ExitCode::FAILURE
        }
    }
}
