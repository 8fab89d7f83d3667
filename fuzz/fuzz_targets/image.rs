//! Encoded images: JPEG, PNG, WebP. No bytes make a decoder panic or take memory without end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outpost_runtime::{ImageLimits, decode};

fuzz_target!(|encoded: &[u8]| {
    let limits = ImageLimits {
        max_bytes: 1 << 20,
        max_pixels: 1 << 18,
    };
    if let Ok(pixels) = decode(encoded, &limits) {
        let (width, height) = pixels.dimensions();
        assert!(u64::from(width) * u64::from(height) <= limits.max_pixels);
    }
});
