//! `edge-agent`: parse, build, run.

use std::process::ExitCode;

use clap::Parser;
use outpost_edge_agent::{
    allocator::{Allocator, one_arena},
    cli::{self, Arguments},
};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    one_arena();
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
    match cli::run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("edge-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
