//! A folder whose images are answered as they come.
//!
//! The system tells which files were closed or moved there; these are whole. Every now and then all of the folder is
//! looked at, for what was not told: there a file is believed to be whole once it has not changed for a while. Then, and
//! once the system tells that the folder has gone, it is seen whether another has taken its place.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{self, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::outage::Outage;
use crate::{
    agent::Image,
    config::{FolderConfig, Then},
    intake::Intake,
    metrics::Metrics,
    record::{FailureCause, Record},
};
use changes::{FolderId, Look, Teller, look};
use file::{ANSWERED, FAILED, Left, Version, image, put_away};

mod changes;
mod file;

/// Files told of that may wait to be heard.
const TOLD: usize = 1024;
/// Why images wait though they are there.
const TOO_MANY_FILES: &str =
    "this program has as many files open as it may: raise the limit (`LimitNOFILE` of systemd)";

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
    /// Which folder is watched; none once it has gone.
    watched: Option<FolderId>,
    /// Ends the watching when it is dropped; none where the system does not tell of the folder.
    watcher: Option<RecommendedWatcher>,
    teller: Teller,
    told: mpsc::Receiver<PathBuf>,
    /// Whether the folder can be read.
    reading: Outage,
    /// Whether its images can be opened.
    opening: Outage,
    /// Whether one could not since the last look.
    waits_for_files: bool,
    /// Images that are being answered.
    taken: HashSet<PathBuf>,
    /// Images that stay though they were answered, as what, and the device of the folder that they are in.
    done: HashMap<PathBuf, (Version, u64)>,
}

