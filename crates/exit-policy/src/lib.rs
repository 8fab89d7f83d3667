//! Exit policies: what a network said about an example, and whether that is answer enough.
//!
//! - [`Evidence`] is what a node of a cascade said; [`Measure`] turns it into one [`Confidence`].
//! - [`DecisionFunction`] looks at the evidence and takes a [`Decision`]: exit with this answer, or go
//!   on to one of the node's successors. [`Constant`] and [`Threshold`] implement it.
//!
//! ```
//! use outpost_exit_policy::{
//!     Confidence, Decision, DecisionFunction, Evidence, Measure, Successor, Threshold,
//! };
//!
//! let policy = Threshold {
//!     measure: Measure::MaxProbability,
//!     at_least: Confidence::try_new(0.7)?,
//!     otherwise: Successor(0),
//! };
//! let unsure = Evidence::new(&[0.6, 0.3, 0.1]).expect("probabilities");
//! assert_eq!(policy.decide(&unsure), Decision::GoTo(Successor(0)));
//! # Ok::<(), outpost_exit_policy::ConfidenceError>(())
//! ```
//!
//! Invariants: no I/O, no clock, no randomness but what a caller passes in; the same evidence always
//! gives the same decision, here and in a live agent.

mod confidence;
mod evidence;
mod policy;

pub use confidence::{Confidence, ConfidenceError, Measure};
pub use evidence::Evidence;
pub use policy::{Constant, Decision, DecisionFunction, Successor, Threshold};
