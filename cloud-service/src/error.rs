//! Why a request was refused, and the one mapping to gRPC status.

use std::{sync::Arc, time::Duration};

use outpost_cascade::{FallbackCause, NoAnswer};
use outpost_engine::ImageError;
use outpost_proto::{Datatype, TensorError};
use outpost_runtime::{DecodeError, InferError, OpenError, PreprocessError};
use outpost_transport::RETRY_PUSHBACK;
use tonic::{Code, Status, metadata::MetadataMap};

use crate::repository::{LoadError, RepositoryError};

/// Why a request was refused. Every message names what to send instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The caller showed nothing to be known by.
    #[error(
        "this service knows its callers: send `authorization: Bearer TOKEN`, or show a certificate"
    )]
    NoCredentials,
    /// The token is of nobody.
    #[error("the token is not known here, or no longer: send one that was issued for this service")]
    UnknownToken,
    /// The names in the certificate are of nobody.
    #[error("no identity has a certificate of the name {0:?}: have one added")]
    UnknownCertificate(Vec<String>),
    /// The caller may not use the network.
    #[error("{identity:?} may not use the network {network:?}: have its identity changed")]
    NetworkForbidden {
        /// The caller.
        identity: String,
        /// The network.
        network: String,
    },
    /// The caller may not do this.
    #[error("{identity:?} lacks the permission {permission:?}: have its identity changed")]
    Forbidden {
        /// The caller.
        identity: String,
        /// What it lacks.
        permission: &'static str,
    },
    /// The page asks for something else than answers.
    #[error(
        "a token of the page is for answers of its models alone: send the token of an identity"
    )]
    BeyondPage,
    /// The caller sends more than it may.
    #[error("{identity:?} is at its limit of images: try again in {} ms", retry_after.as_millis())]
    RateLimit {
        /// The caller.
        identity: String,
        /// When there is room again.
        retry_after: Duration,
    },
    /// The caller sends more at once than it ever may.
    #[error("{identity:?} may send {burst} images at once and sent {images}: send fewer")]
    Burst {
        /// The caller.
        identity: String,
        /// Images of the request.
        images: usize,
        /// Its limit.
        burst: u32,
    },
    /// The model is not served here.
    #[error("there is no model {name:?}; this server has {present:?}")]
    NoSuchModel {
        /// The name asked for.
        name: String,
        /// The names there are.
        present: Vec<String>,
    },
    /// The version is not served here.
    #[error(
        "model {name:?} has no version {version:?}; it has {present:?}, and an empty one is the latest"
    )]
    NoSuchVersion {
        /// The model.
        name: String,
        /// The version asked for.
        version: String,
        /// The versions there are.
        present: Vec<u64>,
    },
    /// The repository did not change.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The contents of a tensor are malformed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Not exactly one input of the right name.
    #[error("`inputs` must hold one tensor named {wanted:?}; it holds {found:?}")]
    Inputs {
        /// Name of the input.
        wanted: String,
        /// The names sent.
        found: Vec<String>,
    },
    /// An output that the model does not give.
    #[error("`outputs` asks for {asked:?}; the model gives {gives:?}")]
    NoSuchOutput {
        /// The name asked for.
        asked: String,
        /// The name it gives.
        gives: String,
    },
    /// A datatype that the model does not take.
    #[error(
        "tensor {tensor:?} is {datatype}: send FP32, FP16 or UINT8, or encoded images as BYTES"
    )]
    Datatype {
        /// Name of the tensor.
        tensor: String,
        /// The datatype sent.
        datatype: Datatype,
    },
    /// A shape that the model does not take.
    #[error("tensor {tensor:?} has shape {found:?}: send {expected}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// What it takes.
        expected: String,
        /// The shape sent.
        found: Vec<usize>,
    },
    /// No image, or more than the limit.
    #[error("the request has {found} images: send 1 to {limit}")]
    BatchSize {
        /// Images sent.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// An image that cannot be decoded.
    #[error("image {index} of tensor {tensor:?}: {source}")]
    Image {
        /// Name of the tensor.
        tensor: String,
        /// Which image of the batch, from 0.
        index: usize,
        /// Why.
        source: DecodeError,
    },
    /// An image that cannot be pre-processed.
    #[error("image {index} of tensor {tensor:?}: {source}")]
    Preprocess {
        /// Name of the tensor.
        tensor: String,
        /// Which image of the batch, from 0.
        index: usize,
        /// Why.
        source: PreprocessError,
    },
    /// Something else than a node's name where an image is to begin.
    #[error("the parameter `outpost_entry` is no string: send the name of a node")]
    EntryType,
    /// A node that an image cannot begin with.
    #[error("the parameter `outpost_entry` names {asked:?}: send one of {present:?}")]
    NoSuchEntry {
        /// The node asked for.
        asked: String,
        /// The nodes there are.
        present: Vec<String>,
    },
    /// A tensor that a cascade does not take.
    #[error(
        "a cascade takes images: send tensor {tensor:?} as BYTES [n], encoded, or as UINT8 [n, height, width, 3]"
    )]
    NoImages {
        /// Name of the tensor.
        tensor: String,
    },
    /// A cascade gave no answer.
    #[error("no answer: {0}")]
    Cascade(#[from] ImageError),
    /// The queue is full.
    #[error("the queue of {limit} images is full: try again in {} ms", retry_after.as_millis())]
    QueueFull {
        /// Images that may wait at a time.
        limit: usize,
        /// When there may be a place.
        retry_after: Duration,
    },
    /// The caller's deadline passed before the answer was computed.
    #[error("the deadline passed while the request waited or was decoded")]
    DeadlinePassed,
    /// The network failed.
    #[error("the network failed")]
    Infer(#[source] Arc<InferError>),
    /// The worker ended without an answer.
    #[error("the request was lost inside the server")]
    WorkerLost,
}

impl ServiceError {
    /// The word that counts it in metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NoCredentials | Self::UnknownToken | Self::UnknownCertificate(_) => {
                "unauthenticated"
            }
            Self::NetworkForbidden { .. } | Self::Forbidden { .. } | Self::BeyondPage => {
                "forbidden"
            }
            Self::RateLimit { .. } | Self::Burst { .. } => "rate-limit",
            Self::NoSuchModel { .. } | Self::NoSuchVersion { .. } => "not-found",
            Self::Tensor(_)
            | Self::Inputs { .. }
            | Self::NoSuchOutput { .. }
            | Self::Datatype { .. }
            | Self::Shape { .. }
            | Self::BatchSize { .. } => "malformed",
            Self::EntryType | Self::NoSuchEntry { .. } | Self::NoImages { .. } => "malformed",
            Self::Cascade(_) => "cascade",
            Self::Image { .. } | Self::Preprocess { .. } => "image",
            Self::QueueFull { .. } => "queue-full",
            Self::DeadlinePassed => "deadline",
            Self::Infer(_) | Self::WorkerLost => "network",
            Self::Repository(_) => "repository",
        }
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        use ServiceError as E;
        let code = match &error {
            E::NoCredentials | E::UnknownToken | E::UnknownCertificate(_) => Code::Unauthenticated,
            E::NetworkForbidden { .. } | E::Forbidden { .. } | E::BeyondPage => {
                Code::PermissionDenied
            }
            E::RateLimit { .. } => Code::ResourceExhausted,
            E::NoSuchModel { .. } | E::NoSuchVersion { .. } | E::NoSuchEntry { .. } => {
                Code::NotFound
            }
            E::Cascade(ImageError::NoAnswer(NoAnswer::OffloadFailed(cause))) => match cause {
                FallbackCause::Deadline => Code::DeadlineExceeded,
                FallbackCause::Overloaded => Code::ResourceExhausted,
                // The next service is there, and does not serve this one.
                FallbackCause::Rejected => Code::FailedPrecondition,
                // It does not take this image.
                FallbackCause::Unusable | FallbackCause::Unsendable | FallbackCause::Private => {
                    Code::InvalidArgument
                }
                FallbackCause::Budget => Code::ResourceExhausted,
                _ => Code::Unavailable,
            },
            E::Cascade(_) => Code::Internal,
            E::EntryType
            | E::NoImages { .. }
            | E::Burst { .. }
            | E::Tensor(_)
            | E::Inputs { .. }
            | E::NoSuchOutput { .. }
            | E::Datatype { .. }
            | E::Shape { .. }
            | E::BatchSize { .. }
            | E::Image { .. }
            | E::Preprocess { .. } => Code::InvalidArgument,
            E::QueueFull { .. } => Code::ResourceExhausted,
            E::DeadlinePassed => Code::DeadlineExceeded,
            E::Infer(_) | E::WorkerLost => Code::Internal,
            E::Repository(error) => match error {
                RepositoryError::NoSuchRepository(_)
                | RepositoryError::Load(LoadError::Open(
                    OpenError::NoSuchNetwork { .. } | OpenError::NoSuchVersion { .. },
                )) => Code::NotFound,
                RepositoryError::Parameter(_) => Code::InvalidArgument,
                RepositoryError::NotExplicit
                | RepositoryError::Load(LoadError::Open(_) | LoadError::Runtime(_)) => {
                    Code::FailedPrecondition
                }
                RepositoryError::Load(LoadError::Threads(_)) => Code::ResourceExhausted,
            },
        };
        let mut metadata = MetadataMap::new();
        let overloaded = NoAnswer::OffloadFailed(FallbackCause::Overloaded);
        let retry_after = match &error {
            E::QueueFull { retry_after, .. } | E::RateLimit { retry_after, .. } => {
                Some(*retry_after)
            }
            E::Cascade(ImageError::NoAnswer(none)) if *none == overloaded => Some(NEXT_OVERLOADED),
            _ => None,
        };
        if let Some(retry_after) = retry_after {
            let milliseconds = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            metadata.insert(RETRY_PUSHBACK, milliseconds.max(1).into());
        }
        Self::with_metadata(code, cut(error.to_string()), metadata)
    }
}

