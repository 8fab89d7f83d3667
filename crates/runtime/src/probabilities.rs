//! What a network said about one image.

use std::{cmp::Ordering, fmt};

use crate::manifest::OutputKind;

/// Index of a class, from 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct ClassId(pub u32);

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A class and the probability that a network gave it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassProbability {
    /// The class.
    pub class_id: ClassId,
    /// Its probability, 0 to 1.
    pub probability: f32,
}

/// One probability a class; never empty, every value from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Probabilities(Vec<f32>);

impl Probabilities {
    /// Takes one row of a network's output; logits go through a softmax.
    ///
    /// `None` when there is no value, one that is not finite, or a probability outside 0 to 1: a
    /// network that says such things has said nothing.
    pub fn from_output(mut row: Vec<f32>, kind: OutputKind) -> Option<Self> {
        // Softmax rounding may leave a probability an ulp or two outside its range.
        let in_range = |value: &f32| match kind {
            OutputKind::Logits => value.is_finite(),
            OutputKind::Probabilities => (-1e-5..=1.0 + 1e-5).contains(value),
        };
        if row.is_empty() || !row.iter().all(in_range) {
            return None;
        }
        if kind == OutputKind::Logits {
            softmax(&mut row);
        }
        for value in &mut row {
            *value = value.clamp(0.0, 1.0);
        }
        Some(Self(row))
    }

    /// The probability of every class, by class id.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The probabilities p^(1/T) / Σ p^(1/T): flatter for a temperature T above 1, sharper below, in the
    /// same order. `temperature` must be positive.
    #[must_use]
    pub fn at_temperature(mut self, temperature: f32) -> Self {
        if temperature != 1.0 {
            for p in &mut self.0 {
                *p = p.max(f32::MIN_POSITIVE).ln() / temperature;
            }
            softmax(&mut self.0);
        }
        self
    }

    /// The most probable class; of equals the first, as `argmax` has it.
    pub fn top1(&self) -> ClassProbability {
        self.top(1)[0]
    }

    /// The `count` most probable classes, most probable first.
    pub fn top(&self, count: usize) -> Vec<ClassProbability> {
        let mut order: Vec<u32> = (0..self.0.len() as u32).collect();
        let by_probability = |&a: &u32, &b: &u32| -> Ordering {
            self.0[b as usize]
                .total_cmp(&self.0[a as usize])
                .then(a.cmp(&b))
        };
        let count = count.min(order.len());
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, by_probability);
        }
        order.truncate(count);
        order.sort_unstable_by(by_probability);
        order
            .into_iter()
            .map(|class| ClassProbability {
                class_id: ClassId(class),
                probability: self.0[class as usize],
            })
            .collect()
    }
}

fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in values.iter_mut() {
        *value = (*value - max).exp();
        sum += *value;
    }
    for value in values.iter_mut() {
        *value /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_orders_classes_and_breaks_ties_by_class_id() {
        let said = Probabilities::from_output(vec![0.2, 0.4, 0.0, 0.4], OutputKind::Probabilities)
            .unwrap();
        let classes: Vec<u32> = said.top(3).iter().map(|c| c.class_id.0).collect();
        assert_eq!(classes, [1, 3, 0]);
        assert_eq!(said.top1().class_id, ClassId(1));
        assert_eq!(said.top(9).len(), 4);
    }

    #[test]
    fn softmax_survives_large_logits() {
        let said = Probabilities::from_output(vec![1e4, 1e4, -1e4], OutputKind::Logits).unwrap();
        assert_eq!(said.as_slice(), [0.5, 0.5, 0.0]);
    }

    #[test]
    fn a_temperature_flattens_and_keeps_the_order() {
        let said = Probabilities::from_output(vec![0.8, 0.2, 0.0], OutputKind::Probabilities);
        let flat = said.clone().unwrap().at_temperature(2.0);
        // sqrt(0.8) = 2 · sqrt(0.2).
        assert!((flat.as_slice()[0] - 2.0 / 3.0).abs() < 1e-5, "{flat:?}");
        assert_eq!(said.clone().unwrap().at_temperature(1.0), said.unwrap());
    }

    #[test]
    fn probabilities_outside_their_range_say_nothing() {
        for value in [-0.5, 1.5, f32::INFINITY] {
            let row = vec![value, 0.5];
            assert_eq!(
                Probabilities::from_output(row, OutputKind::Probabilities),
                None
            );
        }
    }

    #[test]
    fn an_output_that_is_not_finite_says_nothing() {
        assert_eq!(
            Probabilities::from_output(vec![0.1, f32::NAN], OutputKind::Logits),
            None
        );
        assert_eq!(
            Probabilities::from_output(vec![], OutputKind::Probabilities),
            None
        );
    }
}
