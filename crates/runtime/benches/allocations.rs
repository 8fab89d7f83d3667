//! What the way of one image allocates once all is warm: `cargo bench --workspace --bench allocations`.
//!
//! Counted on the thread that does the work, over the sample photos; medians. tract gives every operator's
//! output memory of its own, and so most bytes are activations, which the programs' allocator hands out
//! again without asking the system.

use std::{error::Error, fs, hint::black_box, path::Path};

use allocation_counter::{AllocationInfo, measure};
use outpost_runtime::{ImageLimits, ModelFolder, OutputKind, Probabilities, TractRuntime, decode};

const NETWORKS: [&str; 2] = ["squeezenet1.0", "efficientnet-lite0"];

fn main() -> Result<(), Box<dyn Error>> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let mut photos = Vec::new();
    for entry in fs::read_dir(models.join("samples/photos"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            photos.push(fs::read(path)?);
        }
    }
    println!("| network | step | allocations | bytes |");
    println!("| --- | --- | --- | --- |");
    for name in NETWORKS {
        let classifier = ModelFolder::new(&models).open(name, &TractRuntime)?;
        let mut steps: [Vec<AllocationInfo>; 4] = Default::default();
        for round in 0..2 {
            for photo in &photos {
                let (mut image, mut tensor, mut scores) = (None, None, None);
                let decoding = measure(|| image = decode(photo, &ImageLimits::default()).ok());
                let image = image.ok_or("a sample photo cannot be decoded")?;
                let preparing = measure(|| tensor = classifier.preprocessor().tensor(&image).ok());
                let tensor = tensor.ok_or("a sample photo has no pixels")?;
                let inferring = measure(|| scores = classifier.network().infer(tensor.view()).ok());
                let (scores, _) = scores
                    .ok_or("the network failed")?
                    .into_raw_vec_and_offset();
                let concluding = measure(|| {
                    black_box(Probabilities::from_output(scores, OutputKind::Logits));
                });
                // In the first round memory is found that is kept.
                if round > 0 {
                    let measured = [decoding, preparing, inferring, concluding];
                    for (step, measured) in steps.iter_mut().zip(measured) {
                        step.push(measured);
                    }
                }
            }
        }
        let names = ["decode", "pre-process", "network", "probabilities"];
        for (step, measured) in names.into_iter().zip(&steps) {
            println!(
                "| {name} | {step} | {} | {} |",
                median(measured, |info| info.count_total),
                median(measured, |info| info.bytes_total)
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
