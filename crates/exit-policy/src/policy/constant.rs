//! The constant family: the same decision for every example.

use super::{Decision, DecisionFunction};
use crate::evidence::Evidence;

/// Takes the same decision for every example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constant(pub Decision);

impl DecisionFunction for Constant {
    fn decide(&self, _evidence: &Evidence<'_>) -> Decision {
        self.0
    }

    fn always(&self) -> Option<Decision> {
        Some(self.0)
    }
}
