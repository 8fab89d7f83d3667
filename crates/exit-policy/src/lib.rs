//! Exit policies: what a network said about an example, and whether that is answer enough.
//!
//! Deciding:
//! - [`Evidence`] is what a node of a cascade said; [`Measure`] turns it into one [`Confidence`].
//! - [`DecisionFunction`] looks at the evidence and takes a [`Decision`]: exit with this answer, or go
//!   on to one of the node's successors. [`Constant`], [`Threshold`] and [`Linear`] implement it.
//! - [`Agreement`] and [`DriftDetector`] say, from a sample of live answers, whether they are as good as was expected.
//! - [`Bundle`] is a file of learned policies, at several prices of time; [`Bundle::choose`] picks by a [`Goal`].
//!
//! Learning and judging, off line:
//! - [`Examples`] are what the nodes of a [`Graph`] said about labelled examples, [`Costs`] what the
//!   steps between them take; together they are a [`Problem`].
//! - [`learn`] makes policies; [`Problem::evaluate`] takes examples through them.
//! - [`Oracle`] and [`random_exits`] are what they are compared with, [`bootstrap`] says how sure a
//!   difference is, [`Promise`] picks a policy that keeps a bound on its loss, [`calibrate`] makes
//!   probabilities mean what they say.
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
//! Invariants: no I/O, no clock, no threads, no randomness but from a seed that a caller passes in;
//! the same evidence always gives the same decision, in an evaluation and in a live agent.

mod agreement;
mod baseline;
pub mod bootstrap;
mod bundle;
pub mod calibrate;
mod confidence;
mod costs;
mod evaluate;
mod evidence;
mod examples;
mod graph;
mod learn;
mod policy;
mod risk;

pub use agreement::{Agreement, DriftDetector, Estimate};
pub use baseline::{Oracle, one_threshold, random_exits};
pub use bundle::{
    Bundle, BundleError, BundleNode, Choice, Expected, FunctionError, Goal, GoalError,
    OperatingPoint, Reference, lot,
};
pub use confidence::{Confidence, ConfidenceError, Measure};
pub use costs::{Costs, Price, Spent, Step};
pub use evaluate::{Outcome, Outcomes, Problem, ProblemError};
pub use evidence::{CONFIDENCE_INPUTS, Evidence, Summary, TOP};
pub use examples::{Examples, ExamplesError, Matrix, NodeExamples};
pub use graph::{Graph, GraphError};
pub use learn::{Family, LearnError, Settings, learn};
pub use policy::{
    Constant, Decision, DecisionFunction, Function, Inputs, Linear, LinearError, Score, Successor,
    Threshold,
};
pub use risk::{Differences, Promise, PromiseError};
