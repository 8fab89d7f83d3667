//! What an image costs in allocations once all is warm: next to nothing, where the convolutions are ours.
#![cfg(target_arch = "x86_64")]

use std::path::Path;

use allocation_counter::measure;
use image::{Rgb, RgbImage};
use outpost_runtime::{Features, ModelFolder, TractRuntime};

/// Allocations of an image from pixels to probabilities: the run itself, the scores, and those of tract's few operators that are
/// not ours, of which there are up to 21.
const AT_MOST: u64 = 24;

#[test]
fn a_network_allocates_next_to_nothing_for_an_image() {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        // Convolutions are tract's.
        return;
    }
    let models = ModelFolder::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"));
    let image = RgbImage::from_fn(400, 300, |x, y| {
        Rgb([x * 7, y * 3, x ^ y].map(|value| (value % 256) as u8))
    });
    for name in ["cifar10-alexnet", "cifar10-resnet", "efficientnet-lite0"] {
        let runtime = TractRuntime::default();
        let classifier = models.open_staged(name, &[], Features::Omit, &runtime);
        let classifier = classifier.unwrap();
        let say = || classifier.start(&image).unwrap().advance().unwrap();
        let (first, mut again) = (say(), None);
        // Memory may grow while the first few find their places in it.
        (0..3).for_each(|_| drop(say()));
        let allocated = measure(|| again = Some(say()));
        assert_eq!(again.unwrap(), first, "{name}");
        let count = allocated.count_total;
        assert!(count <= AT_MOST, "{name}: {count} allocations");
        // No activations are among them, which take megabytes.
        let bytes = allocated.bytes_total;
        assert!(bytes < 100_000, "{name}: {bytes} bytes");
    }
}
