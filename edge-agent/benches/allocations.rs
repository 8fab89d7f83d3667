//! What the way of one image through the device allocates once all is warm: `cargo bench --workspace --bench allocations`.
//!
//! Counted on the thread that does the work, over the sample photos; medians. tract gives every operator's
//! output memory of its own, and so most bytes are activations, which the programs' allocator hands out
//! again without asking the system.

use std::{error::Error, fs, hint::black_box, path::Path};

use allocation_counter::{AllocationInfo, measure};
use outpost_exit_policy::{Confidence, DecisionFunction, Evidence, Measure, Successor, Threshold};
use outpost_runtime::{Features, ImageLimits, ModelFolder, TractRuntime, decode};

const NETWORKS: [&str; 2] = ["squeezenet1.0", "efficientnet-lite0"];

fn main() -> Result<(), Box<dyn Error>> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let policy = Threshold {
        measure: Measure::Entropy,
        at_least: Confidence::try_new(0.8)?,
        otherwise: Successor(0),
    };
    let mut photos = Vec::new();
    for entry in fs::read_dir(models.join("samples/photos"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            photos.push(fs::read(path)?);
        }
    }
    println!("| network | step | allocations | bytes | most at a time |");
    println!("| --- | --- | --- | --- | --- |");
    for name in NETWORKS {
        let folder = ModelFolder::new(&models);
        let classifier = folder.open_staged(name, &[], Features::Omit, &TractRuntime::default())?;
        let mut steps: [Vec<AllocationInfo>; 4] = Default::default();
        for round in 0..2 {
            for photo in &photos {
                let (mut image, mut started, mut said) = (None, None, None);
                let decoding = measure(|| image = decode(photo, &ImageLimits::default()).ok());
                let image = image.ok_or("a sample photo cannot be decoded")?;
                let preparing = measure(|| started = classifier.start(&image).ok());
                let mut started = started.ok_or("a sample photo has no pixels")?;
                let inferring = measure(|| said = started.advance().ok());
                let said = said.ok_or("the network failed")?;
                let deciding = measure(|| {
                    let evidence = Evidence::new(said.probabilities.as_slice());
                    black_box(evidence.map(|evidence| policy.decide(&evidence)));
                });
                // In the first round memory is found that is kept.
                if round > 0 {
                    let measured = [decoding, preparing, inferring, deciding];
                    for (step, measured) in steps.iter_mut().zip(measured) {
                        step.push(measured);
                    }
                }
            }
        }
        let names = [
            "decode",
            "pre-process",
            "network and probabilities",
            "decide",
        ];
        for (step, measured) in names.into_iter().zip(&steps) {
            println!(
                "| {name} | {step} | {} | {} | {} |",
                median(measured, |info| info.count_total),
                median(measured, |info| info.bytes_total),
                median(measured, |info| info.bytes_max)
            );
        }
    }
    Ok(())
}

fn median(measured: &[AllocationInfo], of: impl Fn(&AllocationInfo) -> u64) -> u64 {
    let mut values: Vec<u64> = measured.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}
