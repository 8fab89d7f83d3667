//! The trait of all decision functions, and a file for each family.

mod constant;
mod linear;
mod threshold;

pub use constant::Constant;
pub(crate) use linear::dot;
pub use linear::{Inputs, Linear, LinearError, Score};
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

    /// What it decides whatever it sees; none where that depends.
    fn always(&self) -> Option<Decision> {
        None
    }
}

/// A decision function of any family.
#[derive(Debug, Clone, PartialEq)]
pub enum Function {
    /// The same decision for every example.
    Constant(Constant),
    /// The myopic rule on one measure of confidence.
    Threshold(Threshold),
    /// Linear on confidence, or on confidence and pooled features.
    Linear(Linear),
}

impl Function {
    /// Always exits.
    pub const EXIT: Self = Self::Constant(Constant(Decision::Exit));

    /// Always goes on to `successor`.
    pub const fn go_to(successor: Successor) -> Self {
        Self::Constant(Constant(Decision::GoTo(successor)))
    }

    /// Where it may go on to.
    pub(crate) fn successors(&self) -> impl Iterator<Item = Successor> {
        let (one, scores) = match self {
            Self::Constant(Constant(Decision::Exit)) => (None, &[][..]),
            Self::Constant(Constant(Decision::GoTo(to))) => (Some(*to), &[][..]),
            Self::Threshold(threshold) => (Some(threshold.otherwise), &[][..]),
            Self::Linear(linear) => (None, linear.scores()),
        };
        one.into_iter().chain(scores.iter().map(|score| score.to))
    }

    /// Whether it looks at the pooled features.
    pub fn needs_features(&self) -> bool {
        matches!(self, Self::Linear(linear) if linear.inputs() == Inputs::Features)
    }
}

impl DecisionFunction for Function {
    fn decide(&self, evidence: &Evidence<'_>) -> Decision {
        match self {
            Self::Constant(function) => function.decide(evidence),
            Self::Threshold(function) => function.decide(evidence),
            Self::Linear(function) => function.decide(evidence),
        }
    }

    fn always(&self) -> Option<Decision> {
        match self {
            Self::Constant(function) => function.always(),
            Self::Threshold(_) | Self::Linear(_) => None,
        }
    }
}
