//! A folder whose images are answered as they come.
//!
//! The system tells which files were closed or moved there; these are whole. Every now and then all of the folder is
//! looked at, for what was not told: there a file is believed to be whole once it has not changed for a while.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agent::Image,
    config::{FolderConfig, Then},
    intake::Intake,
    paths::has_image_extension,
    record::Record,
};

/// Subfolders for images that were answered, and for those without an answer.
const ANSWERED: &str = "answered";
const FAILED: &str = "failed";
/// Files told of that may wait to be heard.
const TOLD: usize = 1024;

/// Why a folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the folder {}: {advice}", path.display())]
pub struct FolderError {
    path: PathBuf,
    advice: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// A watched folder.
pub(super) struct Folder {
    path: PathBuf,
    name: Arc<str>,
    then: Then,
    settle: Duration,
    look: Duration,
    intake: Intake,
    /// Ends the watching with the folder.
    _watcher: RecommendedWatcher,
    told: mpsc::Receiver<PathBuf>,
    /// Images that are being answered, or wait for a place.
    taken: HashSet<PathBuf>,
    /// Images that stay though they were answered, and as of when.
    done: HashMap<PathBuf, SystemTime>,
}

impl Folder {
    /// Begins to hear what changes in the folder.
    pub(super) fn open(config: &FolderConfig, intake: Intake) -> Result<Self, FolderError> {
        let path = config.path.clone();
        let failed = |advice, source| FolderError {
            path: path.clone(),
            advice,
            source,
        };
        let found = fs::read_dir(&path).map_err(|error| {
            failed(
                "make it, and give this program the right to read it",
                error.into(),
            )
        })?;
        let mut done = HashMap::new();
        match config.then {
            Then::Keep => done.extend(found.filter_map(|entry| image(&entry.ok()?.path()))),
            Then::Move | Then::Delete => {
                let subfolders: &[&str] = match config.then {
                    Then::Delete => &[FAILED],
                    _ => &[ANSWERED, FAILED],
                };
                for subfolder in subfolders {
                    fs::create_dir_all(path.join(subfolder)).map_err(|error| {
                        failed(
                            "give this program the right to write there, or set `then = \"keep\"`",
                            error.into(),
                        )
                    })?;
                }
            }
        }
        let (tell, told) = mpsc::channel(TOLD);
        let mut watcher = notify::recommended_watcher(move |event| {
            for path in whole(event) {
                // What is not heard is seen at the next look at all of the folder.
                let _ = tell.try_send(path);
            }
        })
        .map_err(|error| failed("the system does not tell of changes", error.into()))?;
        watcher
            .watch(&path, RecursiveMode::NonRecursive)
            .map_err(|error| failed("the system does not tell of its changes", error.into()))?;
        Ok(Self {
            name: config.name.as_str().into(),
            then: config.then,
            settle: Duration::from_millis(config.settle_ms),
            look: Duration::from_secs(config.look_seconds),
            path,
            intake,
            _watcher: watcher,
            told,
            taken: HashSet::new(),
            done,
        })
    }

    /// Answers images until `ending`, and then those that were taken up.
    pub(super) async fn watch(mut self, ending: CancellationToken) {
        let mut answering: JoinSet<(PathBuf, Stays)> = JoinSet::new();
        let mut next_look = Instant::now();
        loop {
            let found = tokio::select! {
                biased;
                () = ending.cancelled() => break,
                Some(answered) = answering.join_next() => {
                    self.answered(answered);
                    continue;
                }
                Some(told) = self.told.recv() => vec![told],
                () = sleep_until(next_look) => {
                    let (whole, wait) = self.all().await;
                    next_look = Instant::now() + wait;
                    whole
                }
            };
            for path in found {
                if self.taken.contains(&path) || self.is_done(&path) {
                    continue;
                }
                let place = tokio::select! {
                    biased;
                    () = ending.cancelled() => break,
                    place = self.intake.place() => place,
                };
                // It may have gone while others were answered.
                if image(&path).is_none() {
                    continue;
                }
                self.taken.insert(path.clone());
                let (intake, name, then) = (self.intake.clone(), self.name.clone(), self.then);
                answering.spawn(async move {
                    let event = intake.take(place, name, Image::file(path.clone())).await;
                    let is_answered = matches!(event.record, Record::Answered(_));
                    let from = path.clone();
                    let stays =
                        spawn_blocking(move || put_away(&from, then, is_answered, event.id));
                    (path, stays.await.unwrap_or(Stays::Yes))
                });
            }
        }
        while let Some(answered) = answering.join_next().await {
            self.answered(answered);
        }
    }

