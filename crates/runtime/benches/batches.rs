//! Images a second of a network in a bare loop on one thread, by runtime and batch size:
//! `cargo bench --workspace --bench batches`.
//!
//! ONNX Runtime takes part where `ORT_DYLIB_PATH` names its library, GPUs where `OUTPOST_GPU` names `cuda` or
//! `tensorrt`, or both with a comma. `OUTPOST_BENCH_NETWORK` is another network than EfficientNet-Lite2.

use std::{
    error::Error,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ndarray::Array4;
use outpost_runtime::{GraphSpec, ModelFolder, Runtime, TractRuntime};

const BATCHES: [usize; 4] = [1, 4, 16, 64];
/// A batch size is run so often, and more while there is time.
const LEAST_RUNS: usize = 5;
const TIME: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let folder = ModelFolder::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"));
    let name = std::env::var("OUTPOST_BENCH_NETWORK").unwrap_or("efficientnet-lite2".into());
    let manifest = folder.manifest(&name)?;
    let onnx = Bytes::from(std::fs::read(folder.weights_path(&manifest))?);
    let spec = GraphSpec::from(&manifest);
    let [channels, height, width] = spec.input_shape;
    println!("{name}, one thread that waits for each batch; medians");
    println!();
    println!("| runtime | batch | ms a batch | images/s |");
    println!("| --- | --- | --- | --- |");
    for (label, runtime) in runtimes()? {
        let network = runtime.load(onnx.clone(), &spec)?;
        for images in BATCHES {
            let batch = Array4::from_shape_fn((images, channels, height, width), |(n, c, y, x)| {
                ((n * 13 + c * 31 + y * 7 + x * 3) % 17) as f32 / 8.0 - 1.0
            });
            // The first run of a size finds its kernels.
            network.infer(batch.view())?;
            let (begun, mut times) = (Instant::now(), Vec::new());
            while times.len() < LEAST_RUNS || begun.elapsed() < TIME {
                let start = Instant::now();
                black_box(network.infer(batch.view())?);
                times.push(start.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            println!(
                "| {label} | {images} | {:.2} | {:.0} |",
                median * 1e3,
                images as f64 / median
            );
        }
    }
    Ok(())
}

type Runtimes = Vec<(String, Box<dyn Runtime>)>;

fn runtimes() -> Result<Runtimes, Box<dyn Error>> {
    let mut runtimes: Runtimes =
        vec![("tract on the CPU".into(), Box::new(TractRuntime::default()))];
    #[cfg(feature = "onnxruntime")]
    if std::env::var_os("ORT_DYLIB_PATH").is_some() {
        use outpost_runtime::{Device, OnnxRuntime, OnnxRuntimeConfig};
        let gpus = std::env::var("OUTPOST_GPU").unwrap_or_default();
        let gpus = gpus.split(',').filter(|device| !device.is_empty());
        for device in gpus
            .map(str::parse)
            .chain([Ok(Device::Cpu)])
            .collect::<Result<Vec<_>, _>>()?
        {
            let runtime = OnnxRuntime::new(OnnxRuntimeConfig {
                library: None,
                device,
                sessions: 1,
                threads: 1,
            })?;
            runtimes.push((format!("ONNX Runtime on {device}"), Box::new(runtime)));
        }
    }
    #[cfg(feature = "cuda")]
    if std::env::var_os("OUTPOST_GPU").is_some() {
        let runtime = outpost_runtime::TractCudaRuntime::new()?;
        runtimes.push(("tract on cuda".into(), Box::new(runtime)));
    }
    Ok(runtimes)
}
