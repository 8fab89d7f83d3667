//! Measures of confidence: one number from 0 (no idea) to 1 (certain) for what a network said.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;

/// A confidence from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Confidence(f32);

/// A number that is no confidence.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{0} is no confidence: give a number from 0 to 1")]
pub struct ConfidenceError(f32);

impl Confidence {
    /// Checks the range.
    ///
    /// # Errors
    /// [`ConfidenceError`] outside 0 to 1, and for NaN.
    pub fn try_new(value: f32) -> Result<Self, ConfidenceError> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(ConfidenceError(value))
        }
    }

    /// The number, 0 to 1.
    pub fn get(self) -> f32 {
        self.0
    }

    /// Rounding may carry a measure past the ends of its range by an ulp.
    fn clamped(value: f32) -> Self {
        Self(value.clamp(0.0, 1.0))
    }
}

impl TryFrom<f32> for Confidence {
    type Error = ConfidenceError;

    fn try_from(value: f32) -> Result<Self, Self::Error> {
        Self::try_new(value)
    }
}

impl From<Confidence> for f32 {
    fn from(confidence: Confidence) -> Self {
        confidence.0
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How confidence is measured. All three rank a certain prediction at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The probability of the most probable class.
    MaxProbability,
    /// The difference between the two largest probabilities.
    Margin,
    /// 1 − H / ln(classes), with H = −Σ p ln p the entropy in nats: 0 for the uniform distribution.
    Entropy,
}

impl Measure {
    /// Measures what a network said.
    pub fn of(self, evidence: &Evidence<'_>) -> Confidence {
        let summary = evidence.summary();
        let [first, second, ..] = *summary.top();
        Confidence::clamped(match self {
            Self::MaxProbability => first,
            Self::Margin => first - second,
            Self::Entropy => summary.certainty(),
        })
    }

    /// All measures.
    pub const ALL: [Self; 3] = [Self::MaxProbability, Self::Margin, Self::Entropy];
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn certainty_is_one_and_ignorance_is_least() {
        let certain = Evidence::new(&[0.0, 1.0, 0.0, 0.0]).unwrap();
        let ignorant = Evidence::new(&[0.25; 4]).unwrap();
        for measure in Measure::ALL {
            assert_eq!(measure.of(&certain).get(), 1.0, "{measure:?}");
        }
        assert_eq!(Measure::MaxProbability.of(&ignorant).get(), 0.25);
        assert_eq!(Measure::Margin.of(&ignorant).get(), 0.0);
        assert!(Measure::Entropy.of(&ignorant).get() < 1e-6);
    }

    #[test]
    fn entropy_matches_a_hand_calculation() {
        // H(0.5, 0.25, 0.25) = 1.5 ln 2; ln 3 for three classes.
        let evidence = Evidence::new(&[0.5, 0.25, 0.25]).unwrap();
        let expected = 1.0 - 1.5 * 2.0_f32.ln() / 3.0_f32.ln();
        assert!((Measure::Entropy.of(&evidence).get() - expected).abs() < 1e-6);
    }

    #[test]
    fn a_confidence_outside_its_range_is_refused() {
        for value in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
            assert!(Confidence::try_new(value).is_err(), "{value}");
        }
    }

    proptest! {
        #[test]
        fn every_measure_stays_in_range_whatever_the_order(
            mut scores in proptest::collection::vec(0.001_f32..1.0, 2..50)
        ) {
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum);
            let forwards = Measure::ALL.map(|m| m.of(&Evidence::new(&scores).unwrap()).get());
            scores.reverse();
            let backwards = Measure::ALL.map(|m| m.of(&Evidence::new(&scores).unwrap()).get());
            for (a, b) in forwards.into_iter().zip(backwards) {
                prop_assert!((0.0..=1.0).contains(&a));
                prop_assert!((a - b).abs() < 1e-5);
            }
        }
    }
}
