//! Cost-sensitive logistic regression: scores whose largest is the choice of least expected cost.
//!
//! With c_k(x) the cost of choice k on example x, a_k(x) = max_j c_j(x) − c_k(x) the gain of k over
//! the worst, and p(x) the softmax of the scores, it minimises
//!
//! ```text
//! Σ_x Σ_k a_k(x) · (−ln p_k(x)) / Σ_x Σ_k a_k(x)  +  λ/2 · ‖w‖²
//! ```
//!
//! where w are the weights of inputs scaled to unit deviation. For two choices this is the weighted
//! binary logistic regression of the paper: the pseudo-label is the better choice, the weight the
//! difference in cost. For more it is its consistent extension: the minimiser over all functions has
//! p_k in proportion to the expected a_k, so that its largest score is the cheapest choice.

use crate::{examples::Matrix, policy::dot};

/// Corrections that L-BFGS remembers.
const HISTORY: usize = 8;

/// What a fit looks at and aims for.
pub(super) struct Fit<'a> {
    /// Columns side by side.
    pub(super) inputs: &'a [&'a Matrix],
    /// The examples to fit.
    pub(super) on: &'a [u32],
    /// Cost of every choice of every example of `on`, choice 0 the one whose score is always 0.
    pub(super) costs: &'a [f64],
    /// Number of choices.
    pub(super) choices: usize,
    /// λ.
    pub(super) l2: f64,
    /// Most iterations.
    pub(super) iterations: usize,
}

/// Weights and bias of a choice, for inputs as they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weights {
    pub(super) bias: f32,
    pub(super) weights: Vec<f32>,
}