impl Folder {
    /// Begins to hear what changes in the folder.
    pub(super) fn open(
        config: &FolderConfig,
        intake: Intake,
        metrics: &Metrics,
    ) -> Result<Self, FolderError> {
        // Absolute, as the system tells them: a file has one name, however it is found.
        let path = path::absolute(&config.path).unwrap_or_else(|_| config.path.clone());
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
        // Where another takes its place meanwhile, that one is found at the first look.
        let watched = FolderId::of(&path).ok();
        let device = watched.map_or(0, |folder| folder.device);
        let mut done = HashMap::new();
        match config.then {
            Then::Keep => {
                let images = found.filter_map(|entry| image(entry.ok()?.path()));
                done.extend(images.map(|(path, version)| (path, (version, device))));
            }
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
        let teller = Teller {
            tell,
            gone: Arc::default(),
        };
        let watcher = teller
            .watch(&path)
            .map_err(|error| failed("the system does not tell of its changes", error.into()))?;
        let outage = || Outage::new(&config.name, path.display().to_string(), metrics.clone());
        Ok(Self {
            name: config.name.as_str().into(),
            then: config.then,
            settle: Duration::from_millis(config.settle_ms),
            look: Duration::from_secs(config.look_seconds),
            reading: outage(),
            opening: outage(),
            waits_for_files: false,
            path,
            intake,
            watched,
            watcher: Some(watcher),
            teller,
            told,
            taken: HashSet::new(),
            done,
        })
    }

    /// Answers images until `ending`, and then those that were taken up.
    pub(super) async fn watch(mut self, ending: CancellationToken) {
        let mut answering: JoinSet<Answered> = JoinSet::new();
        let mut next_look = Instant::now();
        loop {
            let found = tokio::select! {
                biased;
                () = ending.cancelled() => break,
                Some(answered) = answering.join_next() => {
                    if let Some(wait) = self.answered(answered) {
                        next_look = next_look.min(Instant::now() + wait);
                    }
                    continue;
                }
                () = self.teller.gone.notified() => {
                    self.watched = None;
                    next_look = Instant::now();
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
                if self.taken.contains(&path) {
                    continue;
                }
                let place = tokio::select! {
                    biased;
                    () = ending.cancelled() => break,
                    place = self.intake.place() => place,
                };
                // It may have gone, or been replaced, while others were answered.
                let Some((path, version)) = image(path) else {
                    continue;
                };
                if self.done.get(&path).is_some_and(|done| done.0 == version) {
                    continue;
                }
                self.taken.insert(path.clone());
                let (intake, name, then) = (self.intake.clone(), self.name.clone(), self.then);
                answering.spawn(async move {
                    let image = Image {
                        id: Some(version.id(&path)),
                        ..Image::file(path.clone())
                    };
                    let event = intake.take(place, name, image).await;
                    let left = match event.record {
                        Record::Failed {
                            cause: FailureCause::TooManyFiles,
                            ..
                        } => Left::Unopened,
                        _ => {
                            let is_answered = matches!(event.record, Record::Answered(_));
                            let from = path.clone();
                            let left = spawn_blocking(move || {
                                put_away(from, version, then, is_answered, event.id)
                            });
                            left.await.unwrap_or(Left::Same)
                        }
                    };
                    Answered {
                        path,
                        version,
                        left,
                    }
                });
            }
        }
        while let Some(answered) = answering.join_next().await {
            self.answered(answered);
        }
    }

    /// Notes what became of an image; gives when to look at the folder again, where one is there of which nobody tells.
    fn answered(&mut self, answered: Result<Answered, tokio::task::JoinError>) -> Option<Duration> {
        let Answered {
            path,
            version,
            left,
        } = match answered {
            Ok(answered) => answered,
            Err(error) => {
                tracing::error!(%error, "the task of an image ended before its time");
                return None;
            }
        };
        self.taken.remove(&path);
        if left == Left::Unopened {
            // All that were taken up at that time are one failure.
            let is_first = !std::mem::replace(&mut self.waits_for_files, true);
            return is_first.then(|| self.opening.failed(TOO_MANY_FILES));
        }
        if !self.waits_for_files {
            self.opening.came();
        }
        if left == Left::Same {
            let device = self.watched.map_or(0, |folder| folder.device);
            self.done.insert(path, (version, device));
        }
        (left == Left::Another).then_some(self.settle)
    }

    /// All images that are whole, in order of name, and how long to wait for the next look.
    async fn all(&mut self) -> (Vec<PathBuf>, Duration) {
        self.waits_for_files = false;
        let (path, settle) = (self.path.clone(), self.settle);
        let (watched, teller) = (self.watched, self.teller.clone());
        let looked = spawn_blocking(move || look(&path, settle, watched, &teller)).await;
        let Look {
            folder,
            whole,
            young,
            renewed,
        } = match looked {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                self.watched = None;
                let pause = self.reading.failed(&error.to_string());
                return (Vec::new(), pause.min(self.look));
            }
            Err(_) => return (Vec::new(), self.look),
        };
        self.reading.came();
        match renewed {
            // A disk that was away for a moment is the same, and nobody told that it was: this costs nothing otherwise.
            None => {
                if let Some(watcher) = &mut self.watcher {
                    let _ = watcher.watch(&self.path, RecursiveMode::NonRecursive);
                }
            }
            Some(Ok(watcher)) => {
                self.watched = Some(folder);
                self.watcher = Some(watcher);
            }
            // Told once, and tried again at every look.
            Some(Err(error)) => {
                if self.watcher.take().is_some() {
                    tracing::warn!(
                        folder = %self.path.display(), %error,
                        "the system does not tell of its changes: it is looked at every `look_seconds`"
                    );
                }
            }
        }
        // What is gone need not be remembered, except where its disk is gone and may come back.
        let here: HashSet<&PathBuf> = whole.iter().chain(&young).collect();
        self.done
            .retain(|path, (_, device)| *device != folder.device || here.contains(path));
        let wait = match young.is_empty() {
            true => self.look,
            false => self.settle.min(self.look),
        };
        (whole, wait)
    }
}

/// An image that was answered, or could not be opened.
struct Answered {
    path: PathBuf,
    version: Version,
    left: Left,
}
