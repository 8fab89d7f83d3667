//! `cloud-service`: parse, build, run, shut down.

use std::process::ExitCode;

use clap::Parser;
use outpost_cloud_service::cli::{self, Arguments};
use tikv_jemallocator::Jemalloc;

/// The C library's keeps much of what loading a network left free, and fragments over months.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

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
