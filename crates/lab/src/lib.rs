//! The off-line program: fetch published networks, measure networks, summarise answers.
//!
//! - [`fetch`] brings published weights into the model folder.
//! - [`bench`] measures a network on this machine.
//! - [`trace`] notes what every node of a cascade says about labelled images.
//! - [`learn`] makes a policy bundle from a trace.
//! - [`study`] compares learned policies with what they are measured against; [`evaluate`] prints
//!   it, [`report`] draws it.
//! - [`bundle`] reads policy bundles.
//! - [`replay`] takes images through the engine with a learned policy and measures.
//! - [`encoders`] measures what encoders make of images before they are sent.
//! - [`link`] runs the real programs at the two ends of an emulated path, for every combination of a plan.
//! - [`load`] calls a server and tells throughput and latencies.
//! - [`soak`] leaves a device running beside a cloud that dies, and counts what was promised.
//! - [`fleet`] simulates many devices before a fleet of servers, and checks that against real runs.
//! - [`summarise`] turns the edge-agent's answers into accuracy, time and bytes.
//!
//! ```no_run
//! use outpost_lab::fetch::{Fetcher, Progress};
//! use outpost_runtime::ModelFolder;
//!
//! let outcome = Fetcher::new(ModelFolder::new("models")).fetch("resnet50", &mut Progress::Silent)?;
//! println!("resnet50: {outcome}");
//! # Ok::<(), outpost_lab::fetch::FetchError>(())
//! ```
//!
//! Invariants: a file takes its final name only once its size and digest are the manifest's; a figure
//! that could not be measured is absent, never zero.

pub mod bench;
pub mod bundle;
pub mod encoders;
pub mod evaluate;
pub mod fetch;
pub mod fleet;
pub mod frontier;
pub mod learn;
pub mod link;
pub mod load;
pub mod programs;
pub mod replay;
pub mod report;
pub mod soak;
pub mod study;
pub mod summarise;
pub mod sweep;
pub mod topology;
pub mod trace;

mod host;
mod percentile;
mod table;
