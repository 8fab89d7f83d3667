//! Staged execution on the real CIFAR-10 networks: the exits say what ONNX Runtime says, the end says
//! what the whole network says, and a manifest that does not fit its graph is refused.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use ndarray::Array4;
use outpost_runtime::{
    Classifier, ClassifyError, Features, GraphSpec, ImageLimits, InferError, LoadError, Manifest,
    ManifestError, ModelFolder, OpenError, RgbImage, Runtime, StagedClassifier, StagedSpec,
    TractRuntime, decode,
};
use tempfile::TempDir;

struct Network {
    name: &'static str,
    /// The early exits with the width of their features.
    exits: &'static [(&'static str, usize)],
    /// The width of the features at the end.
    at_end: usize,
}

const NETWORKS: [Network; 3] = [
    Network {
        name: "cifar10-alexnet",
        exits: &[("conv1", 12), ("conv2", 24), ("conv3", 32), ("conv4", 32)],
        at_end: 64,
    },
    Network {
        name: "cifar10-googlenet",
        exits: &[
            ("inception1", 80),
            ("inception2", 112),
            ("inception3", 144),
            ("inception4", 184),
        ],
        at_end: 200,
    },
    Network {
        name: "cifar10-resnet",
        exits: &[("group1", 48), ("group2", 96)],
        at_end: 192,
    },
];

impl Network {
    fn exits(&self) -> Vec<&'static str> {
        self.exits.iter().map(|&(name, _)| name).collect()
    }

    fn open(&self, features: Features) -> StagedClassifier {
        open(self.name, &self.exits(), features)
    }
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn open(name: &str, exits: &[&str], features: Features) -> StagedClassifier {
    ModelFolder::new(models())
        .open_staged(name, exits, features, &TractRuntime::default())
        .unwrap()
}

