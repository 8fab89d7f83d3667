//! The myopic rule: answer when the network is confident enough, whatever comes after it.

use super::{Decision, DecisionFunction, Successor};
use crate::{
    confidence::{Confidence, Measure},
    evidence::Evidence,
};

/// Exits when the confidence reaches a threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// How confidence is measured.
    pub measure: Measure,
    /// The least confidence that exits.
    pub at_least: Confidence,
    /// Where the others go.
    pub otherwise: Successor,
}

impl DecisionFunction for Threshold {
    fn decide(&self, evidence: &Evidence<'_>) -> Decision {
        if self.measure.of(evidence) >= self.at_least {
            Decision::Exit
        } else {
            Decision::GoTo(self.otherwise)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(measure: Measure, threshold: f32, probabilities: &[f32]) -> Decision {
        let rule = Threshold {
            measure,
            at_least: Confidence::try_new(threshold).unwrap(),
            otherwise: Successor(1),
        };
        rule.decide(&Evidence::new(probabilities).unwrap())
    }

    #[test]
    fn exits_from_the_threshold_upwards() {
        let said = [0.75, 0.25];
        assert_eq!(decide(Measure::MaxProbability, 0.75, &said), Decision::Exit);
        assert_eq!(
            decide(Measure::MaxProbability, 0.76, &said),
            Decision::GoTo(Successor(1))
        );
        assert_eq!(decide(Measure::Margin, 0.5, &said), Decision::Exit);
        assert_eq!(
            decide(Measure::Entropy, 0.5, &said),
            Decision::GoTo(Successor(1))
        );
    }
}
