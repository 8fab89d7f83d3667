//! What is printed about an image: one JSON object a line.

use std::time::Duration;

use outpost_cascade::NoAnswer;
use outpost_engine::{ImageError, PictureError, error_chain};
use outpost_runtime::{ClassId, DecodeError, Labels, Probabilities};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The line of one image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Record {
    /// The image has an answer.
    Answered(Box<Answered>),
    /// The image has none.
    Failed {
        /// The image as it was named.
        image: String,
        /// What kind of failure.
        cause: FailureCause,
        /// Why, and what to do.
        error: String,
    },
}

/// Why an image has no answer, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCause {
    /// The file cannot be read.
    Unreadable,
    /// It has more bytes or pixels than the limits allow.
    TooLarge,
    /// It is empty, corrupt, or of a format that is not known.
    NotAnImage,
    /// A network here failed or crashed, and nothing else answered.
    NetworkFailed,
    /// The cascade begins elsewhere, and nobody there answered.
    NoAnswer,
}

impl FailureCause {
    /// Its word in records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too-large",
            Self::NotAnImage => "not-an-image",
            Self::NetworkFailed => "network-failed",
            Self::NoAnswer => "no-answer",
        }
    }

    fn of(error: &ImageError) -> Self {
        match error {
            ImageError::Picture(PictureError::Read(_)) => Self::Unreadable,
            ImageError::Picture(PictureError::Decode(error)) => match error {
                DecodeError::TooManyBytes { .. } | DecodeError::TooManyPixels { .. } => {
                    Self::TooLarge
                }
                _ => Self::NotAnImage,
            },
            ImageError::NoAnswer(NoAnswer::OffloadFailed(_)) => Self::NoAnswer,
            _ => Self::NetworkFailed,
        }
    }
}

impl Record {
    /// That the image `image` has no answer.
    pub(crate) fn failed(image: String, error: &ImageError) -> Self {
        Self::Failed {
            image,
            cause: FailureCause::of(error),
            error: error_chain(error),
        }
    }
}

/// An answer and how it came about.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Answered {
    /// The image as it was named.
    pub image: String,
    /// The class.
    #[schema(value_type = u32)]
    pub class_id: ClassId,
    /// Its name.
    pub label: String,
    /// Its probability, 0 to 1.
    pub confidence: f32,
    /// The five most probable classes.
    pub top5: Vec<Candidate>,
    /// `device`, `fog` or `cloud`.
    #[schema(value_type = String)]
    pub site: outpost_cascade::Site,
    /// The network that answered.
    pub network: String,
    /// Its early exit where the answer left; absent at its end.
    pub exit: Option<String>,
    /// `confident`, `offloaded` or `fallback:<cause>`.
    pub reason: String,
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
    /// `h2` or `h3`; absent where no reply came.
    #[schema(value_type = Option<String>)]
    pub transport: Option<outpost_transport::Protocol>,
    /// The endpoint that replied, by its URL; absent where only one is configured, or none replied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// One of the most probable classes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// The class.
    #[schema(value_type = u32)]
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
