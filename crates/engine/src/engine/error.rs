//! Why an engine does not start, and why an image has no answer.

use std::path::PathBuf;

use outpost_cascade::{CascadeError, NoAnswer, Site};
use outpost_runtime::{ClassifyError, OpenError};

use crate::{
    learned::PolicyError, peer::EncodersError, picture::PictureError, privacy::PrivacyError,
};

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The cascade file is at fault.
    #[error("cannot use the cascade {}", path.display())]
    Cascade {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CascadeError,
    },
    /// A node's policy is to be learned, and none has been given.
    #[error(
        "the policy of the node {node:?} is to be learned: learn one with `lab learn` and give it with --policy, or `policy` in the configuration"
    )]
    Undecided {
        /// The node.
        node: String,
    },
    /// The learned policy is at fault.
    #[error("cannot use the policy {}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PolicyError,
    },
    /// The device alone was asked for, and the cascade begins elsewhere.
    #[error(
        "device-only needs a cascade that begins on the device; this one begins with {network:?}"
    )]
    NoDeviceNetwork {
        /// The entry.
        network: String,
    },
    /// A network of the cascade could not be opened.
    #[error(transparent)]
    Network(#[from] OpenError),
    /// What must not leave this site is not understood.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    /// No encoder can be chosen for images that are sent.
    #[error("cannot choose an encoder for the {site}")]
    Encoders {
        /// Whom they are sent to.
        site: Site,
        /// Why.
        source: EncodersError,
    },
}

/// Why an image has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file cannot be read, is no image or breaks a limit.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// No network answered.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// A network here failed.
    #[error(transparent)]
    Network(#[from] ClassifyError),
    /// A library panicked over the image.
    #[error("the image made a decoder or a network crash; please report it with the image")]
    Crashed,
}
