//! What the device adds to its network: decoding, pre-processing and the policy, against SqueezeNet's
//! own time on the same sample photos in the same run.
//!
//! `cargo bench --workspace --bench device` prints medians; the target is that pre-processing and
//! policy add at most 15 %.

use std::{
    error::Error,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use outpost_exit_policy::{Confidence, DecisionFunction, Evidence, Measure, Successor, Threshold};
use outpost_runtime::{ImageLimits, ModelFolder, OutputKind, Probabilities, TractRuntime, decode};

fn main() -> Result<(), Box<dyn Error>> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let classifier = ModelFolder::new(&models).open("squeezenet1.0", &TractRuntime::default())?;
    let policy = Threshold {
        measure: Measure::Entropy,
        at_least: Confidence::try_new(0.8)?,
        otherwise: Successor(0),
    };
    let mut times: [Vec<Duration>; 4] = Default::default();
    for entry in fs::read_dir(models.join("samples/photos"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jpg") {
            continue;
        }
        let encoded = fs::read(path)?;
        let start = Instant::now();
        let image = decode(&encoded, &ImageLimits::default())?;
        let decoded = Instant::now();
        let tensor = classifier.preprocessor().tensor(&image)?;
        let preprocessed = Instant::now();
        let scores = classifier.network().infer(tensor.view())?;
        let inferred = Instant::now();
        let (row, _) = scores.into_raw_vec_and_offset();
        let said = Probabilities::from_output(row, OutputKind::Logits).ok_or("no distribution")?;
        let evidence = Evidence::new(said.as_slice()).ok_or("no evidence")?;
        std::hint::black_box(policy.decide(&evidence));
        let steps = [start, decoded, preprocessed, inferred, Instant::now()];
        for (times, step) in times.iter_mut().zip(steps.windows(2)) {
            times.push(step[1] - step[0]);
        }
    }
    let [decode, preprocess, network, policy] = times.map(median);
    println!("medians over the sample photos, one thread");
    println!("decode         {decode:>10.2?}");
    println!("pre-processing {preprocess:>10.2?}");
    println!("network        {network:>10.2?}");
    println!("policy         {policy:>10.2?}  softmax and entropy threshold");
    let share = |part: Duration| part.as_secs_f64() / network.as_secs_f64() * 100.0;
    println!(
        "pre-processing and policy add {:.1} % to the network, with decoding {:.1} %",
        share(preprocess + policy),
        share(decode + preprocess + policy),
    );
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