/// A few of the sample photos, which the networks see at 32 × 32 pixels.
fn photos() -> Vec<RgbImage> {
    let mut paths: Vec<PathBuf> = fs::read_dir(models().join("samples/photos"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .collect();
    paths.sort();
    let photo = |path: &PathBuf| decode(&fs::read(path).unwrap(), &ImageLimits::default()).unwrap();
    paths[..5].iter().map(photo).collect()
}

/// The largest difference.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// The largest difference, relative to the largest value expected.
fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    difference(found, expected) / largest
}

#[test]
fn the_last_stage_says_what_the_whole_network_says() {
    // The same operators on the same values; tract may order a sum differently.
    const TOLERANCE: f32 = 1e-5;
    for network in NETWORKS {
        let name = network.name;
        let whole: Classifier = ModelFolder::new(models())
            .open(name, &TractRuntime::default())
            .unwrap();
        let staged = network.open(Features::Give);
        for photo in photos() {
            let mut run = staged.start(&photo).unwrap();
            for _ in network.exits {
                run.advance().unwrap();
            }
            let said = run.advance().unwrap().probabilities;
            let expected = whole.classify(&photo).unwrap();
            let difference = difference(said.as_slice(), expected.as_slice());
            assert!(difference < TOLERANCE, "{name}: {difference}");
        }
    }
}

#[test]
fn every_exit_says_what_the_whole_graph_says_there() {
    for network in NETWORKS {
        let folder = ModelFolder::new(models());
        let manifest = folder.manifest(network.name).unwrap();
        let onnx = Bytes::from(fs::read(folder.weights_path(&manifest)).unwrap());
        let spec = StagedSpec::new(&manifest, &network.exits(), Features::Give);
        let image = Array4::from_shape_fn((1, 3, 32, 32), |(_, c, y, x)| {
            ((c * 31 + y * 7 + x * 3) % 17) as f32 / 8.0 - 1.0
        });
        // The exits are outputs of the graph, so that it can be run up to each without stages.
        let whole = |output: &str, classes| {
            let spec = GraphSpec {
                output: output.to_owned(),
                classes,
                ..GraphSpec::from(&manifest)
            };
            let network = TractRuntime::default().load(onnx.clone(), &spec).unwrap();
            network
                .infer(image.view())
                .unwrap()
                .into_raw_vec_and_offset()
                .0
        };
        let staged = TractRuntime::default()
            .load_stages(onnx.clone(), &spec)
            .unwrap();
        let mut run = staged.start_with(image.view()).unwrap();
        for stage in &spec.stages {
            let output = run.advance().unwrap();
            let features = (stage.features.as_ref().unwrap(), output.features.unwrap());
            for (tensor, found) in [(&stage.logits, output.scores), features] {
                let difference = relative_difference(&found, &whole(tensor, found.len()));
                assert!(
                    difference < 1e-5,
                    "{}, {tensor}: {difference:e}",
                    network.name
                );
            }
        }
    }
}

#[test]
fn leaving_exits_out_changes_no_word_of_the_others() {
    let all = NETWORKS[1].open(Features::Omit);
    let some = open(NETWORKS[1].name, &["inception3"], Features::Omit);
    for photo in photos() {
        let (mut all, mut some) = (all.start(&photo).unwrap(), some.start(&photo).unwrap());
        let all: Vec<_> = (0..5).map(|_| all.advance().unwrap()).collect();
        for expected in [&all[2], &all[4]] {
            let said = some.advance().unwrap();
            let difference = difference(
                said.probabilities.as_slice(),
                expected.probabilities.as_slice(),
            );
            assert!(difference < 1e-5, "{difference}");
        }
    }
}

#[test]
fn a_run_ends_after_the_last_stage() {
    let staged = open("cifar10-resnet", &["group1"], Features::Omit);
    let mut run = staged.start(&photos()[0]).unwrap();
    run.advance().unwrap();
    run.advance().unwrap();
    for _ in 0..2 {
        assert!(matches!(
            run.advance(),
            Err(ClassifyError::Infer(InferError::Finished))
        ));
    }
}

#[test]
fn features_have_their_widths_and_are_given_on_request_alone() {
    for network in NETWORKS {
        let name = network.name;
        let early = network.exits.iter().map(|&(_, width)| width);
        let widths: Vec<Option<usize>> = early.chain([network.at_end]).map(Some).collect();
        let staged = network.open(Features::Give);
        assert_eq!(staged.feature_widths(), widths, "{name}");
        let mut run = staged.start(&photos()[0]).unwrap();
        for width in widths {
            let features = run.advance().unwrap().features;
            assert_eq!(features.map(|features| features.len()), width, "{name}");
        }
        let staged = network.open(Features::Omit);
        assert!(staged.feature_widths().iter().all(Option::is_none));
        let said = staged.start(&photos()[0]).unwrap().advance().unwrap();
        assert_eq!(said.features, None);
    }
}

#[test]
fn the_photo_networks_give_their_pooled_features() {
    for (name, width) in [
        ("efficientnet-lite0", Some(1280)),
        ("efficientnet-lite2", Some(1280)),
        ("squeezenet1.0", None),
    ] {
        let staged = open(name, &[], Features::Give);
        assert_eq!(staged.feature_widths(), [width], "{name}");
        let said = staged.start(&photos()[0]).unwrap().advance().unwrap();
        assert_eq!(said.features.map(|features| features.len()), width);
    }
}

#[test]
fn every_exit_agrees_with_onnx_runtime() {
    let Some(python) = env::var_os("OUTPOST_PYTHON") else {
        eprintln!("SKIPPED: OUTPOST_PYTHON is not set (scripts/test sets it)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/exits.py");
    let made = Command::new(python)
        .arg(script)
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(made.success());
    for network in NETWORKS {
        let name = network.name;
        let read = |tensor: &str| -> Vec<f32> {
            let bytes = fs::read(folder.path().join(name).join(tensor)).unwrap();
            let (elements, _) = bytes.as_chunks::<4>();
            elements.iter().map(|&e| f32::from_le_bytes(e)).collect()
        };
        let manifest = ModelFolder::new(models()).manifest(name).unwrap();
        let onnx = fs::read(ModelFolder::new(models()).weights_path(&manifest));
        let onnx = Bytes::from(onnx.unwrap());
        let spec = StagedSpec::new(&manifest, &network.exits(), Features::Give);
        let image = Array4::from_shape_vec((1, 3, 32, 32), read("image")).unwrap();
        let staged = TractRuntime::default()
            .load_stages(onnx.clone(), &spec)
            .unwrap();
        let mut run = staged.start_with(image.view()).unwrap();
        for stage in &spec.stages {
            let output = run.advance().unwrap();
            let features = stage.features.as_ref().unwrap();
            for (tensor, found) in [
                (&stage.logits, output.scores),
                (features, output.features.unwrap()),
            ] {
                let difference = relative_difference(&found, &read(tensor));
                assert!(difference < 1e-4, "{name}, {tensor}: {difference:e}");
            }
        }
    }
}

/// A model folder with the ResNet alone, its manifest changed: `from` becomes `to`.
fn changed(from: &str, to: &str) -> TempDir {
    let name = "cifar10-resnet";
    let source = models().join(name);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join(name);
    fs::create_dir(&target).unwrap();
    let weights = format!("{name}.onnx");
    fs::copy(source.join(&weights), target.join(&weights)).unwrap();
    fs::create_dir(folder.path().join("cifar10")).unwrap();
    fs::copy(
        models().join("cifar10/labels.txt"),
        folder.path().join("cifar10/labels.txt"),
    )
    .unwrap();
    let manifest = fs::read_to_string(source.join("model.toml")).unwrap();
    assert!(manifest.contains(from), "{from:?} is not in the manifest");
    fs::write(target.join("model.toml"), manifest.replacen(from, to, 1)).unwrap();
    folder
}

fn refusal(from: &str, to: &str) -> OpenError {
    let folder = changed(from, to);
    ModelFolder::new(folder.path())
        .open_staged(
            "cifar10-resnet",
            &["group1", "group2"],
            Features::Give,
            &TractRuntime::default(),
        )
        .err()
        .unwrap()
}

/// Why the graph was refused, and the same in words.
fn load_refusal(from: &str, to: &str) -> (LoadError, String) {
    match refusal(from, to) {
        OpenError::Load { source, .. } => {
            let words = source.to_string();
            (source, words)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn an_exit_that_the_manifest_lacks_is_refused() {
    let error = refusal("name = \"group2\"", "name = \"group9\"");
    assert!(matches!(error, OpenError::NoSuchExit { .. }), "{error}");
    let words = error.to_string();
    assert!(
        words.contains("\"group2\"") && words.contains("\"group9\""),
        "{words}"
    );
}

#[test]
fn an_exit_that_the_manifest_has_twice_is_refused() {
    let error = refusal("name = \"group2\"", "name = \"group1\"");
    let OpenError::Manifest(ManifestError::Field { field, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(field, "exit.name");
}

#[test]
fn a_tensor_of_an_exit_that_is_not_in_the_graph_is_refused_by_name() {
    for (from, to) in [
        ("logits = \"group1.logits\"", "logits = \"nowhere\""),
        ("features = \"group2.features\"", "features = \"nowhere\""),
        (
            "activations = \"group1.1.3.relu\"",
            "activations = \"nowhere\"",
        ),
        ("tensor = \"logits\"", "tensor = \"nowhere\""),
    ] {
        let (error, words) = load_refusal(from, to);
        assert!(matches!(error, LoadError::NotComputed(_)), "{words}");
        assert!(words.contains("\"nowhere\""), "{words}");
    }
}

#[test]
fn an_input_that_is_not_in_the_graph_is_refused_with_those_there_are() {
    let (error, words) = load_refusal("tensor = \"image\"", "tensor = \"nowhere\"");
    assert!(matches!(error, LoadError::NoSuchTensor { .. }), "{words}");
    assert!(words.contains("[\"image\"]"), "{words}");
}

#[test]
fn a_cut_that_a_shortcut_goes_around_is_refused() {
    // Inside a residual block: its identity goes around.
    let inside = "activations = \"group2.3.body.0.2.relu\"";
    let (error, words) = load_refusal("activations = \"group2.3.relu\"", inside);
    assert!(matches!(error, LoadError::Cut { .. }), "{words}");
    assert!(words.contains("group2.3.body.0.2.relu"), "{words}");
}

#[test]
fn exits_out_of_order_are_refused() {
    let manifest = fs::read_to_string(models().join("cifar10-resnet/model.toml")).unwrap();
    let exits: Vec<&str> = manifest.split("[[exit]]").collect();
    let [_, first, second] = exits[..] else {
        panic!("two exits")
    };
    let as_it_is = format!("[[exit]]{first}[[exit]]{second}");
    let swapped = format!("[[exit]]{second}\n[[exit]]{first}");
    let (error, words) = load_refusal(&as_it_is, &swapped);
    assert!(matches!(error, LoadError::Cut { .. }), "{words}");
}

#[test]
fn an_exit_with_other_classes_is_refused() {
    let (error, words) = load_refusal("\"group1.logits\"", "\"group1.features\"");
    let LoadError::Classes {
        tensor,
        expected: 10,
        found: Some(48),
    } = error
    else {
        panic!("{words}");
    };
    assert_eq!(tensor, "group1.features");
}

#[test]
fn features_that_are_not_pooled_are_refused() {
    let (error, words) = load_refusal("\"group1.features\"", "\"group1.1.1.relu\"");
    assert!(matches!(error, LoadError::Features(_)), "{words}");
    assert!(words.contains("group1.1.1.relu"), "{words}");
}

#[test]
fn every_manifest_of_the_repository_is_valid() {
    let folder = ModelFolder::new(models());
    for name in folder.names().unwrap() {
        let manifest: Manifest = folder.manifest(&name).unwrap();
        folder.labels(&manifest).unwrap();
    }
}
