//! The answering of one image of a folder: it is read, answered and put away.

use std::{io, path::PathBuf, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use outpost_engine::PictureError;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    file::{Left, Version, put_away},
    reading::{Reading, in_time, read},
};
use crate::{
    agent::{Content, Image},
    config::Then,
    intake::{Intake, Place},
    record::{FailureCause, Record},
};

/// Why images wait though they are there.
const TOO_MANY_FILES: &str =
    "this program has as many files open as it may: raise the limit (`LimitNOFILE` of systemd)";
const AWAY: &str =
    "a file cannot be read for now: see whether its disk or server is there, and who else holds it";

/// An image to answer.
pub(super) struct Answering {
    pub(super) path: PathBuf,
    /// The version that was answered before.
    pub(super) known: Option<Version>,
    pub(super) input: Arc<str>,
    pub(super) then: Then,
    pub(super) max_bytes: usize,
    pub(super) intake: Intake,
    pub(super) ending: CancellationToken,
}

/// What became of an image.
pub(super) enum Outcome {
    /// It was not taken up: it has gone, or was answered before.
    Passed,
    /// It was answered, or announced without an answer, and is where this says.
    PutAway(Version, Left),
    /// It cannot be opened for now, and why: it stays to be tried again.
    Unopened(&'static str),
    /// It is to be tried again.
    Again,
    /// The system takes too long over it; what becomes of it in the end.
    Hangs(BoxFuture<'static, Self>),
}

impl Answering {
    /// Answers it; gives its path, too.
    pub(super) async fn answer(self, place: Place) -> (PathBuf, Outcome) {
        let path = self.path.clone();
        (path, self.outcome(place).await)
    }

    async fn outcome(self, place: Place) -> Outcome {
        let (path, max_bytes, known) = (self.path.clone(), self.max_bytes, self.known);
        let reading = in_time(move || read(&path, max_bytes, known), &self.ending).await;
        let name = self.path.display().to_string();
        match reading {
            Ok(Ok(Reading::Passed)) => Outcome::Passed,
            Ok(Ok(Reading::Image(version, bytes))) => {
                let id = version.id(&self.path);
                let image = Image {
                    name,
                    content: Content::Encoded(bytes),
                    deadline: None,
                    id: Some(id),
                };
                let event = self.intake.take(place, self.input.clone(), image).await;
                let is_answered = matches!(event.record, Record::Answered(_));
                self.put_away(version, is_answered, id).await
            }
            Ok(Ok(Reading::Failed(version, error))) => {
                let error_kind = error.kind();
                let record = Record::failed(name, &PictureError::Read(error).into());
                if let Some(cause) = passing(&record, error_kind) {
                    return Outcome::Unopened(cause);
                }
                let id = version.id(&self.path);
                self.intake.fail(place, &self.input, id, record).await;
                self.put_away(version, false, id).await
            }
            Ok(Err(error)) => {
                tracing::error!(%error, image = name, "the reading of an image crashed");
                Outcome::Passed
            }
            Err(late) => Outcome::Hangs(late.map(|_| Outcome::Again).boxed()),
        }
    }

    async fn put_away(self, version: Version, is_answered: bool, id: Uuid) -> Outcome {
        let (path, then) = (self.path, self.then);
        let work = move || {
            let left = put_away(path, version, then, is_answered, id);
            Outcome::PutAway(version, left)
        };
        let crashed = Outcome::PutAway(version, Left::Same);
        match in_time(work, &self.ending).await {
            Ok(done) => done.unwrap_or(crashed),
            Err(late) => Outcome::Hangs(late.map(|done| done.unwrap_or(crashed)).boxed()),
        }
    }
}

/// Why a file cannot be read for now, where it may be later.
fn passing(record: &Record, error: io::ErrorKind) -> Option<&'static str> {
    match (record, error) {
        (
            Record::Failed {
                cause: FailureCause::TooManyFiles,
                ..
            },
            _,
        ) => Some(TOO_MANY_FILES),
        // Another program has a lease on it; or its server, or this machine's way to it, is gone for a while.
        (
            _,
            io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::StaleNetworkFileHandle
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable,
        ) => Some(AWAY),
        _ => None,
    }
}
