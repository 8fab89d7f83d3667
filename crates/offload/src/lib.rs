//! What is asked elsewhere about an image, what a reply or a refusal means, and what is told of the answer.
//!
//! - [`RemoteModel`] is a network at a server of the Open Inference Protocol, or the rest of a cascade: the request about an
//!   image, and what a response says.
//! - [`Failure`] is why a call gave nothing, and what that tells the circuit.
//! - [`Answered`] is what is told of an answer, [`state`] what is told of what decides.
//!
//! Nothing here calls anybody, reads a clock or starts a thread, so that agents and services, and the agent in a browser,
//! ask and understand alike.
//!
//! A network elsewhere without jumps is asked for by its name. One that goes on is decided about where it
//! runs: the peer is asked for the cascade, as one model, with the node to begin with as a parameter
//! ([`ENTRY_PARAMETER`]), and says who answered ([`DECIDED_BY_PARAMETER`]).

mod decided_by;
mod failure;
mod model;
pub mod state;
mod told;

pub use decided_by::DecidedBy;
pub use failure::{Failure, error_chain, tell_circuit};
pub use model::{RemoteModel, Reply};
pub use told::{Answered, Candidate, Kind, milliseconds};

/// Request parameter with the name of the node at which a cascade, asked for as one model, begins.
pub const ENTRY_PARAMETER: &str = "outpost_entry";
/// Response parameter with `SITE/NODE` for each image, separated by commas: whose answer it is.
pub const DECIDED_BY_PARAMETER: &str = "outpost_decided_by";
/// The output of a cascade that is asked for as one model: probabilities, `[n, classes]`.
pub const CASCADE_OUTPUT: &str = "probabilities";
