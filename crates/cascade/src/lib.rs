//! Cascades: graphs of networks over sites, and the engine that walks them.
//!
//! - [`Cascade`] is the graph, read from a cascade file and checked once.
//! - [`Deciding`] says by which operating point of a learned policy, or in which mode, images are decided about.
//! - [`Walk`] takes one image through it: the driver runs networks and makes calls, tells the walk
//!   what came of them and when, and does what the walk says next.
//! - [`Circuit`] stops a driver from waiting for a peer that keeps failing.
//! - [`Endpoints`] says which of several peers that serve the same is asked.
//! - [`Budget`] says how much may still be sent, [`OffloadEnergy`] what that takes of a battery.
//! - [`LinkEstimate`] says what an offload costs now, [`Follower`] when that is a reason to decide otherwise.
//! - [`EncoderChoice`] says with which encoder an image is there first, by an [`EncoderProfile`].
//!
//! None does I/O, reads a clock or starts a thread: events and the time go in, actions come out,
//! so that the same engine runs in an agent, in a browser and in a simulation. Every walk ends in
//! exactly one [`Answer`] where any network has spoken.

mod budget;
mod circuit;
mod deciding;
mod encoders;
mod endpoints;
mod energy;
mod file;
mod follower;
mod graph;
mod link;
mod walk;

pub use budget::Budget;
pub use circuit::{Circuit, CircuitConfig, CircuitState, Permit, Refusal};
pub use deciding::{Chosen, DecideBy, DecideByError, Deciding, needs_features};
pub use encoders::{EncoderChoice, EncoderProfile, Measured, Original, ProfileError};
pub use endpoints::{Change, Choose, Endpoints, EndpointsConfig, Presence};
pub use energy::OffloadEnergy;
pub use file::CascadeError;
pub use follower::Follower;
pub use graph::{Cascade, Mode, Node, NodeId, Site};
pub use link::{Link, LinkEstimate, Observation};
pub use walk::{Action, Answer, FallbackCause, NoAnswer, Reason, Walk};
