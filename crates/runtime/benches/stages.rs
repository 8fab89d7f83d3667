//! What it costs to run a network stage by stage, with what every exit says, against the whole
//! network at once: `cargo bench --workspace --bench stages`.
//!
//! Both run in turn on the same input, one thread; medians. The target is that all stages together
//! cost at most 3 % more.

use std::{
    error::Error,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ndarray::Array4;
use outpost_runtime::{Features, GraphSpec, ModelFolder, Runtime, StagedSpec, TractRuntime};

/// Odd, so that a median is a time that was measured.
const ROUNDS: usize = 2001;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = ModelFolder::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"));
    println!("| network | whole, µs | stages, µs | stages / whole | with features |");
    println!("| --- | --- | --- | --- | --- |");
    for name in ["cifar10-alexnet", "cifar10-googlenet", "cifar10-resnet"] {
        let manifest = folder.manifest(name)?;
        let onnx = Bytes::from(std::fs::read(folder.weights_path(&manifest))?);
        let exits: Vec<&str> = manifest.exits.iter().map(|exit| &*exit.name).collect();
        let spec = GraphSpec::from(&manifest);
        let [channels, height, width] = spec.input_shape;
        let image = Array4::from_shape_fn((1, channels, height, width), |(_, c, y, x)| {
            ((c * 31 + y * 7 + x * 3) % 17) as f32 / 8.0 - 1.0
        });
        let whole = TractRuntime::default().load(onnx.clone(), &spec)?;
        let staged = |features| {
            TractRuntime::default()
                .load_stages(onnx.clone(), &StagedSpec::new(&manifest, &exits, features))
        };
        let (bare, full) = (staged(Features::Omit)?, staged(Features::Give)?);
        let mut times: [Vec<Duration>; 3] = Default::default();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            black_box(whole.infer(image.view())?);
            times[0].push(start.elapsed());
            for (times, staged) in times[1..].iter_mut().zip([&bare, &full]) {
                let start = Instant::now();
                let mut run = staged.start_with(image.view())?;
                for _ in staged.feature_widths() {
                    black_box(run.advance()?);
                }
                times.push(start.elapsed());
            }
        }
        let [whole, bare, full] = times.map(median);
        let ratio = |time: Duration| time.as_secs_f64() / whole.as_secs_f64();
        println!(
            "| {name} | {:.0} | {:.0} | {:.3} | {:.3} |",
            whole.as_secs_f64() * 1e6,
            bare.as_secs_f64() * 1e6,
            ratio(bare),
            ratio(full),
        );
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
