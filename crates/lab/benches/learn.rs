//! How long learning takes: a full tree of three networks at 30 prices, on made-up examples.
//!
//! `cargo bench --workspace --bench learn` takes 50,000 examples; the target is 60 s on two cores.
//! `cargo bench --workspace --bench learn -- imagenet` takes 1,300,000 with 1,000 classes, as many as
//! ImageNet has; the targets are 10 minutes and 8 GB.

use std::{env, error::Error, fs, time::Instant};

use fastrand::Rng;
use outpost_exit_policy::{
    Costs, Examples, Graph, Matrix, NodeExamples, Price, Problem, Settings, Step, Summary,
};
use outpost_lab::sweep::sweep;

/// Widths of the pooled features: those of an AlexNet's last convolution and smaller ones.
const WIDTHS: [usize; 3] = [256, 160, 192];
const STRENGTHS: [f32; 3] = [0.55, 0.7, 0.78];
const PRICES: usize = 30;

fn main() -> Result<(), Box<dyn Error>> {
    let imagenet = env::args().any(|argument| argument == "imagenet");
    let (count, classes) = if imagenet {
        (1_300_000, 1000)
    } else {
        (50_000, 10)
    };
    let started = Instant::now();
    let examples = examples(count, classes)?;
    println!(
        "{count} examples made in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let graph = Graph::try_new(0, vec![vec![1, 2], vec![2], vec![]])?;
    let step = |seconds| Step {
        seconds,
        ..Step::default()
    };
    let costs = Costs {
        entry: step(1.0),
        jumps: vec![vec![step(4.0), step(12.0)], vec![step(12.0)], vec![]],
    };
    let problem = Problem::try_new(&graph, &costs, &examples)?;
    let prices = Price::sweep(PRICES, problem.dearest_seconds());
    let started = Instant::now();
    let mut done = 0;
    let policies = sweep(
        &problem,
        &problem.all(),
        &prices,
        &Settings::default(),
        |learned| {
            done += learned;
            eprintln!(
                "{done} of {PRICES} prices after {:.1} s",
                started.elapsed().as_secs_f64()
            );
        },
    )?;
    println!(
        "{} policies learned in {:.1} s",
        policies.len(),
        started.elapsed().as_secs_f64()
    );
    if let Some(peak) = peak_memory() {
        println!("at most {peak} of memory");
    }
    Ok(())
}

/// Networks of growing strength on examples of varied difficulty, which confidence and features tell.
fn examples(count: usize, classes: usize) -> Result<Examples, Box<dyn Error>> {
    let mut rng = Rng::with_seed(1);
    let difficulty: Vec<f32> = (0..count).map(|_| rng.f32()).collect();
    let node = |width: usize, strength: f32, rng: &mut Rng| {
        let mut features = Vec::with_capacity(count * width);
        let mut loss = Vec::with_capacity(count);
        let mut summaries = Vec::with_capacity(count);
        for &difficulty in &difficulty {
            let noise = 0.5 * (rng.f32() - 0.5);
            loss.push(f32::from(u8::from(difficulty + noise > strength)));
            let sure = (1.0 - 0.7 * difficulty + 0.3 * (rng.f32() - 0.5)).clamp(0.05, 0.999);
            let rest = 1.0 - sure;
            let top = [sure, 0.4, 0.2, 0.1, 0.05].map(|share| {
                if share == sure {
                    sure
                } else {
                    share * rest.min(sure)
                }
            });
            let entropy = -(sure * sure.ln()) - rest * (rest / (classes as f32 - 1.0)).ln();
            summaries.push(Summary::from_parts(top, entropy, classes as u32));
            features.push(difficulty + noise);
            features.extend((1..width).map(|_| rng.f32()));
        }
        let summaries: Option<Vec<Summary>> = summaries.into_iter().collect();
        Some(NodeExamples {
            loss,
            summaries: summaries?,
            features: Some(Matrix::new(width, features)?),
        })
    };
    let nodes: Option<Vec<NodeExamples>> = WIDTHS
        .into_iter()
        .zip(STRENGTHS)
        .map(|(width, strength)| node(width, strength, &mut rng))
        .collect();
    Ok(Examples::try_new(
        nodes.ok_or("made-up examples are examples")?,
        vec![1; count],
    )?)
}

/// The most memory that this process has had, as Linux tells.
fn peak_memory() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.trim_start_matches("VmHWM:").trim().to_owned())
}
