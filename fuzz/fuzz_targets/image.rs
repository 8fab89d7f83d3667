//! Encoded images: JPEG, PNG, WebP. No bytes make a decoder panic or take memory without end, and metadata can be taken
//! out of what can be decoded.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outpost_runtime::{ImageLimits, decode, without_metadata};

// A decoder's panic is contained; one that comes out of a function here still ends the run.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |encoded: &[u8]| {
    let limits = ImageLimits {
        max_bytes: 1 << 20,
        max_pixels: 1 << 18,
    };
    let bare = without_metadata(&Bytes::copy_from_slice(encoded));
    if let Ok(pixels) = decode(encoded, &limits) {
        let (width, height) = pixels.dimensions();
        assert!(u64::from(width) * u64::from(height) <= limits.max_pixels);
        if let Some(bare) = bare {
            let _ = decode(&bare, &limits);
        }
    }
});
