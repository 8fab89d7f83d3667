//! Decoding and pre-processing against Pillow, inference against ONNX Runtime: the top-1 class of
//! labelled photos equals the reference in `data/reference-top1.csv`.
//!
//! The sample photos of the repository are always compared; `OUTPOST_PHOTOS` names a folder with all
//! 500 photos of the reference, on which the published accuracies are checked too.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{collections::HashMap, env, path::PathBuf};

use outpost_runtime::{ImageLimits, ModelFolder, TractRuntime, decode};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Reference {
    file: String,
    label: u32,
    top1: HashMap<String, u32>,
}

fn reference() -> Vec<Reference> {
    let path = repository().join("crates/runtime/tests/data/reference-top1.csv");
    csv::Reader::from_path(path)
        .unwrap()
        .into_deserialize::<HashMap<String, String>>()
        .map(|row| {
            let mut row = row.unwrap();
            Reference {
                file: row.remove("file").unwrap(),
                label: row.remove("label").unwrap().parse().unwrap(),
                top1: row
                    .into_iter()
                    .map(|(network, class)| (network, class.parse().unwrap()))
                    .collect(),
            }
        })
        .collect()
}

/// Compares `network` with its reference on every photo that is there; `accuracy` is the one that
/// Pillow and ONNX Runtime reach on all 500 photos.
fn compare(network: &str, accuracy: f64) {
    let all_photos = env::var_os("OUTPOST_PHOTOS").map(PathBuf::from);
    let photos = all_photos
        .clone()
        .unwrap_or_else(|| repository().join("models/samples/photos"));
    let classifier = ModelFolder::new(repository().join("models"))
        .open(network, &TractRuntime::default())
        .unwrap();
    let (mut seen, mut equal, mut correct) = (0_u32, 0_u32, 0_u32);
    for expected in reference() {
        let Ok(bytes) = std::fs::read(photos.join(&expected.file)) else {
            continue;
        };
        let image = decode(&bytes, &ImageLimits::default()).unwrap();
        let class = classifier.classify(&image).unwrap().top1().class_id.0;
        seen += 1;
        equal += u32::from(class == expected.top1[network]);
        correct += u32::from(class == expected.label);
    }
    println!("{network}: {equal} of {seen} as the reference, {correct} correct");
    if all_photos.is_some() {
        assert_eq!(seen, 500, "OUTPOST_PHOTOS must hold all photos");
        let measured = f64::from(correct) / f64::from(seen);
        assert!((measured - accuracy).abs() <= 0.006, "accuracy {measured}");
    } else {
        assert_eq!(seen, 50, "the samples are incomplete");
    }
    let share = f64::from(equal) / f64::from(seen);
    assert!(share >= 0.99, "only {share} as the reference");
}

#[test]
fn squeezenet_says_what_the_reference_says() {
    compare("squeezenet1.0", 0.510);
}

#[test]
fn efficientnet_lite0_says_what_the_reference_says() {
    compare("efficientnet-lite0", 0.896);
}

#[test]
fn efficientnet_lite2_says_what_the_reference_says() {
    compare("efficientnet-lite2", 0.926);
}
