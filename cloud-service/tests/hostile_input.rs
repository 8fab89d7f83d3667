//! Replays what the fuzz targets begin with and found, and damages it at random: nothing panics.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use fastrand::Rng;
use outpost_cloud_service::{Limits, hostile};
use outpost_runtime::{ImageLimits, ModelFolder, TractRuntime, decode};

/// Damaged copies of each file, some seconds' worth. The fuzz targets do this for hours.
const COPIES: usize = 3000;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn damage(bytes: &mut Vec<u8>, random: &mut Rng) {
    for _ in 0..random.usize(1..6) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.u8(..)),
            _ if at == bytes.len() => {}
            2 => bytes[at] = random.u8(..),
            _ => bytes[at] ^= 1 << random.u8(0..8),
        }
    }
}

/// Gives every file of a corpus to `take`, whole and damaged.
fn replay(target: &str, mut take: impl FnMut(&[u8])) {
    let mut files: Vec<_> = fs::read_dir(repository().join("fuzz/corpus").join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut random = Rng::with_seed(7);
    for file in files {
        let whole = fs::read(&file).unwrap();
        take(&whole);
        for _ in 0..COPIES {
            let mut copy = whole.clone();
            damage(&mut copy, &mut random);
            take(&copy);
        }
    }
}

#[test]
fn inference_requests() {
    let folder = ModelFolder::new(repository().join("models"));
    let model = folder
        .open("cifar10-alexnet", &TractRuntime::default())
        .unwrap();
    let limits = Limits {
        max_image_pixels: 1 << 18,
        ..Limits::default()
    };
    let (mut taken, mut refused) = (0, 0);
    replay("infer_request", |encoded| {
        match hostile::infer_request(encoded, &model, &limits) {
            Ok(()) => taken += 1,
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
                assert!(!status.message().is_empty());
                refused += 1;
            }
        }
    });
    assert!(taken > 10 && refused > 100, "{taken} {refused}");
}

#[test]
fn images() {
    let limits = ImageLimits {
        max_bytes: 1 << 20,
        max_pixels: 1 << 18,
    };
    let mut decoded = 0;
    replay("image", |encoded| {
        decoded += usize::from(decode(encoded, &limits).is_ok());
    });
    assert!(decoded > 10);
}

#[test]
fn values_of_headers() {
    replay("headers", |value| {
        outpost_transport::hostile::timeout(value);
        hostile::authorization(value).unwrap_err();
    });
}

#[test]
fn streams() {
    replay("stream", outpost_transport::hostile::stream);
}
