//! What is said about an image, in the shape of the events of `edge-agent run`.

use outpost_offload::{Answered, Kind};
use serde::Serialize;

/// What is said about an image.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// The image's identifier.
    pub id: String,
    /// When this was said, RFC 3339 in UTC.
    pub at: String,
    /// The input that the image came from.
    pub input: &'static str,
    /// What kind of saying.
    pub kind: Kind,
    /// Whether this is the last that is said about the image.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// The answer and how it came about.
    #[serde(flatten)]
    pub answered: Answered,
}

impl Event {
    /// What was said at `at`; only an answer may have something follow.
    pub fn new(id: String, at: String, (kind, is_final): (Kind, bool), answered: Answered) -> Self {
        Self {
            id,
            at,
            input: "page",
            kind,
            is_final,
            answered,
        }
    }
}
