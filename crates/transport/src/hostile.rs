//! What a peer's bytes go through, for the fuzz targets and for replaying what they found.
//!
//! Not an interface: it changes with what it drives.

use http::{HeaderMap, HeaderValue};

use crate::{deadline::TimeAllowed, frames::FrameWatch};

/// Reads a value of `grpc-timeout`.
pub fn timeout(value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        let headers =
            HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), value)]);
        if let Ok(Some(allowed)) = TimeAllowed::from_headers(&headers) {
            let _ = allowed.deadline.remaining();
        }
    }
}

/// Follows a stream of HTTP/3, in pieces whose sizes its first byte chooses.
pub fn stream(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let mut whole = FrameWatch::request(1 << 14);
    let expected = whole.follow(bytes);
    let mut pieces = FrameWatch::request(1 << 14);
    let mut found = Ok(());
    for piece in bytes.chunks(1 + usize::from(first)) {
        found = pieces.follow(piece);
        if found.is_err() {
            break;
        }
    }
    assert_eq!(found, expected, "the pieces make a difference");
    let _ = FrameWatch::unidirectional(1 << 14).follow(bytes);
}
