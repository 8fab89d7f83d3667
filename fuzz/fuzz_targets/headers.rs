//! Values of headers: `grpc-timeout`, `authorization`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outpost_cloud_service::hostile::authorization;
use outpost_transport::hostile::timeout;

fuzz_target!(|value: &[u8]| {
    timeout(value);
    let _ = authorization(value);
});
