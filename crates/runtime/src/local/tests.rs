use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use ndarray::ArrayViewMut3;
use tempfile::TempDir;

use super::*;
use crate::{
    folder::sha256_hex,
    network::{
        ExitOutput, GraphSpec, InferError, LoadError, Network, StagedNetwork, StagedRun, StagedSpec,
    },
};

/// Pretends to run graphs, whose bytes are their names, and notes every stage that it runs.
#[derive(Default)]
struct Noting(Arc<Mutex<Vec<String>>>);

struct NotingNetwork {
    name: String,
    exits: Vec<String>,
    widths: Vec<Option<usize>>,
    ran: Arc<Mutex<Vec<String>>>,
}

struct NotingRun {
    /// `network: exit` for every stage, the last first.
    left: Vec<String>,
    ran: Arc<Mutex<Vec<String>>>,
}

impl Runtime for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    fn version(&self) -> &str {
        "0"
    }

    fn load(&self, _: Bytes, _: &GraphSpec) -> Result<Box<dyn Network>, LoadError> {
        unreachable!("only stages are run")
    }

    fn load_stages(
        &self,
        onnx: Bytes,
        spec: &StagedSpec,
    ) -> Result<Box<dyn StagedNetwork>, LoadError> {
        let widths = spec.stages.iter().map(|s| s.features.as_ref().map(|_| 3));
        Ok(Box::new(NotingNetwork {
            name: String::from_utf8_lossy(&onnx).into_owned(),
            exits: spec.stages.iter().map(|s| s.logits.clone()).collect(),
            widths: widths.collect(),
            ran: self.0.clone(),
        }))
    }
}

impl StagedNetwork for NotingNetwork {
    fn feature_widths(&self) -> &[Option<usize>] {
        &self.widths
    }

    fn start(
        &self,
        _: &mut dyn FnMut(ArrayViewMut3<'_, f32>),
    ) -> Result<Box<dyn StagedRun>, InferError> {
        let left = self.exits.iter().rev();
        Ok(Box::new(NotingRun {
            left: left.map(|exit| format!("{}: {exit}", self.name)).collect(),
            ran: self.ran.clone(),
        }))
    }
}

impl StagedRun for NotingRun {
    fn advance(&mut self) -> Result<ExitOutput, InferError> {
        let stage = self.left.pop().ok_or(InferError::Finished)?;
        self.ran.lock().unwrap().push(stage);
        Ok(ExitOutput {
            scores: vec![1.0, 0.0],
            features: None,
        })
    }
}

/// A folder with the networks "a" and "b", each with the exits "first" and "second".
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        write_network(&folder.path().join(name), name);
    }
    folder
}

fn write_network(folder: &Path, name: &str) {
    let manifest = format!(
        r#"
        name = "{name}"
        description = "two exits and an end"
        file = "graph"
        sha256 = "{digest}"
        bytes = 1
        licence = "MIT"
        sources = []
        multiply_adds = 1

        [input]
        tensor = "image"
        size = 1
        channel_order = "rgb"
        mean = [0.0, 0.0, 0.0]
        deviation = [1.0, 1.0, 1.0]
        resize = {{ method = "stretch", to = 1, filter = "bilinear" }}

        [output]
        tensor = "end"
        kind = "logits"
        classes = 2

        [[exit]]
        name = "first"
        activations = "x"
        logits = "first"
        features = "pooled"

        [[exit]]
        name = "second"
        activations = "y"
        logits = "second"
        "#,
        digest = sha256_hex(name.as_bytes()),
    );
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("model.toml"), manifest).unwrap();
    fs::write(folder.join("graph"), name).unwrap();
}

/// Takes one image from place to place, of those in `open`; gives the stages that ran.
fn ran(open: &[(&str, Option<&str>)], visits: &[usize]) -> Vec<String> {
    let folder = folder();
    let runtime = Noting::default();
    let networks = networks(&folder, open, &runtime).unwrap();
    let image = RgbImage::new(4, 4);
    let mut progress = Progress::default();
    for &place in visits {
        networks.run(place, &image, &mut progress).unwrap();
    }
    let ran = runtime.0.lock().unwrap();
    ran.clone()
}

fn networks(
    folder: &TempDir,
    open: &[(&str, Option<&str>)],
    runtime: &dyn Runtime,
) -> Result<LocalNetworks, OpenError> {
    let places: Vec<Place<'_>> = open
        .iter()
        .map(|&(network, exit)| Place { network, exit })
        .collect();
    let folder = ModelFolder::new(folder.path());
    LocalNetworks::open(&folder, &places, Features::Give, runtime)
}

const A: &[(&str, Option<&str>)] = &[("a", Some("first")), ("a", Some("second")), ("a", None)];

#[test]
fn nothing_after_the_exit_where_an_image_leaves_is_run() {
    assert_eq!(ran(A, &[0]), ["a: first"]);
}

#[test]
fn an_image_that_goes_on_continues_where_it_stopped() {
    assert_eq!(ran(A, &[0, 1, 2]), ["a: first", "a: second", "a: end"]);
}

#[test]
fn an_image_may_jump_over_an_exit() {
    assert_eq!(ran(A, &[0, 2]), ["a: first", "a: second", "a: end"]);
}

#[test]
fn exits_that_no_place_names_are_no_stages() {
    let open = [("a", None), ("a", Some("second"))];
    assert_eq!(ran(&open, &[1, 0]), ["a: second", "a: end"]);
}

#[test]
fn another_network_in_between_starts_the_first_anew() {
    let open = [("a", Some("first")), ("b", None), ("a", None)];
    let expected = ["a: first", "b: end", "a: first", "a: end"];
    assert_eq!(ran(&open, &[0, 1, 2]), expected);
}

#[test]
fn going_back_to_an_earlier_exit_starts_anew() {
    let expected = ["a: first", "a: second", "a: first", "a: first"];
    assert_eq!(ran(A, &[1, 0, 0]), expected);
}

#[test]
fn feature_widths_are_those_of_the_places() {
    let folder = folder();
    let open = [("a", None), ("a", Some("first"))];
    let networks = networks(&folder, &open, &Noting::default()).unwrap();
    assert_eq!(networks.feature_width(0), None);
    assert_eq!(networks.feature_width(1), Some(3));
}

#[test]
fn an_exit_that_the_manifest_lacks_is_refused_by_name() {
    let open = [("a", Some("third"))];
    let refused = networks(&folder(), &open, &Noting::default())
        .err()
        .unwrap();
    assert_eq!(
        refused.to_string(),
        r#"the network "a" has no exit "third"; it has ["first", "second"]"#
    );
}
