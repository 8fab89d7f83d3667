//! `edge-agent`: parse, build, run.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use outpost_edge_agent::{
    allocator::{Allocator, one_arena},
    cli::{self, Arguments},
};
use tokio::runtime::Runtime;

/// How long threads are waited for that block once all is done: one within the kernel, over a file whose server is away, need
/// not come back.
const PATIENCE: Duration = Duration::from_secs(1);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    one_arena();
    let arguments = Arguments::parse();
    let ran = Runtime::new().map_err(Into::into).and_then(|runtime| {
        let ran = runtime.block_on(cli::run(arguments));
        runtime.shutdown_timeout(PATIENCE);
        ran
    });
    ran.unwrap_or_else(|error| {
        eprintln!("edge-agent: {error:#}");
        ExitCode::FAILURE
    })
}
