//! Streams of HTTP/3: frames of any type and length, in any pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outpost_transport::hostile::stream;

fuzz_target!(|bytes: &[u8]| stream(bytes));
