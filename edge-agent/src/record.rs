//! What is printed about an image: one JSON object a line.

use std::time::Duration;

use outpost_runtime::{ClassId, Labels, Probabilities};
use serde::Serialize;

/// The line of one image.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Record {
    /// The image has an answer.
    Answered(Box<Answered>),
    /// The image has none.
    Failed {
        /// The image as it was named.
        image: String,
        /// Why, and what to do.
        error: String,
    },
}

/// An answer and how it came about.
#[derive(Debug, Clone, Serialize)]
pub struct Answered {
    /// The image as it was named.
    pub image: String,
    /// The class.
    pub class_id: ClassId,
    /// Its name.
    pub label: String,
    /// Its probability, 0 to 1.
    pub confidence: f32,
    /// The five most probable classes.
    pub top5: Vec<Candidate>,
    /// `device` or `cloud`.
    pub site: outpost_cascade::Site,
    /// The network that answered.
    pub network: String,
    /// Its early exit where the answer left; absent at its end.
    pub exit: Option<String>,
    /// `confident`, `offloaded` or `fallback:<cause>`.
    pub reason: String,
    /// Reading, decoding and the networks on the device.
    pub device_ms: f64,
    /// The time of the offload that was not the cloud's; absent without an offload.
    pub link_ms: Option<f64>,
    /// The time in the cloud, as the cloud tells it; absent where it does not.
    pub cloud_ms: Option<f64>,
    /// From taking up the image to its answer.
    pub total_ms: f64,
    /// Bytes of the requests that were sent, without headers.
    pub bytes_sent: u64,
    /// `h2` or `h3`; absent where no reply came.
    pub transport: Option<outpost_transport::Protocol>,
}

/// One of the most probable classes.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// The class.
    pub class_id: ClassId,
    /// Its name.
    pub label: String,
    /// Its probability, 0 to 1.
    pub confidence: f32,
}

impl Candidate {
    /// The five most probable classes, most probable first.
    pub(crate) fn top5(said: &Probabilities, labels: &Labels) -> Vec<Self> {
        said.top(5)
            .into_iter()
            .map(|class| Self {
                class_id: class.class_id,
                label: labels.name(class.class_id),
                confidence: class.probability,
            })
            .collect()
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
