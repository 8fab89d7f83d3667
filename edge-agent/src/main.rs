//! `edge-agent`: parse, build, run.

use std::process::ExitCode;

use clap::Parser;
use outpost_edge_agent::cli::{self, Arguments};
use tikv_jemallocator::Jemalloc;

/// The C library's keeps what every thread that ran a network left free, and asks the system for large
/// activations anew with every image.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// One arena for all threads, which do the same in turns, and for large pieces too, whose own would not be set while networks are
/// loaded; no store for each thread beside it. Memory that a burst needed is given back within a tenth of a second: with an arena a
/// thread, each keeps an image's activations for ten. The variable `_RJEM_MALLOC_CONF` overrides it.
#[allow(
    unsafe_code,
    reason = "jemalloc looks for a symbol of this name, and nothing else has one"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_SETTINGS: &[u8; 80] =
    b"narenas:1,tcache:false,oversize_threshold:0,dirty_decay_ms:100,muzzy_decay_ms:0\0";

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
