//! Temperature scaling: one number a node that makes its probabilities mean what they say.
//!
//! After Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017): the
//! probabilities p become p^(1/T) / Σ p^(1/T), with the T of least negative log-likelihood.

/// The most probable classes of a distribution, and what is left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution<'a> {
    /// The largest probabilities, largest first; all of them, or as many as were kept.
    pub top: &'a [f32],
    /// Number of classes. What `top` leaves is spread evenly over the classes that it does not have.
    pub classes: usize,
}

/// What one example says about a node's calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Labelled<'a> {
    /// What the node said.
    pub said: Distribution<'a>,
    /// The probability that it gave the true class.
    pub label_probability: f32,
    /// Whether the true class is the most probable.
    pub is_right: bool,
}

/// Why there is no temperature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// There are no examples.
    #[error("there are no examples to calibrate on")]
    Empty,
    /// The node is right about all examples, or wrong about all: every temperature is too high or too
    /// low.
    #[error("the node is right about all {0} examples or wrong about all: give more examples")]
    OneOutcome(usize),
}

/// Share of the examples in a range of confidence that the node is right about.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bin {
    /// Examples in it.
    pub count: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// Share of them that is right.
    pub accuracy: f64,
}

impl Distribution<'_> {
    /// The logarithm of Σ p^(1/T).
    fn log_normaliser(&self, temperature: f64) -> f64 {
        let power = |p: f64| (p.max(1e-30).ln() / temperature).exp();
        let top: f64 = self.top.iter().map(|&p| power(p.into())).sum();
        let others = self.classes.saturating_sub(self.top.len());
        let left = (1.0 - self.top.iter().map(|&p| f64::from(p)).sum::<f64>()).max(0.0);
        let rest = match others {
            0 => 0.0,
            _ => others as f64 * power(left / others as f64),
        };
        (top + rest).ln()
    }

    /// The probability of the most probable class at a temperature.
    pub fn confidence(&self, temperature: f64) -> f64 {
        let first = f64::from(self.top.first().copied().unwrap_or(0.0));
        (first.max(1e-30).ln() / temperature - self.log_normaliser(temperature))
            .exp()
            .min(1.0)
    }
}

/// Mean −ln of the true class's probability at a temperature.
pub fn negative_log_likelihood(examples: &[Labelled<'_>], temperature: f64) -> f64 {
    let one = |example: &Labelled<'_>| {
        let log = f64::from(example.label_probability).max(1e-30).ln() / temperature;
        example.said.log_normaliser(temperature) - log
    };
    examples.iter().map(one).sum::<f64>() / examples.len() as f64
}

/// The temperature of least negative log-likelihood, from 1/20 to 20.
///
/// # Errors
/// [`CalibrationError`] where the examples fix none.
pub fn temperature(examples: &[Labelled<'_>]) -> Result<f32, CalibrationError> {
    if examples.is_empty() {
        return Err(CalibrationError::Empty);
    }
    let right = examples.iter().filter(|example| example.is_right).count();
    if right == 0 || right == examples.len() {
        return Err(CalibrationError::OneOutcome(examples.len()));
    }
    // Convex in 1/T, so without a second dip in ln T: golden-section search.
    let ratio = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-(20.0_f64.ln()), 20.0_f64.ln());
    let value = |log: f64| negative_log_likelihood(examples, log.exp());
    let (mut a, mut b) = (high - ratio * (high - low), low + ratio * (high - low));
    let (mut at_a, mut at_b) = (value(a), value(b));
    while high - low > 1e-4 {
        if at_a < at_b {
            (high, b, at_b) = (b, a, at_a);
            a = high - ratio * (high - low);
            at_a = value(a);
        } else {
            (low, a, at_a) = (a, b, at_b);
            b = low + ratio * (high - low);
            at_b = value(b);
        }
    }
    Ok(((low + high) / 2.0).exp() as f32)
}

/// Sorts examples into `count` ranges of equal width by their confidence at a temperature.
pub fn reliability(examples: &[Labelled<'_>], temperature: f64, count: usize) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); count];
    for example in examples {
        let confidence = example.said.confidence(temperature);
        let bin = &mut bins[((confidence * count as f64) as usize).min(count - 1)];
        bin.count += 1;
        bin.confidence += confidence;
        bin.accuracy += f64::from(u8::from(example.is_right));
    }
    for bin in bins.iter_mut().filter(|bin| bin.count > 0) {
        bin.confidence /= bin.count as f64;
        bin.accuracy /= bin.count as f64;
    }
    bins
}

/// The expected calibration error: the mean distance of confidence and accuracy over `bins`, weighted
/// by their examples.
pub fn expected_calibration_error(bins: &[Bin]) -> f64 {
    let count: usize = bins.iter().map(|bin| bin.count).sum();
    let sum: f64 = bins
        .iter()
        .map(|bin| bin.count as f64 * (bin.confidence - bin.accuracy).abs())
        .sum();
    sum / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// A node of two classes whose true odds are those that it says, to the power of `sharpness`.
    fn examples(sharpness: f64) -> Vec<([f32; 2], bool)> {
        let mut rng = Rng::with_seed(7);
        (0..20_000)
            .map(|_| {
                let logit = 4.0 * rng.f64();
                let said = 1.0 / (1.0 + (-logit).exp());
                let is_right = rng.f64() < 1.0 / (1.0 + (-logit * sharpness).exp());
                ([said as f32, 1.0 - said as f32], is_right)
            })
            .collect()
    }

    fn labelled(examples: &[([f32; 2], bool)]) -> Vec<Labelled<'_>> {
        examples
            .iter()
            .map(|(top, is_right)| Labelled {
                said: Distribution { top, classes: 2 },
                label_probability: if *is_right { top[0] } else { top[1] },
                is_right: *is_right,
            })
            .collect()
    }

    #[test]
    fn an_overconfident_node_gets_the_temperature_that_mends_it() {
        let said = examples(0.5);
        let examples = labelled(&said);
        let found = temperature(&examples).unwrap();
        assert!((found - 2.0).abs() < 0.1, "{found}");
        let error = |t| expected_calibration_error(&reliability(&examples, t, 15));
        assert!(error(found.into()) < 0.015 && error(1.0) > 0.05);
    }

    #[test]
    fn what_is_left_is_spread_over_the_other_classes() {
        let kept = Distribution {
            top: &[0.6, 0.2],
            classes: 4,
        };
        let all = Distribution {
            top: &[0.6, 0.2, 0.1, 0.1],
            classes: 4,
        };
        for t in [0.5, 1.0, 3.0] {
            assert!((kept.confidence(t) - all.confidence(t)).abs() < 1e-6);
        }
        assert!((kept.confidence(1.0) - 0.6).abs() < 1e-6);
    }

    #[test]
    fn a_set_with_one_outcome_is_refused() {
        assert_eq!(temperature(&[]), Err(CalibrationError::Empty));
        let all_right: Vec<_> = examples(1.0)
            .into_iter()
            .map(|(top, _)| (top, true))
            .collect();
        let refused = temperature(&labelled(&all_right));
        assert_eq!(refused, Err(CalibrationError::OneOutcome(20_000)));
    }
}
