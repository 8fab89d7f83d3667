//! The trait of all decision functions, and a file for each family.

mod constant;
mod threshold;

pub use constant::Constant;
pub use threshold::Threshold;

use crate::evidence::Evidence;

/// What a decision function chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Answer with what this node said.
    Exit,
    /// Go on to a successor.
    GoTo(Successor),
}

/// Index into the list of a node's successors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Successor(pub usize);

/// Decides, from what a node said, whether to answer or to go on.
///
/// Implementations are pure: the same evidence gives the same decision.
pub trait DecisionFunction: std::fmt::Debug + Send + Sync {
    /// Decides one example.
    fn decide(&self, evidence: &Evidence<'_>) -> Decision;
}
