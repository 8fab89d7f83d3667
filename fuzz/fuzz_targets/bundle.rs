//! The reader of policy bundles: no bytes make it panic, and what it reads can be written and read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outpost_exit_policy::{Bundle, Goal};

fuzz_target!(|json: &[u8]| {
    if let Ok(bundle) = Bundle::parse(json) {
        let again = Bundle::parse(bundle.to_json().as_bytes());
        assert_eq!(again.expect("what was written can be read"), bundle);
        let _ = bundle.choose(&Goal::MaxLoss(1.0));
    }
});
