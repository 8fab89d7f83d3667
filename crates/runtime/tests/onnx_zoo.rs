//! The graphs of the ONNX zoo: AlexNet, Inception v1 (GoogLeNet) and ResNet-50 load and run.
//!
//! `data/light` holds them with constant weights and the outputs that the ONNX project expects. With
//! random weights, which `tests/python/random_weights.py` makes where `OUTPOST_PYTHON` names an
//! interpreter for it, the reference is ONNX Runtime.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use ndarray::Array4;
use outpost_runtime::{GraphSpec, Runtime, TractRuntime};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/light")
}

/// What the graph declares as its one input and output.
fn spec(onnx: &[u8]) -> GraphSpec {
    let summary = TractRuntime::default().summarise(onnx).unwrap();
    let [input] = &summary.inputs[..] else {
        panic!("{summary:?}")
    };
    let size = |index: usize| input.shape[index].unwrap();
    GraphSpec {
        input: input.name.clone(),
        input_shape: [size(1), size(2), size(3)],
        output: summary.outputs[0].name.clone(),
        classes: 1000,
    }
}

fn run(onnx: Vec<u8>, input: impl Fn(&GraphSpec) -> Vec<f32>) -> Vec<f32> {
    let spec = spec(&onnx);
    let [channels, height, width] = spec.input_shape;
    let input = Array4::from_shape_vec((1, channels, height, width), input(&spec)).unwrap();
    let network = TractRuntime::default().load(onnx.into(), &spec).unwrap();
    network
        .infer(input.view())
        .unwrap()
        .into_raw_vec_and_offset()
        .0
}

fn little_endian(bytes: &[u8]) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks::<4>();
    elements
        .iter()
        .map(|&element| f32::from_le_bytes(element))
        .collect()
}

/// The largest difference, relative to the largest value expected.
fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0.0_f32, |max, value| max.max(value.abs()));
    let difference = found
        .iter()
        .zip(expected)
        .fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    difference / largest
}

/// The elements of an ONNX TensorProto: its `raw_data`, the last field of these files.
fn expected_output(name: &str) -> Vec<f32> {
    let bytes = fs::read(data().join(format!("{name}_output_0.pb"))).unwrap();
    little_endian(&bytes[bytes.len() - 4000..])
}

fn gives_the_expected_output(name: &str) {
    let onnx = fs::read(data().join(format!("{name}.onnx"))).unwrap();
    let found = run(onnx, |spec| {
        let count: usize = spec.input_shape.iter().product();
        (0..count).map(|i| i as f32 / count as f32).collect()
    });
    let difference = relative_difference(&found, &expected_output(name));
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn the_zoos_alexnet_gives_its_expected_output() {
    gives_the_expected_output("light_bvlc_alexnet");
}

#[test]
fn the_zoos_inception_gives_its_expected_output() {
    gives_the_expected_output("light_inception_v1");
}

#[test]
fn the_zoos_resnet50_gives_its_expected_output() {
    gives_the_expected_output("light_resnet50");
}

#[test]
fn with_random_weights_the_zoos_graphs_agree_with_onnx_runtime() {
    let Some(python) = env::var_os("OUTPOST_PYTHON") else {
        eprintln!("SKIPPED: OUTPOST_PYTHON is not set (scripts/test sets it)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/random_weights.py");
    let made = Command::new(python)
        .arg(script)
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(made.success());
    for name in ["light_bvlc_alexnet", "light_inception_v1", "light_resnet50"] {
        let read = |file: &str| fs::read(folder.path().join(name).join(file)).unwrap();
        let found = run(read("model.onnx"), |_| little_endian(&read("input.f32")));
        let expected = little_endian(&read("output.f32"));
        let spread = expected.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            / expected.iter().sum::<f32>().abs()
            * expected.len() as f32;
        assert!(spread > 2.0, "{name}: the reference is nearly uniform");
        let difference = relative_difference(&found, &expected);
        println!("{name}: {difference:e} from ONNX Runtime");
        assert!(difference < 1e-3, "{name}: {difference}");
    }
}
