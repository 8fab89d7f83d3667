//! Runs a cascade at a site: the networks that are here, and peers for those that are not.
//!
//! An [`Engine`] drives [`outpost_cascade::Walk`] for one image at a time: it runs local networks off the
//! async threads, asks an [`Upstream`] where a network is elsewhere, and falls back on what was said here. The
//! device and the services are the same engine with different fronts.
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
    Asked, Engine, ImageError, Late, Outcome, Plan, PolicyFile, Route, RunsHere, StartError, Turn,
    blocking, load_cascade,
};
pub use inquiry::{Answer, ServedModel, ask_about_model, ask_whether_live};
pub use learned::{PolicyError, load as load_policy};
pub use outpost_offload::{
    CASCADE_OUTPUT, DECIDED_BY_PARAMETER, DecidedBy, ENTRY_PARAMETER, error_chain,
};
pub use peer::{
    BudgetConfig, BudgetLeft, CircuitSettings, EncodersError, Encoding, EndpointStatus, EnergyUse,
    Offload, OtherConfig, Payload, PeerConfig, PeerError, SentAs, Thrift, ThriftAccount,
    UnknownEncoding, Upstream,
};
pub use picture::{Picture, PictureError};
pub use privacy::{Privacy, PrivacyError};