/// When to come back where the next service is busy: how long it wants no call is between it and its caller here.
const NEXT_OVERLOADED: Duration = Duration::from_millis(500);

/// Messages repeat names that a peer sent, of any length; they travel in a header, which is bounded.
fn cut(mut message: String) -> String {
    const LONGEST: usize = 1000;
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_status() {
        let name = || "m".to_owned();
        let not_opened = |error| RepositoryError::Load(LoadError::Open(error)).into();
        let cases = [
            (
                ServiceError::NoSuchEntry {
                    asked: name(),
                    present: vec![],
                },
                Code::NotFound,
            ),
            (ServiceError::EntryType, Code::InvalidArgument),
            (
                ServiceError::NoImages { tensor: name() },
                Code::InvalidArgument,
            ),
            (
                ImageError::from(NoAnswer::OffloadFailed(FallbackCause::Unreachable)).into(),
                Code::Unavailable,
            ),
            (
                ImageError::from(NoAnswer::OffloadFailed(FallbackCause::Deadline)).into(),
                Code::DeadlineExceeded,
            ),
            (
                ImageError::from(NoAnswer::OffloadFailed(FallbackCause::Rejected)).into(),
                Code::FailedPrecondition,
            ),
            (
                ImageError::from(NoAnswer::OffloadFailed(FallbackCause::Unusable)).into(),
                Code::InvalidArgument,
            ),
            (
                ImageError::from(NoAnswer::OffloadFailed(FallbackCause::Overloaded)).into(),
                Code::ResourceExhausted,
            ),
            (ImageError::Crashed.into(), Code::Internal),
            (ServiceError::NoCredentials, Code::Unauthenticated),
            (ServiceError::UnknownToken, Code::Unauthenticated),
            (
                ServiceError::UnknownCertificate(vec![]),
                Code::Unauthenticated,
            ),
            (
                ServiceError::NetworkForbidden {
                    identity: name(),
                    network: name(),
                },
                Code::PermissionDenied,
            ),
            (
                ServiceError::Forbidden {
                    identity: name(),
                    permission: "manage",
                },
                Code::PermissionDenied,
            ),
            (ServiceError::BeyondPage, Code::PermissionDenied),
            (
                ServiceError::RateLimit {
                    identity: name(),
                    retry_after: Duration::ZERO,
                },
                Code::ResourceExhausted,
            ),
            (
                ServiceError::Burst {
                    identity: name(),
                    images: 2,
                    burst: 1,
                },
                Code::InvalidArgument,
            ),
            (
                ServiceError::NoSuchModel {
                    name: name(),
                    present: vec![],
                },
                Code::NotFound,
            ),
            (
                ServiceError::NoSuchVersion {
                    name: name(),
                    version: name(),
                    present: vec![],
                },
                Code::NotFound,
            ),
            (
                ServiceError::Tensor(TensorError::MixedContents { tensor: name() }),
                Code::InvalidArgument,
            ),
            (
                ServiceError::Inputs {
                    wanted: name(),
                    found: vec![],
                },
                Code::InvalidArgument,
            ),
            (
                ServiceError::NoSuchOutput {
                    asked: name(),
                    gives: name(),
                },
                Code::InvalidArgument,
            ),
            (
                ServiceError::Datatype {
                    tensor: name(),
                    datatype: Datatype::Int64,
                },
                Code::InvalidArgument,
            ),
            (
                ServiceError::Shape {
                    tensor: name(),
                    expected: name(),
                    found: vec![],
                },
                Code::InvalidArgument,
            ),
            (
                ServiceError::BatchSize { found: 0, limit: 1 },
                Code::InvalidArgument,
            ),
            (
                ServiceError::Image {
                    tensor: name(),
                    index: 0,
                    source: DecodeError::Empty,
                },
                Code::InvalidArgument,
            ),
            (
                ServiceError::Preprocess {
                    tensor: name(),
                    index: 0,
                    source: PreprocessError::NoPixels {
                        width: 0,
                        height: 0,
                    },
                },
                Code::InvalidArgument,
            ),
            (
                ServiceError::QueueFull {
                    limit: 1,
                    retry_after: Duration::ZERO,
                },
                Code::ResourceExhausted,
            ),
            (
                ServiceError::Infer(Arc::new(InferError::Runtime("a kernel failed".into()))),
                Code::Internal,
            ),
            (
                RepositoryError::NotExplicit.into(),
                Code::FailedPrecondition,
            ),
            (
                RepositoryError::NoSuchRepository(name()).into(),
                Code::NotFound,
            ),
            (
                RepositoryError::Parameter(name()).into(),
                Code::InvalidArgument,
            ),
            (
                not_opened(OpenError::NoSuchNetwork {
                    name: name(),
                    path: "models".into(),
                    present: vec![],
                }),
                Code::NotFound,
            ),
            (
                not_opened(OpenError::NoSuchVersion {
                    name: name(),
                    version: 7,
                    present: vec![1],
                }),
                Code::NotFound,
            ),
            (
                not_opened(OpenError::Digest {
                    path: "weights.onnx".into(),
                    expected: name(),
                    found: name(),
                }),
                Code::FailedPrecondition,
            ),
            (
                RepositoryError::Load(LoadError::Threads(std::io::Error::other("none"))).into(),
                Code::ResourceExhausted,
            ),
            (ServiceError::DeadlinePassed, Code::DeadlineExceeded),
            (ServiceError::WorkerLost, Code::Internal),
        ];
        for (error, code) in cases {
            let message = error.to_string();
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{message}");
            assert_eq!(status.message(), message);
        }
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let status = Status::from(ServiceError::QueueFull {
            limit: 1,
            retry_after: Duration::from_millis(70),
        });
        assert_eq!(status.metadata().get(RETRY_PUSHBACK).unwrap(), "70");
        assert!(status.message().contains("70 ms"));
    }

    #[test]
    fn a_name_of_any_length_fits_into_the_status() {
        let status = Status::from(ServiceError::NoSuchModel {
            name: "ä".repeat(100_000),
            present: vec![],
        });
        assert!(status.message().len() < 1010);
    }
}
