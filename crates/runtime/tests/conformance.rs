//! One suite for every runtime: the same graphs, the same answers, the same errors.
//!
//! Tract on the CPU is the measure. ONNX Runtime takes part where `ORT_DYLIB_PATH` names its library (and must, where
//! `OUTPOST_REQUIRE_PEERS` is set); the GPU's runtimes where `OUTPOST_GPU` names `cuda` or `tensorrt`, or both with a
//! comma.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{fs, path::Path};

use bytes::Bytes;
use ndarray::{Array2, Array4, Axis, s};
use outpost_runtime::{
    Features, GraphSpec, InferError, LoadError, ModelFolder, Network, Runtime, StagedNetwork,
    StagedSpec, Threads, TractRuntime,
};

const NETWORKS: [&str; 4] = [
    "cifar10-alexnet",
    "cifar10-googlenet",
    "cifar10-resnet",
    "squeezenet1.0",
];

fn folder() -> ModelFolder {
    ModelFolder::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"))
}

fn graph(name: &str) -> (Bytes, GraphSpec) {
    let folder = folder();
    let manifest = folder.manifest(name).unwrap();
    let onnx = Bytes::from(fs::read(folder.weights_path(&manifest)).unwrap());
    (onnx, GraphSpec::from(&manifest))
}

/// Smooth and different for each image, as photos are.
fn images(count: usize, spec: &GraphSpec) -> Array4<f32> {
    let [channels, height, width] = spec.input_shape;
    Array4::from_shape_fn((count, channels, height, width), |(n, c, y, x)| {
        let (y, x) = (y as f32 / height as f32, x as f32 / width as f32);
        ((1 + n % 5) as f32 * (x * 6.0 + c as f32)).sin() + (y * (2 + n) as f32).cos()
    })
}

fn assert_alike(found: &Array2<f32>, expected: &Array2<f32>, what: &str) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    let largest = expected
        .iter()
        .fold(1.0_f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let apart = (found - expected).abs();
        // Sums of some thousand products in another order, and on GPUs perhaps with fewer bits.
        assert!(apart < 2e-3 * largest, "{what}: {found} for {expected}");
    }
}

fn conforms(runtime: &dyn Runtime) {
    gives_the_scores_of_tract(runtime);
    gives_a_batch_what_it_gives_its_images(runtime);
    answers_callers_at_the_same_time(runtime);
    refuses_what_does_not_fit(runtime);
    runs_stages_alike_or_says_that_it_does_not(runtime);
}

fn gives_the_scores_of_tract(runtime: &dyn Runtime) {
    for name in NETWORKS {
        let (onnx, spec) = graph(name);
        let batch = images(2, &spec);
        let expected = TractRuntime::default()
            .load(onnx.clone(), &spec)
            .unwrap()
            .infer(batch.view());
        let network = runtime.load(onnx.clone(), &spec).unwrap();
        assert_eq!(network.spec(), &spec);
        let found = network.infer(batch.view()).unwrap();
        assert_alike(
            &found,
            &expected.unwrap(),
            &format!("{} {name}", runtime.name()),
        );
    }
}

fn gives_a_batch_what_it_gives_its_images(runtime: &dyn Runtime) {
    let (onnx, spec) = graph("cifar10-googlenet");
    let network = runtime.load(onnx.clone(), &spec).unwrap();
    for count in [1, 2, 7, 16] {
        let batch = images(count, &spec);
        let together = network.infer(batch.view()).unwrap();
        for index in 0..count {
            let one = batch.slice(s![index..=index, .., .., ..]);
            let alone = network.infer(one).unwrap();
            let row = together.slice(s![index..=index, ..]).to_owned();
            assert_alike(&row, &alone, &format!("image {index} of {count}"));
        }
    }
    // A view whose memory is in another order.
    let batch = images(3, &spec);
    let mut reversed = batch.clone();
    reversed.invert_axis(Axis(0));
    let found = network.infer(reversed.view()).unwrap();
    let mut expected = network.infer(batch.view()).unwrap();
    expected.invert_axis(Axis(0));
    assert_alike(
        &found,
        &expected.as_standard_layout().to_owned(),
        "reversed",
    );
}

fn answers_callers_at_the_same_time(runtime: &dyn Runtime) {
    let (onnx, spec) = graph("cifar10-alexnet");
    let network: Box<dyn Network> = runtime.load(onnx.clone(), &spec).unwrap();
    let batches: Vec<_> = (1..=8).map(|count| images(count, &spec)).collect();
    let expected: Vec<_> = batches
        .iter()
        .map(|batch| network.infer(batch.view()).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (network, batches, expected) = (&network, &batches, &expected);
            scope.spawn(move || {
                for round in 0..20 {
                    let index = (caller + round) % batches.len();
                    let found = network.infer(batches[index].view()).unwrap();
                    assert_alike(&found, &expected[index], "at the same time");
                }
            });
        }
    });
}

