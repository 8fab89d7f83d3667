//! The time of one image on tract beside ONNX Runtime, both on as many threads, with the programs' allocator:
//! `ORT_DYLIB_PATH=LIBRARY cargo bench --workspace --bench latency`.
//!
//! Both run in turn on the same input; medians, and the median of the rounds' ratios. Without
//! `ORT_DYLIB_PATH` tract runs alone. The zoo's graphs have constant weights, which does not change their
//! time. `OUTPOST_BENCH_ROUNDS` is the number of rounds, 51 where it is not set, `OUTPOST_BENCH_THREADS` that of threads, 1.

use std::{error::Error, fs, hint::black_box, path::Path, time::Instant};

use bytes::Bytes;
use ndarray::Array4;
use outpost_runtime::{GraphSpec, ModelFolder, Network, Runtime, Threads, TractRuntime};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Of the ONNX zoo, beside the tests.
const ZOO: [&str; 3] = ["light_bvlc_alexnet", "light_inception_v1", "light_resnet50"];
/// Of the model folder.
const NETWORKS: [&str; 3] = ["squeezenet1.0", "efficientnet-lite0", "efficientnet-lite2"];

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = match std::env::var("OUTPOST_BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) => 51,
    };
    let threads = match std::env::var("OUTPOST_BENCH_THREADS") {
        Ok(threads) => threads.parse()?,
        Err(_) => 1,
    };
    let runtime = TractRuntime::with_threads(Threads::try_new(threads)?);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = ModelFolder::new(here.join("../../models"));
    let mut graphs = Vec::new();
    for name in NETWORKS {
        let manifest = folder.manifest(name)?;
        let onnx = Bytes::from(fs::read(folder.weights_path(&manifest))?);
        graphs.push((name, onnx, GraphSpec::from(&manifest)));
    }
    for name in ZOO {
        let onnx = Bytes::from(fs::read(
            here.join(format!("tests/data/light/{name}.onnx")),
        )?);
        let declared = TractRuntime::default().summarise(&onnx)?;
        let input = &declared.inputs[0];
        let size = |index: usize| input.shape[index].ok_or("the input has no fixed size");
        let spec = GraphSpec {
            input: input.name.clone(),
            input_shape: [size(1)?, size(2)?, size(3)?],
            output: declared.outputs[0].name.clone(),
            classes: 1000,
        };
        graphs.push((name, onnx, spec));
    }
    let peer = peer(threads)?;
    println!("| network | tract, ms | ONNX Runtime, ms | ratio |");
    println!("| --- | --- | --- | --- |");
    for (name, onnx, spec) in graphs {
        let [channels, height, width] = spec.input_shape;
        let image = Array4::from_shape_fn((1, channels, height, width), |(_, c, y, x)| {
            ((c * 31 + y * 7 + x * 3) % 17) as f32 / 8.0 - 1.0
        });
        let network = runtime.load(onnx.clone(), &spec)?;
        let peer = match &peer {
            Some(peer) => Some(peer.load(onnx.clone(), &spec)?),
            None => None,
        };
        let time = |network: &dyn Network| -> Result<f64, Box<dyn Error>> {
            let start = Instant::now();
            black_box(network.infer(image.view())?);
            Ok(start.elapsed().as_secs_f64() * 1e3)
        };
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        // The first rounds find their memory.
        for round in 0..rounds + 3 {
            let our = time(&*network)?;
            let their = match &peer {
                Some(peer) => time(&**peer)?,
                None => f64::NAN,
            };
            if round >= 3 {
                ours.push(our);
                theirs.push(their);
                ratios.push(our / their);
            }
        }
        println!(
            "| {name} | {:.1} | {:.1} | {:.2} |",
            median(ours),
            median(theirs),
            median(ratios),
        );
    }
    Ok(())
}

#[cfg(feature = "onnxruntime")]
fn peer(threads: usize) -> Result<Option<Box<dyn Runtime>>, Box<dyn Error>> {
    use outpost_runtime::{Device, OnnxRuntime, OnnxRuntimeConfig};
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        return Ok(None);
    }
    Ok(Some(Box::new(OnnxRuntime::new(OnnxRuntimeConfig {
        library: None,
        device: Device::Cpu,
        sessions: 1,
        threads,
    })?)))
}

#[cfg(not(feature = "onnxruntime"))]
fn peer(_: usize) -> Result<Option<Box<dyn Runtime>>, Box<dyn Error>> {
    Ok(None)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
