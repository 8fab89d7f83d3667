//! What runs at an end of the path, within its network namespace: `lab link-end`, started by `lab link` alone.

mod feed;
mod probe;

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

pub(super) use feed::{Fed, Feed, Line};
pub(super) use probe::{Aim, Probed};

/// What an end of the path does.
#[derive(Debug, clap::Args)]
pub struct EndArgs {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Answers probes, until its standard input ends.
    Echo {
        /// Where it listens.
        address: SocketAddr,
    },
    /// Probes the path; prints what it found as JSON.
    Probe {
        /// Where the echo is.
        address: SocketAddr,
        /// Round trip that is expected, milliseconds.
        #[arg(long)]
        round_trip_ms: f64,
        /// Bits a second from here.
        #[arg(long)]
        uplink: Option<f64>,
        /// Bits a second to here.
        #[arg(long)]
        downlink: Option<f64>,
    },
    /// Brings images to the device program, as its standard input says; prints what comes of them, a JSON object a line.
    Feed,
}

/// Runs `lab link-end`.
///
/// # Errors
/// Where the system gives no socket, or standard input is none of `lab link`.
pub fn run(args: &EndArgs, out: &mut dyn Write) -> io::Result<()> {
    match args.role {
        Role::Echo { address } => probe::echo(address),
        Role::Probe {
            address,
            round_trip_ms,
            uplink,
            downlink,
        } => {
            let aim = Aim {
                round_trip: Duration::from_secs_f64(round_trip_ms / 1e3),
                uplink,
                downlink,
            };
            let found = probe::probe(address, aim)?;
            writeln!(out, "{}", serde_json::to_string(&found)?)
        }
        Role::Feed => feed::feed(&serde_json::from_reader(io::stdin().lock())?, out),
    }
}