fn refuses_what_does_not_fit(runtime: &dyn Runtime) {
    let (onnx, spec) = graph("cifar10-alexnet");
    let load = |onnx: &Bytes, spec: &GraphSpec| match runtime.load(onnx.clone(), spec) {
        Ok(_) => panic!("{} took it", runtime.name()),
        Err(error) => error,
    };
    for garbage in [
        Bytes::from_static(b"no graph at all"),
        onnx.slice(..onnx.len() / 2),
    ] {
        let error = load(&garbage, &spec);
        assert!(
            matches!(error, LoadError::NotOnnx(_)),
            "{}: {error:?}",
            runtime.name()
        );
    }
    for (role, wrong) in [
        (
            "input",
            GraphSpec {
                input: "no-such".into(),
                ..spec.clone()
            },
        ),
        (
            "output",
            GraphSpec {
                output: "no-such".into(),
                ..spec.clone()
            },
        ),
    ] {
        let error = load(&onnx, &wrong);
        let LoadError::NoSuchTensor {
            role: found,
            present,
            ..
        } = &error
        else {
            panic!("{}: {error:?}", runtime.name());
        };
        assert_eq!(*found, role);
        assert!(!present.is_empty());
    }
    let error = load(
        &onnx,
        &GraphSpec {
            classes: 11,
            ..spec.clone()
        },
    );
    let is_classes = matches!(
        error,
        LoadError::Classes {
            expected: 11,
            found: Some(10),
            ..
        }
    );
    assert!(is_classes, "{}: {error:?}", runtime.name());

    let smaller = GraphSpec {
        input_shape: [3, 24, 24],
        ..spec.clone()
    };
    load(&onnx, &smaller);

    let network = runtime.load(onnx.clone(), &spec).unwrap();
    for shape in [(1, 3, 31, 32), (1, 1, 32, 32), (2, 3, 32, 33)] {
        let error = network.infer(Array4::zeros(shape).view()).unwrap_err();
        assert!(matches!(error, InferError::Shape { .. }), "{error:?}");
    }
    // It still works.
    network.infer(images(1, &spec).view()).unwrap();
}

fn runs_stages_alike_or_says_that_it_does_not(runtime: &dyn Runtime) {
    let folder = folder();
    let manifest = folder.manifest("cifar10-resnet").unwrap();
    let onnx = Bytes::from(fs::read(folder.weights_path(&manifest)).unwrap());
    let spec = StagedSpec::new(&manifest, &["group1", "group2"], Features::Give);
    let network = match runtime.load_stages(onnx.clone(), &spec) {
        Ok(network) => network,
        Err(LoadError::Unsupported(why)) => {
            assert!(why.to_string().contains("tract"), "{why}");
            return;
        }
        Err(error) => panic!("{}: {error:?}", runtime.name()),
    };
    let tract = TractRuntime::default()
        .load_stages(onnx.clone(), &spec)
        .unwrap();
    assert_eq!(network.feature_widths(), tract.feature_widths());
    let row = |values: Vec<f32>| Array2::from_shape_vec((1, values.len()), values).unwrap();
    let whole = GraphSpec::from(&manifest);
    let batch = images(2, &whole);
    let scores = runtime
        .load(onnx.clone(), &whole)
        .unwrap()
        .infer(batch.view());
    let scores = scores.unwrap();
    // Two images in turns: what one leaves is not taken for the other's.
    let image = |index: usize| batch.slice(s![index..=index, .., .., ..]);
    let runs =
        |network: &dyn StagedNetwork| [0, 1].map(|index| network.start_with(image(index)).unwrap());
    let (mut found, mut expected) = (runs(&*network), runs(&*tract));
    for stage in 0..3 {
        for index in 0..2 {
            let what = format!("{}: image {index} at exit {stage}", runtime.name());
            let said = found[index].advance().unwrap();
            let measure = expected[index].advance().unwrap();
            let said_scores = row(said.scores);
            assert_alike(&said_scores, &row(measure.scores), &what);
            let features = [said.features, measure.features].map(|features| row(features.unwrap()));
            assert_alike(&features[0], &features[1], &what);
            if stage == 2 {
                let whole = scores.slice(s![index..=index, ..]).to_owned();
                assert_alike(&said_scores, &whole, &what);
            }
        }
    }
    let error = found[0].advance().unwrap_err();
    assert!(matches!(error, InferError::Finished), "{error:?}");
    refuses_stages_that_do_not_fit(runtime, &onnx, &spec);
}

