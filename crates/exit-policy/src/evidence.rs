//! What a decision function may look at.

/// What a network said about one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence<'a> {
    probabilities: &'a [f32],
}

impl<'a> Evidence<'a> {
    /// Takes the probability of every class, by class id.
    ///
    /// `None` for fewer than two classes and for values outside 0 to 1, NaN among them.
    pub fn new(probabilities: &'a [f32]) -> Option<Self> {
        // Softmax rounding may leave a probability an ulp or two above 1.
        let valid = |p: &f32| (0.0..=1.0 + 1e-5).contains(p);
        (probabilities.len() >= 2 && probabilities.iter().all(valid))
            .then_some(Self { probabilities })
    }

    /// The probability of every class, by class id.
    pub fn probabilities(&self) -> &'a [f32] {
        self.probabilities
    }
}
