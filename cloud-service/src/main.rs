//! `cloud-service`: parse, build, run, shut down.

use std::process::ExitCode;

use clap::Parser;
use outpost_cloud_service::cli::{self, Arguments};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();
    match cli::run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloud-service: {error:#}");
            ExitCode::FAILURE
        }
    }
}