fn refuses_stages_that_do_not_fit(runtime: &dyn Runtime, onnx: &Bytes, spec: &StagedSpec) {
    let load = |onnx: &Bytes, change: &dyn Fn(&mut StagedSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        match runtime.load_stages(onnx.clone(), &spec) {
            Ok(_) => panic!("{} took it", runtime.name()),
            Err(error) => error,
        }
    };
    let error = load(&Bytes::from_static(b"no graph at all"), &|_| {});
    assert!(matches!(error, LoadError::NotOnnx(_)), "{error:?}");
    let error = load(onnx, &|spec| spec.input = "no-such".into());
    let is_named = matches!(&error, LoadError::NoSuchTensor { role: "input", .. });
    assert!(is_named, "{error:?}");
    let error = load(onnx, &|spec| spec.stages[0].logits = "no-such".into());
    assert!(matches!(error, LoadError::NotComputed(_)), "{error:?}");
    let error = load(onnx, &|spec| spec.stages.swap(0, 1));
    assert!(matches!(error, LoadError::Cut { .. }), "{error:?}");
    let error = load(onnx, &|spec| spec.stages.clear());
    assert!(matches!(error, LoadError::Unsupported(_)), "{error:?}");
    let error = load(onnx, &|spec| spec.classes = 11);
    assert!(matches!(error, LoadError::Classes { .. }), "{error:?}");
    let error = load(onnx, &|spec| {
        let activations = spec.stages[0].activations.clone();
        spec.stages[0].features = activations;
    });
    assert!(matches!(error, LoadError::Features(_)), "{error:?}");
    let staged = runtime.load_stages(onnx.clone(), spec).unwrap();
    for shape in [(1, 3, 31, 32), (2, 3, 32, 32)] {
        let error = staged
            .start_with(Array4::zeros(shape).view())
            .err()
            .unwrap();
        assert!(matches!(error, InferError::Shape { .. }), "{error:?}");
    }
}

#[test]
fn tract() {
    conforms(&TractRuntime::default());
}

#[test]
fn tract_whose_threads_share_an_image() {
    let threads = |count| TractRuntime::with_threads(Threads::try_new(count).unwrap());
    let shared = threads(3);
    conforms(&shared);
    for name in NETWORKS {
        let (onnx, spec) = graph(name);
        let batch = images(2, &spec);
        let scores = |runtime: &TractRuntime| {
            let network = runtime.load(onnx.clone(), &spec).unwrap();
            network.infer(batch.view()).unwrap()
        };
        // To the last bit: a device that shares decides as one that does not.
        assert_eq!(scores(&shared), scores(&threads(1)), "{name}");
    }
}

#[cfg(feature = "onnxruntime")]
mod onnxruntime {
    use outpost_runtime::{Device, OnnxRuntime, OnnxRuntimeConfig, OnnxRuntimeError};

    use super::*;

    fn has_library() -> bool {
        let is_there = std::env::var_os("ORT_DYLIB_PATH").is_some();
        if !is_there {
            println!("SKIPPED: ORT_DYLIB_PATH names no library of ONNX Runtime");
            let is_required = std::env::var_os("OUTPOST_REQUIRE_PEERS").is_some();
            assert!(
                !is_required,
                "the peers are required, and ORT_DYLIB_PATH is not set"
            );
        }
        is_there
    }

    fn has_gpu(device: Device) -> bool {
        let named = std::env::var("OUTPOST_GPU").unwrap_or_default();
        named
            .split(',')
            .any(|named| named.parse::<Device>().is_ok_and(|named| named == device))
    }

    fn runtime(device: Device) -> Result<OnnxRuntime, OnnxRuntimeError> {
        OnnxRuntime::new(OnnxRuntimeConfig {
            library: None,
            device,
            sessions: 3,
            threads: 1,
        })
    }

    #[test]
    fn on_the_cpu() {
        if has_library() {
            conforms(&runtime(Device::Cpu).unwrap());
        }
    }

    #[test]
    fn on_a_gpu_or_with_word_of_what_is_missing() {
        if !has_library() {
            return;
        }
        for device in [Device::Cuda(0), Device::TensorRt(0)] {
            let runtime = runtime(device);
            if has_gpu(device) {
                conforms(&runtime.unwrap());
            } else {
                let error = runtime.unwrap_err();
                let said = error.to_string();
                let names_it = said.contains("CUDA") || said.contains("TensorRT");
                assert!(names_it || said.contains("driver"), "{said}");
            }
        }
    }

    #[test]
    fn a_second_library_is_refused() {
        if !has_library() {
            return;
        }
        runtime(Device::Cpu).unwrap();
        let other = OnnxRuntime::new(OnnxRuntimeConfig {
            library: Some("/another/libonnxruntime.so".into()),
            device: Device::Cpu,
            sessions: 1,
            threads: 1,
        });
        let error = other.unwrap_err();
        assert!(
            matches!(error, OnnxRuntimeError::OtherLibrary { .. }),
            "{error}"
        );
    }
}

#[cfg(feature = "cuda")]
#[test]
fn tract_on_a_gpu() {
    if std::env::var_os("OUTPOST_GPU").is_some() {
        conforms(&outpost_runtime::TractCudaRuntime::new().unwrap());
    } else {
        println!("SKIPPED: OUTPOST_GPU is not set");
    }
}
