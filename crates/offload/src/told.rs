//! What is told of an answer, whoever tells it: one JSON object.

use std::time::Duration;

use outpost_cascade::{Reason, Site};
use outpost_runtime::{ClassId, Labels, Probabilities};
use serde::{Deserialize, Serialize};

use crate::DecidedBy;

/// What kind of saying an event is. An image that was taken up has one answer or one failure. Where that one is not
/// final, a correction or a confirmation follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The image's answer.
    Answer,
    /// The cloud's answer, which came after the deadline, or contradicts the device's, and now holds.
    Correction,
    /// The cloud's answer did not come, or is the device's: what was said before holds.
    Confirmation,
    /// The image has no answer.
    Failure,
}

impl Kind {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Correction => "correction",
            Self::Confirmation => "confirmation",
            Self::Failure => "failure",
        }
    }
}

/// An answer and how it came about.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Answered {
    /// The image as it was named.
    pub image: String,
    /// The class.
    #[cfg_attr(feature = "schema", schema(value_type = u32))]
    pub class_id: ClassId,
    /// Its name.
    pub label: String,
    /// Its probability, 0 to 1.
    pub confidence: f32,
    /// The five most probable classes.
    pub top5: Vec<Candidate>,
    /// `device`, `fog` or `cloud`.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub site: Site,
    /// The network that answered.
    pub network: String,
    /// Its early exit where the answer left; absent at its end.
    pub exit: Option<String>,
    /// `confident`, `offloaded` or `fallback:<cause>`.
    pub reason: String,
    /// Waiting for a turn on the device.
    #[serde(default)]
    pub wait_ms: f64,
    /// Reading, decoding and the networks on the device.
    pub device_ms: f64,
    /// Encoding the image for the link; absent where it was not sent.
    pub encode_ms: Option<f64>,
    /// The time of the offload that was neither encoding nor the cloud's; absent without an offload.
    pub link_ms: Option<f64>,
    /// The time in the cloud, as the cloud tells it; absent where it does not.
    pub cloud_ms: Option<f64>,
    /// From taking up the image to its answer.
    pub total_ms: f64,
    /// Bytes of the requests that were sent, without headers.
    pub bytes_sent: u64,
    /// As what it was sent: `original`, `jpeg@95` and the like, `pixels` or `tensor`; absent where it was not.
    pub encoding: Option<String>,
    /// `h2` or `h3`; absent where no reply came, and where it is not known.
    pub transport: Option<String>,
    /// The endpoint that replied, by its URL; absent where only one is configured, or none replied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

impl Answered {
    /// What `said`, at its temperature, is the answer about an image of that name, and who says it why; without times and bytes.
    ///
    /// # Panics
    /// Never: probabilities have two classes at least.
    pub fn new(
        image: String,
        said: &Probabilities,
        labels: &Labels,
        (decided_by, reason): (&DecidedBy, Reason),
    ) -> Self {
        let top5 = Candidate::top5(said, labels);
        let (network, exit) = match decided_by.node.split_once('@') {
            Some((network, exit)) => (network, Some(exit.to_owned())),
            None => (&*decided_by.node, None),
        };
        Self {
            image,
            class_id: top5[0].class_id,
            label: top5[0].label.clone(),
            confidence: top5[0].confidence,
            top5,
            site: decided_by.site,
            network: network.to_owned(),
            exit,
            reason: reason.to_string(),
            wait_ms: 0.0,
            device_ms: 0.0,
            encode_ms: None,
            link_ms: None,
            cloud_ms: None,
            total_ms: 0.0,
            bytes_sent: 0,
            encoding: None,
            transport: None,
            peer: None,
        }
    }
}

/// One of the most probable classes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Candidate {
    /// The class.
    #[cfg_attr(feature = "schema", schema(value_type = u32))]
    pub class_id: ClassId,
    /// Its name.
    pub label: String,
    /// Its probability, 0 to 1.
    pub confidence: f32,
}

impl Candidate {
    /// The five most probable classes, most probable first.
    pub fn top5(said: &Probabilities, labels: &Labels) -> Vec<Self> {
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
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
