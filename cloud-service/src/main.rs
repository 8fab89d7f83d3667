//! `cloud-service`: parse, build, run, shut down.

use std::process::ExitCode;

use clap::Parser;
use outpost_cloud_service::cli::{self, Arguments};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.start_logging();
    match cli::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloud-service: {error:#}");
            ExitCode::FAILURE
        }
    }
}
