//! How long a decision takes, from the probabilities of a network to exit or go on:
//! `cargo bench --workspace --bench decide`. The target is under 50 µs.

use std::{hint::black_box, time::Instant};

use fastrand::Rng;
use outpost_exit_policy::{
    CONFIDENCE_INPUTS, DecisionFunction, Evidence, Function, Inputs, Linear, LinearError, Score,
    Successor,
};

/// Decisions a round, and rounds, of which the median counts.
const DECISIONS: u32 = 2000;
const ROUNDS: usize = 21;

fn main() -> Result<(), LinearError> {
    println!("| classes | features | µs a decision |");
    println!("| --- | --- | --- |");
    for (classes, width) in [(10, 0), (10, 192), (1000, 0), (1000, 1280), (1000, 4096)] {
        let mut rng = Rng::with_seed(1);
        let mut probabilities: Vec<f32> = (0..classes).map(|_| rng.f32().powi(8)).collect();
        let sum: f32 = probabilities.iter().sum();
        probabilities.iter_mut().for_each(|p| *p /= sum);
        let features: Vec<f32> = (0..width).map(|_| rng.f32()).collect();
        let inputs = if width > 0 {
            Inputs::Features
        } else {
            Inputs::Confidence
        };
        // Two successors, as in the full tree.
        let scores = (0..2).map(|to| Score {
            to: Successor(to),
            bias: -0.1,
            weights: (0..CONFIDENCE_INPUTS.len() + width)
                .map(|_| rng.f32() - 0.5)
                .collect(),
        });
        let function = Function::Linear(Linear::try_new(inputs, width, scores.collect())?);
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let started = Instant::now();
                for _ in 0..DECISIONS {
                    let evidence = Evidence::new(black_box(&probabilities)).map(|evidence| {
                        black_box(function.decide(&evidence.with_features(&features[..])))
                    });
                    black_box(evidence);
                }
                started.elapsed().as_secs_f64() * 1e6 / f64::from(DECISIONS)
            })
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        println!("| {classes} | {width} | {:.2} |", times[ROUNDS / 2]);
    }
    Ok(())
}
