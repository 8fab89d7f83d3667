//! Runs a cascade at a site: the networks that are here, and peers for those that are not.
//!
//! An [`Engine`] drives [`outpost_cascade::Walk`] for one image at a time: it runs local networks off the
//! async threads, asks an [`Upstream`] where a network is elsewhere, and falls back on what was said here. The
//! device and the services are the same engine with different fronts.
//!
//! A network elsewhere without jumps is asked for by its name. One that goes on is decided about where it
//! runs: the peer is asked for the cascade, as one model, with the node to begin with as a parameter
//! ([`ENTRY_PARAMETER`]), and says who answered ([`DECIDED_BY_PARAMETER`]).
//!
//! Invariants: an image gets exactly one answer, by its deadline or as soon as a network here has spoken,
//! whichever is later; the answer says who gave it and why.

mod engine;
mod inquiry;
mod learned;
mod peer;
mod picture;
mod privacy;

pub use engine::{
    Asked, Change, ChangeError, Engine, ImageError, Late, Outcome, Plan, PolicyFile, Route,
    RunsHere, StartError, Turn, blocking, load_cascade,
};
pub use inquiry::{Answer, ServedModel, ask_about_model, ask_whether_live};
pub use learned::{Chosen, Deciding, PolicyError, load as load_policy};
pub use peer::{
    BudgetConfig, CircuitSettings, DecidedBy, EncodersError, Encoding, EndpointStatus, EnergyUse,
    Offload, OtherConfig, Payload, PeerConfig, PeerError, SentAs, Thrift, UnknownEncoding,
    Upstream, error_chain,
};
pub use picture::{Picture, PictureError};
pub use privacy::{Privacy, PrivacyError};

/// Request parameter with the name of the node at which a cascade, asked for as one model, begins.
pub const ENTRY_PARAMETER: &str = "outpost_entry";
/// Response parameter with `SITE/NODE` for each image, separated by commas: whose answer it is.
pub const DECIDED_BY_PARAMETER: &str = "outpost_decided_by";
/// The output of a cascade that is asked for as one model: probabilities, `[n, classes]`.
pub const CASCADE_OUTPUT: &str = "probabilities";
