//! `edge-agent`: parse, build, run.

use std::process::ExitCode;

use clap::Parser;
use outpost_edge_agent::cli::{self, Arguments};
use tikv_jemallocator::Jemalloc;

/// The C library's keeps what every thread that ran a network left free, and asks the system for large
/// activations anew with every image.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

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
