//! The linear family: a score for every successor, linear in confidence or in pooled features too.
//!
//! With the inputs x, successor k has the score s_k = w_k · x + b_k, and exiting has the score 0. The
//! largest score decides.

use serde::{Deserialize, Serialize};

use super::{Decision, DecisionFunction, Successor};
use crate::evidence::{CONFIDENCE_INPUTS, Evidence};

/// What a linear function looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inputs {
    /// [`CONFIDENCE_INPUTS`].
    Confidence,
    /// [`CONFIDENCE_INPUTS`], then the pooled features of the node.
    Features,
}

/// Score of one successor.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Where an example goes when this score is the largest.
    pub to: Successor,
    /// Score of the zero vector.
    pub bias: f32,
    /// One weight an input.
    pub weights: Vec<f32>,
}

/// Exits unless a successor has a positive score, else goes to the one with the largest.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    inputs: Inputs,
    scores: Vec<Score>,
}

/// Numbers that make no linear function.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LinearError {
    /// A weight or bias is NaN or infinite.
    #[error("a weight or bias is not finite")]
    NotFinite,
    /// There are too few or too many weights.
    #[error("{found} weights stand where the inputs are {expected}")]
    Weights {
        /// By the inputs.
        expected: usize,
        /// By the function.
        found: usize,
    },
}

impl Linear {
    /// Checks the numbers. `feature_width` is the width of the node's pooled features.
    ///
    /// # Errors
    /// [`LinearError`] where a number is not finite or their count is not that of the inputs.
    pub fn try_new(
        inputs: Inputs,
        feature_width: usize,
        scores: Vec<Score>,
    ) -> Result<Self, LinearError> {
        let expected = match inputs {
            Inputs::Confidence => CONFIDENCE_INPUTS.len(),
            Inputs::Features => CONFIDENCE_INPUTS.len().saturating_add(feature_width),
        };
        for score in &scores {
            let found = score.weights.len();
            if found != expected {
                return Err(LinearError::Weights { expected, found });
            }
            if !score.bias.is_finite() || !score.weights.iter().all(|w| w.is_finite()) {
                return Err(LinearError::NotFinite);
            }
        }
        Ok(Self { inputs, scores })
    }

    /// What it looks at.
    pub fn inputs(&self) -> Inputs {
        self.inputs
    }

    /// The scores.
    pub fn scores(&self) -> &[Score] {
        &self.scores
    }
}

impl DecisionFunction for Linear {
    /// Without the features that it needs, or with features of another width or that are not finite,
    /// it goes on to the first successor it knows: what cannot be judged is for a larger network.
    fn decide(&self, evidence: &Evidence<'_>) -> Decision {
        let Some(first) = self.scores.first() else {
            return Decision::Exit;
        };
        let confidence = evidence.summary().confidence_inputs();
        let width = first.weights.len() - confidence.len();
        let features = match self.inputs {
            Inputs::Confidence => &[][..],
            Inputs::Features => match evidence.features() {
                Some(features) if features.len() == width => features,
                _ => return Decision::GoTo(first.to),
            },
        };
        let mut best = (0.0, Decision::Exit);
        for score in &self.scores {
            let (on_confidence, on_features) = score.weights.split_at(confidence.len());
            let value = score.bias + dot(on_confidence, &confidence) + dot(on_features, features);
            if value.is_nan() {
                return Decision::GoTo(first.to);
            }
            if value > best.0 {
                best = (value, Decision::GoTo(score.to));
            }
        }
        best.1
    }
}

/// Σ aᵢ bᵢ of two slices of one length, in an order that depends on the length alone.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a
        .remainder()
        .iter()
        .zip(b.remainder())
        .map(|(x, y)| x * y)
        .sum();
    let mut sums = [0.0_f32; LANES];
    for (x, y) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Summary;

    fn on_margin(to: usize, bias: f32, weight: f32) -> Score {
        let mut weights = vec![0.0; CONFIDENCE_INPUTS.len()];
        weights[5] = weight;
        Score {
            to: Successor(to),
            bias,
            weights,
        }
    }

    #[test]
    fn the_largest_positive_score_decides() {
        let scores = vec![on_margin(1, 0.5, -1.0), on_margin(0, 0.9, -3.0)];
        let linear = Linear::try_new(Inputs::Confidence, 0, scores).unwrap();
        let decide = |margin: f32| {
            let said = [0.5 + margin / 2.0, 0.5 - margin / 2.0];
            linear.decide(&Evidence::new(&said).unwrap())
        };
        assert_eq!(decide(0.9), Decision::Exit);
        assert_eq!(decide(0.4), Decision::GoTo(Successor(1)));
        assert_eq!(decide(0.1), Decision::GoTo(Successor(0)));
    }

    #[test]
    fn features_that_cannot_be_judged_go_on() {
        let score = Score {
            to: Successor(2),
            bias: -1.0,
            weights: vec![0.1; CONFIDENCE_INPUTS.len() + 3],
        };
        let linear = Linear::try_new(Inputs::Features, 3, vec![score]).unwrap();
        let evidence = Evidence::from(Summary::new(&[0.5, 0.5]).unwrap());
        let on = Decision::GoTo(Successor(2));
        assert_eq!(linear.decide(&evidence), on);
        assert_eq!(linear.decide(&evidence.with_features(&[0.0; 2][..])), on);
        assert_eq!(
            linear.decide(&evidence.with_features(&[0.0, f32::NAN, 0.0][..])),
            on
        );
        assert_eq!(
            linear.decide(&evidence.with_features(&[-9.0; 3][..])),
            Decision::Exit
        );
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let refused = |inputs, width, score| Linear::try_new(inputs, width, vec![score]);
        assert_eq!(
            refused(Inputs::Features, 3, on_margin(0, 0.0, 0.0)),
            Err(LinearError::Weights {
                expected: 12,
                found: 9
            })
        );
        assert_eq!(
            refused(Inputs::Confidence, 0, on_margin(0, f32::NAN, 0.0)),
            Err(LinearError::NotFinite)
        );
    }

    #[test]
    fn a_dot_product_takes_every_element() {
        for length in 0..40 {
            let a: Vec<f32> = (0..length).map(|i| i as f32).collect();
            let expected: f32 = a.iter().map(|x| x * x).sum();
            assert_eq!(dot(&a, &a), expected, "{length}");
        }
    }
}
