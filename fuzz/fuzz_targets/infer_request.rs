//! Inference requests: tensors, encoded images, parameters. No bytes make the service panic or take memory without end.
#![no_main]

use std::{path::Path, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use outpost_cloud_service::{Limits, hostile};
use outpost_runtime::{Classifier, ModelFolder, TractRuntime};

fuzz_target!(|encoded: &[u8]| {
    static MODEL: OnceLock<Classifier> = OnceLock::new();
    let model = MODEL.get_or_init(|| {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        let opened = ModelFolder::new(models).open("cifar10-alexnet", &TractRuntime::default());
        opened.expect("the repository has the network")
    });
    let limits = Limits {
        max_image_pixels: 1 << 18,
        ..Limits::default()
    };
    let _ = hostile::infer_request(encoded, model, &limits);
});