/// Mean and deviation of every input over the examples of a fit.
struct Scale {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Scale {
    fn of(inputs: &[&Matrix], on: &[u32]) -> Self {
        let width = inputs.iter().map(|m| m.width()).sum();
        let (mut mean, mut deviation) = (vec![0.0_f64; width], vec![0.0_f64; width]);
        for &example in on {
            for (column, &value) in row(inputs, example).flatten().enumerate() {
                mean[column] += f64::from(value);
                deviation[column] += f64::from(value) * f64::from(value);
            }
        }
        let count = on.len().max(1) as f64;
        for (mean, deviation) in mean.iter_mut().zip(&mut deviation) {
            *mean /= count;
            let variance = *deviation / count - *mean * *mean;
            // An input that never changes says nothing; any scale does.
            let noise = 1e-9 * (1.0 + *mean * *mean);
            *deviation = if variance > noise {
                variance.sqrt()
            } else {
                f64::INFINITY
            };
        }
        Self { mean, deviation }
    }
}

fn row<'a>(inputs: &'a [&'a Matrix], example: u32) -> impl Iterator<Item = &'a [f32]> {
    inputs
        .iter()
        .map(move |matrix| matrix.row(example as usize))
}

/// Score of one example.
pub(super) fn score(weights: &Weights, inputs: &[&Matrix], example: u32) -> f32 {
    let mut rest = &weights.weights[..];
    let mut sum = weights.bias;
    for values in row(inputs, example) {
        let (here, others) = rest.split_at(values.len());
        sum += dot(here, values);
        rest = others;
    }
    sum
}

impl Fit<'_> {
    /// Fits; gives the weights of every choice but the first. `start`, of scaled inputs, is where to
    /// begin, and is left where the fit ended: fits to similar costs follow each other faster.
    pub(super) fn run(&self, start: &mut Vec<f64>) -> Vec<Weights> {
        let scale = Scale::of(self.inputs, self.on);
        let width = scale.mean.len();
        let size = (self.choices - 1) * (width + 1);
        if start.len() != size {
            *start = vec![0.0; size];
        }
        let total: f64 = self.costs.chunks_exact(self.choices).map(gains).sum();
        if total > 0.0 {
            let value = |at: &[f64], gradient: &mut [f64]| self.value(&scale, total, at, gradient);
            minimise(start, self.iterations, value);
        }
        unscale(start, &scale)
    }

    /// The objective and its gradient at the scaled weights `at`.
    fn value(&self, scale: &Scale, total: f64, at: &[f64], gradient: &mut [f64]) -> f64 {
        let (choices, width) = (self.choices, scale.mean.len());
        let weights = unscale(at, scale);
        // Gradients by the inputs as they are, summed in blocks: f32 is fast, f64 keeps the sum.
        let mut sums = vec![0.0_f64; (choices - 1) * width];
        let mut block = vec![0.0_f32; (choices - 1) * width];
        let mut biases = vec![0.0_f64; choices - 1];
        let mut scores = vec![0.0_f64; choices];
        let mut loss = 0.0;
        for (rows, costs) in self.on.chunks(256).zip(self.costs.chunks(256 * choices)) {
            for (&example, costs) in rows.iter().zip(costs.chunks_exact(choices)) {
                for (k, weights) in weights.iter().enumerate() {
                    scores[k + 1] = f64::from(score(weights, self.inputs, example));
                }
                let worst = costs.iter().copied().fold(f64::MIN, f64::max);
                let all = gains(costs);
                let log_sum = log_sum_exp(&scores);
                for k in 0..choices {
                    loss += (worst - costs[k]) * (log_sum - scores[k]);
                }
                for k in 1..choices {
                    let slope = all * (scores[k] - log_sum).exp() - (worst - costs[k]);
                    biases[k - 1] += slope;
                    let mut rest = &mut block[(k - 1) * width..k * width];
                    for values in row(self.inputs, example) {
                        let (here, others) = rest.split_at_mut(values.len());
                        add_scaled(here, slope as f32, values);
                        rest = others;
                    }
                }
            }
            for (sum, block) in sums.iter_mut().zip(&mut block) {
                *sum += f64::from(std::mem::take(block));
            }
        }
        let mut penalty = 0.0;
        for k in 0..choices - 1 {
            let place = k * (width + 1);
            gradient[place + width] = biases[k] / total;
            for column in 0..width {
                let at = at[place + column];
                let centred = sums[k * width + column] - scale.mean[column] * biases[k];
                gradient[place + column] = centred / scale.deviation[column] / total + self.l2 * at;
                penalty += 0.5 * self.l2 * at * at;
            }
        }
        loss / total + penalty
    }
}

/// Σ_k a_k of one example.
fn gains(costs: &[f64]) -> f64 {
    let worst = costs.iter().copied().fold(f64::MIN, f64::max);
    costs.iter().map(|cost| worst - cost).sum()
}

fn log_sum_exp(scores: &[f64]) -> f64 {
    let max = scores.iter().copied().fold(f64::MIN, f64::max);
    max + scores
        .iter()
        .map(|score| (score - max).exp())
        .sum::<f64>()
        .ln()
}

fn add_scaled(sum: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

/// Weights of the inputs as they are, from those of scaled inputs.
fn unscale(scaled: &[f64], scale: &Scale) -> Vec<Weights> {
    let width = scale.mean.len();
    scaled
        .chunks_exact(width + 1)
        .map(|scaled| {
            let weights: Vec<f64> = scaled
                .iter()
                .zip(&scale.deviation)
                .map(|(w, d)| w / d)
                .collect();
            let shift: f64 = weights.iter().zip(&scale.mean).map(|(w, m)| w * m).sum();
            Weights {
                bias: (scaled[width] - shift) as f32,
                weights: weights.into_iter().map(|w| w as f32).collect(),
            }
        })
        .collect()
}

/// L-BFGS with backtracking (Nocedal and Wright, "Numerical Optimization", algorithm 7.5), from `at`
/// to where the gradient is small, the value no longer falls, or the iterations are over.
fn minimise(
    at: &mut Vec<f64>,
    iterations: usize,
    mut value: impl FnMut(&[f64], &mut [f64]) -> f64,
) {
    let size = at.len();
    let mut gradient = vec![0.0; size];
    let mut here = value(at, &mut gradient);
    let mut history: Vec<(Vec<f64>, Vec<f64>, f64)> = Vec::new();
    for _ in 0..iterations {
        if inner(&gradient, &gradient).sqrt() < 1e-5 {
            return;
        }
        let direction = direction(&gradient, &history);
        let slope = inner(&direction, &gradient);
        let mut length = if history.is_empty() {
            1.0 / inner(&gradient, &gradient).sqrt().max(1.0)
        } else {
            1.0
        };
        let mut next_gradient = vec![0.0; size];
        let (next, there) = loop {
            let next: Vec<f64> = at
                .iter()
                .zip(&direction)
                .map(|(a, d)| a + length * d)
                .collect();
            let there = value(&next, &mut next_gradient);
            if there <= here + 1e-4 * length * slope {
                break (next, there);
            }
            length *= 0.5;
            if length < 1e-10 {
                return;
            }
        };
        let step: Vec<f64> = next.iter().zip(at.iter()).map(|(n, a)| n - a).collect();
        let change: Vec<f64> = next_gradient
            .iter()
            .zip(&gradient)
            .map(|(n, g)| n - g)
            .collect();
        let curvature = inner(&step, &change);
        if curvature > 1e-12 {
            if history.len() == HISTORY {
                history.remove(0);
            }
            history.push((step, change, 1.0 / curvature));
        }
        let fell = here - there;
        (*at, gradient, here) = (next, next_gradient, there);
        if fell < 1e-7 * here.abs() {
            return;
        }
    }
}

/// −H · gradient, H the inverse Hessian that the history stands for.
fn direction(gradient: &[f64], history: &[(Vec<f64>, Vec<f64>, f64)]) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut factors = vec![0.0; history.len()];
    for (factor, (step, change, inverse)) in factors.iter_mut().zip(history).rev() {
        *factor = inverse * inner(step, &direction);
        direction
            .iter_mut()
            .zip(change)
            .for_each(|(d, c)| *d -= *factor * c);
    }
    if let Some((_, change, inverse)) = history.last() {
        let scale = 1.0 / (inverse * inner(change, change));
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for (factor, (step, change, inverse)) in factors.iter().zip(history) {
        let correction = factor - inverse * inner(change, &direction);
        direction
            .iter_mut()
            .zip(step)
            .for_each(|(d, s)| *d += correction * s);
    }
    direction
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quadratic_is_minimised() {
        let mut at = vec![5.0, -3.0];
        minimise(&mut at, 100, |at, gradient| {
            gradient[0] = 2.0 * (at[0] - 1.0);
            gradient[1] = 20.0 * (at[1] - 2.0);
            (at[0] - 1.0).powi(2) + 10.0 * (at[1] - 2.0).powi(2)
        });
        assert!(
            (at[0] - 1.0).abs() < 1e-4 && (at[1] - 2.0).abs() < 1e-4,
            "{at:?}"
        );
    }

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let values = (0..60)
            .map(|i| ((i * 37 % 19) as f32) / 7.0 - 1.0)
            .collect();
        let matrix = Matrix::new(3, values).unwrap();
        let on: Vec<u32> = (0..20).collect();
        let costs: Vec<f64> = (0..60).map(|i| (i * 13 % 11) as f64 / 11.0).collect();
        let inputs = [&matrix];
        let fit = Fit {
            inputs: &inputs,
            on: &on,
            costs: &costs,
            choices: 3,
            l2: 0.01,
            iterations: 1,
        };
        let scale = Scale::of(&inputs, &on);
        let at: Vec<f64> = (0..8).map(|i| 0.1 * i as f64 - 0.3).collect();
        let mut gradient = vec![0.0; 8];
        fit.value(&scale, 5.0, &at, &mut gradient);
        for i in 0..8 {
            let at_distance = |distance: f64| {
                let mut at = at.clone();
                at[i] += distance;
                fit.value(&scale, 5.0, &at, &mut [0.0; 8])
            };
            let slope = (at_distance(1e-2) - at_distance(-1e-2)) / 2e-2;
            assert!(
                (slope - gradient[i]).abs() < 1e-3,
                "{i}: {slope} {}",
                gradient[i]
            );
        }
    }

    #[test]
    fn the_cheaper_choice_of_three_gets_the_largest_score() {
        // The input tells which of three choices is free; the others cost unlike amounts.
        let n = 300;
        let matrix = Matrix::new(1, (0..n).map(|i| (i % 3) as f32).collect()).unwrap();
        let on: Vec<u32> = (0..n as u32).collect();
        let costs: Vec<f64> = (0..n)
            .flat_map(|i| {
                [0.5, 0.2, 1.0].map(|c| if c == [0.5, 0.2, 1.0][i % 3] { 0.0 } else { c })
            })
            .collect();
        let inputs = [&matrix];
        let fit = Fit {
            inputs: &inputs,
            on: &on,
            costs: &costs,
            choices: 3,
            l2: 1e-4,
            iterations: 200,
        };
        let weights = fit.run(&mut Vec::new());
        for example in 0..3_u32 {
            let scores = [
                0.0,
                score(&weights[0], &inputs, example),
                score(&weights[1], &inputs, example),
            ];
            let best = (0..3)
                .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
                .unwrap();
            assert_eq!(best, example as usize, "{scores:?}");
        }
    }
}
