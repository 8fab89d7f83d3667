//! What a decision function may look at.

/// How many of the largest probabilities a [`Summary`] keeps.
pub const TOP: usize = 5;

/// Names of what [`Summary::confidence_inputs`] gives, in its order.
pub const CONFIDENCE_INPUTS: [&str; 9] = [
    "p1",
    "p2",
    "p3",
    "p4",
    "p5",
    "margin",
    "certainty",
    "log-odds",
    "log-ratio",
];

/// Keeps the logarithms of [`Summary::confidence_inputs`] finite: about the rounding of a
/// probability in 32 bits.
const SMALLEST: f32 = 1e-7;

/// The distribution over classes that a node gave, as far as policies look at it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    top: [f32; TOP],
    entropy: f32,
    classes: u32,
}

impl Summary {
    /// Sums up the probability of every class, by class id.
    ///
    /// `None` for fewer than two classes and for values outside 0 to 1, NaN among them.
    pub fn new(probabilities: &[f32]) -> Option<Self> {
        let classes = u32::try_from(probabilities.len()).ok()?;
        if !probabilities.iter().all(is_probability) {
            return None;
        }
        let mut top = [0.0; TOP];
        let mut entropy = 0.0;
        for &probability in probabilities {
            if probability > top[TOP - 1] {
                let place = top.iter().take_while(|&&p| p >= probability).count();
                top[place..].rotate_right(1);
                top[place] = probability;
            }
            if probability > 0.0 {
                entropy -= probability * probability.ln();
            }
        }
        Self::from_parts(top, entropy, classes)
    }

    /// The same from its parts: the largest probabilities, largest first (zeros where there are
    /// fewer classes), the entropy H = −Σ p ln p in nats, and the number of classes.
    ///
    /// `None` where they are no such parts.
    pub fn from_parts(top: [f32; TOP], entropy: f32, classes: u32) -> Option<Self> {
        let valid = classes >= 2
            && top.iter().all(is_probability)
            && top.is_sorted_by(|a, b| a >= b)
            // Rounding may carry an entropy below zero.
            && entropy.is_finite()
            && entropy >= -1e-3;
        valid.then_some(Self {
            top,
            entropy,
            classes,
        })
    }

    /// The largest probabilities, largest first; zeros where there are fewer classes.
    pub fn top(&self) -> &[f32; TOP] {
        &self.top
    }

    /// H = −Σ p ln p in nats.
    pub fn entropy(&self) -> f32 {
        self.entropy
    }

    /// Number of classes.
    pub fn classes(&self) -> u32 {
        self.classes
    }

    /// 1 − H / ln(classes): 0 for the uniform distribution, 1 for certainty.
    pub(crate) fn certainty(&self) -> f32 {
        (1.0 - self.entropy / (self.classes as f32).ln()).clamp(0.0, 1.0)
    }

    /// The inputs of decision functions on confidence, named by [`CONFIDENCE_INPUTS`]: the five
    /// largest probabilities p1 to p5, the margin p1 − p2, the certainty 1 − H / ln(classes),
    /// ln(p1 / (1 − p1)) and ln(p1 / p2).
    pub fn confidence_inputs(&self) -> [f32; CONFIDENCE_INPUTS.len()] {
        let [p1, p2, p3, p4, p5] = self.top;
        let ln = |p: f32| p.max(SMALLEST).ln();
        [
            p1,
            p2,
            p3,
            p4,
            p5,
            p1 - p2,
            self.certainty(),
            ln(p1) - ln(1.0 - p1),
            ln(p1) - ln(p2),
        ]
    }
}

/// Softmax rounding may leave a probability an ulp or two above 1.
fn is_probability(p: &f32) -> bool {
    (0.0..=1.0 + 1e-5).contains(p)
}

/// What a node said about one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence<'a> {
    summary: Summary,
    features: Option<&'a [f32]>,
}

impl<'a> Evidence<'a> {
    /// Takes the probability of every class, by class id.
    ///
    /// `None` for fewer than two classes and for values outside 0 to 1, NaN among them.
    pub fn new(probabilities: &[f32]) -> Option<Self> {
        Summary::new(probabilities).map(Self::from)
    }

    /// Adds the pooled features of the node, where there are some.
    #[must_use]
    pub fn with_features(mut self, features: impl Into<Option<&'a [f32]>>) -> Self {
        self.features = features.into();
        self
    }

    /// The distribution over classes.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The pooled features, where they were computed.
    pub fn features(&self) -> Option<&'a [f32]> {
        self.features
    }
}

impl From<Summary> for Evidence<'_> {
    fn from(summary: Summary) -> Self {
        Self {
            summary,
            features: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_summary_keeps_the_largest_probabilities_in_order() {
        let summary = Summary::new(&[0.05, 0.3, 0.1, 0.25, 0.05, 0.2, 0.05]).unwrap();
        assert_eq!(summary.top(), &[0.3, 0.25, 0.2, 0.1, 0.05]);
        assert_eq!(
            Summary::new(&[0.4, 0.6]).unwrap().top(),
            &[0.6, 0.4, 0., 0., 0.]
        );
    }

    #[test]
    fn what_is_no_distribution_has_no_summary() {
        for wrong in [&[1.0][..], &[0.5, f32::NAN], &[-0.1, 1.1], &[]] {
            assert_eq!(Summary::new(wrong), None, "{wrong:?}");
        }
        assert_eq!(Summary::from_parts([0.1, 0.2, 0., 0., 0.], 0.1, 10), None);
        assert_eq!(
            Summary::from_parts([0.9, 0.1, 0., 0., 0.], f32::NAN, 10),
            None
        );
    }

    proptest! {
        #[test]
        fn inputs_are_finite_and_parts_make_the_same_summary(
            mut scores in proptest::collection::vec(0.0_f32..1.0, 2..50), peak in 0.0_f32..1e6
        ) {
            scores[0] += peak + 1e-3;
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum);
            let summary = Summary::new(&scores).unwrap();
            prop_assert!(summary.confidence_inputs().iter().all(|input| input.is_finite()));
            let again = Summary::from_parts(*summary.top(), summary.entropy(), summary.classes());
            prop_assert_eq!(again, Some(summary));
        }
    }
}
