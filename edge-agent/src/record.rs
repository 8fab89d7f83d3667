//! What is printed about an image: one JSON object a line.

use std::io;

use outpost_cascade::NoAnswer;
use outpost_engine::{ImageError, PictureError};
use outpost_offload::{Answered, error_chain};
use outpost_runtime::DecodeError;
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
    /// The file cannot be opened for now: this program, or the system, has as many open as it may.
    TooManyFiles,
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
            Self::TooManyFiles => "too-many-files",
            Self::TooLarge => "too-large",
            Self::NotAnImage => "not-an-image",
            Self::NetworkFailed => "network-failed",
            Self::NoAnswer => "no-answer",
        }
    }

    fn of(error: &ImageError) -> Self {
        match error {
            ImageError::Picture(PictureError::Read(error)) if is_too_many_files(error) => {
                Self::TooManyFiles
            }
            ImageError::Picture(PictureError::Read(_)) => Self::Unreadable,
            ImageError::Picture(PictureError::Decode(error)) => match error {
                DecodeError::TooManyBytes { .. }
                | DecodeError::TooManyPixels { .. }
                | DecodeError::WidePixels { .. }
                | DecodeError::LongSide { .. } => Self::TooLarge,
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

fn is_too_many_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_opened_for_now_is_told_from_one_that_cannot_be_read() {
        let cause = |error: i32| {
            let error = io::Error::from_raw_os_error(error);
            FailureCause::of(&ImageError::Picture(PictureError::Read(error)))
        };
        assert_eq!(cause(libc::EMFILE), FailureCause::TooManyFiles);
        assert_eq!(cause(libc::ENFILE), FailureCause::TooManyFiles);
        assert_eq!(cause(libc::EACCES), FailureCause::Unreadable);
    }
}