    fn answered(&mut self, answered: Result<(PathBuf, Stays), tokio::task::JoinError>) {
        match answered {
            Ok((path, stays)) => {
                self.taken.remove(&path);
                if stays == Stays::Yes
                    && let Some((path, modified)) = image(&path)
                {
                    self.done.insert(path, modified);
                }
            }
            Err(error) => tracing::error!(%error, "the task of an image ended before its time"),
        }
    }

    fn is_done(&self, path: &Path) -> bool {
        let done = self.done.get(path);
        done.is_some_and(|&as_of| image(path).is_some_and(|(_, modified)| modified == as_of))
    }

    /// All images that are whole, in order of name, and how long to wait for the next look.
    async fn all(&mut self) -> (Vec<PathBuf>, Duration) {
        let (path, settle) = (self.path.clone(), self.settle);
        let looked = spawn_blocking(move || {
            let now = SystemTime::now();
            let images = fs::read_dir(&path)?.filter_map(|entry| image(&entry.ok()?.path()));
            // One from the future, of a clock that was set back, is whole.
            let (mut whole, young): (Vec<_>, Vec<_>) = images.partition(|&(_, modified)| {
                now.duration_since(modified).is_ok_and(|age| age >= settle) || modified > now
            });
            whole.sort();
            io::Result::Ok((whole, young.is_empty()))
        })
        .await;
        let (whole, is_all) = match looked {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                tracing::warn!(folder = %self.path.display(), %error, "the folder cannot be read");
                (Vec::new(), true)
            }
            Err(_) => (Vec::new(), true),
        };
        // What is gone need not be remembered.
        let here: HashSet<&PathBuf> = whole.iter().map(|(path, _)| path).collect();
        if is_all {
            self.done.retain(|path, _| here.contains(path));
        }
        let wait = if is_all {
            self.look
        } else {
            self.settle.min(self.look)
        };
        (whole.into_iter().map(|(path, _)| path).collect(), wait)
    }
}

/// Whether an image is still where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stays {
    Yes,
    No,
}

/// The files that are whole, by what the system tells.
fn whole(event: notify::Result<notify::Event>) -> Vec<PathBuf> {
    match event {
        Ok(event) => match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => event.paths,
            _ => Vec::new(),
        },
        Err(error) => {
            tracing::debug!(%error, "the system does not tell of all changes");
            Vec::new()
        }
    }
}

/// A path and when it was last changed, where it is an image's.
fn image(path: &Path) -> Option<(PathBuf, SystemTime)> {
    if !has_image_extension(path) {
        return None;
    }
    let metadata = fs::metadata(path).ok()?;
    let modified = metadata.modified().ok()?;
    metadata.is_file().then(|| (path.to_owned(), modified))
}

/// Does with an image what is to be done once it has been answered.
fn put_away(path: &Path, then: Then, is_answered: bool, id: Uuid) -> Stays {
    let done = match (then, is_answered) {
        (Then::Keep, _) => return Stays::Yes,
        (Then::Delete, true) => fs::remove_file(path),
        (Then::Move, true) => move_to(path, ANSWERED, id),
        (_, false) => move_to(path, FAILED, id),
    };
    match done {
        Ok(()) => Stays::No,
        // Whoever put it there has taken it away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Stays::No,
        Err(error) => {
            tracing::warn!(
                image = %path.display(), %error,
                "answered and cannot be put away: it is answered again after a restart"
            );
            Stays::Yes
        }
    }
}

fn move_to(path: &Path, subfolder: &str, id: Uuid) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut target = folder.join(subfolder).join(name);
    if target.exists() {
        let mut unique = std::ffi::OsString::from(format!("{id}-"));
        unique.push(name);
        target.set_file_name(unique);
    }
    fs::rename(path, target)
}
