//! A folder whose images are answered as they come.
//!
//! The system tells which files were closed or moved there; these are whole. Every now and then all of the folder is
//! looked at, for what was not told: there a file is believed to be whole once it has not changed for a while, unless the
//! system told of its writer. Then, and once the system tells that the folder has gone, it is seen whether another has taken
//! its place.
//!
//! A file is read once it has a place, and before it waits for its turn: where that takes too long, nobody else waits for it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs,
    path::{self, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::outage::Outage;
use crate::{
    config::{FolderConfig, Then},
    intake::Intake,
    metrics::Metrics,
    paths::EXTENSIONS,
};
use answering::{Answering, Outcome};
use changes::{FolderId, Look, Teller, look};
use file::{ANSWERED, FAILED, Left, Version, image, others};
use reading::PATIENCE;

mod answering;
mod changes;
mod file;
mod reading;

/// Files that the system takes too long over at a time; beyond that no others are taken up, as they would hang, too. Each
/// holds a thread.
const HANGING: usize = 4;
/// Why images wait though they are there.
const HANGS: &str =
    "the system takes more than 30 s over a file: see whether its disk or server is there";

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
    max_bytes: usize,
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
    /// Whether files that are not called as images were told of.
    others_are_told: bool,
    /// Images that are being answered.
    taken: HashSet<PathBuf>,
    /// Images that stay though they were answered, as what, and the device of the folder that they are in.
    done: HashMap<PathBuf, (Version, u64)>,
}

impl Folder {
    /// Begins to hear what changes in the folder.
    pub(super) fn open(
        config: &FolderConfig,
        max_bytes: usize,
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
        let (teller, told) = Teller::new();
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
            others_are_told: false,
            max_bytes,
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
        let mut answering = JoinSet::new();
        // What the system takes too long over.
        let mut hanging = JoinSet::new();
        let mut found = VecDeque::new();
        let mut next_look = Instant::now();
        loop {
            let goes_on = hanging.len() < HANGING;
            let is_idle = goes_on && found.is_empty();
            let ended = tokio::select! {
                biased;
                () = ending.cancelled() => break,
                Some(answered) = answering.join_next() => answered,
                Some(answered) = hanging.join_next() => answered,
                () = self.teller.gone.notified() => {
                    self.watched = None;
                    next_look = Instant::now();
                    continue;
                }
                place = self.intake.place(), if goes_on && !found.is_empty() => {
                    if let Some(image) = self.next(&mut found) {
                        answering.spawn(self.to_answer(image, ending.clone()).answer(place));
                    }
                    continue;
                }
                Some(told) = self.told.recv(), if is_idle => {
                    found.push_back(told);
                    continue;
                }
                () = sleep_until(next_look), if is_idle => {
                    let Some((whole, wait)) = ending.run_until_cancelled(self.all()).await else {
                        break;
                    };
                    next_look = Instant::now() + wait;
                    found.extend(whole);
                    continue;
                }
            };
            match ended {
                Ok((path, Outcome::Hangs(end))) => {
                    // It stays taken until then.
                    hanging.spawn(async move { (path, end.await) });
                    self.opening.failed(HANGS);
                }
                ended => {
                    if let Some(wait) = self.answered(ended, hanging.is_empty()) {
                        next_look = next_look.min(Instant::now() + wait);
                    }
                }
            }
        }
        while let Some(answered) = answering.join_next().await {
            self.answered(answered, false);
        }
    }

    /// The next of those found that may be taken up; from then on it is.
    fn next(&mut self, found: &mut VecDeque<PathBuf>) -> Option<PathBuf> {
        while let Some(path) = found.pop_front() {
            // One that is written again is told of again.
            if !self.teller.is_being_written(&path) && self.taken.insert(path.clone()) {
                return Some(path);
            }
        }
        None
    }

    /// What answers an image.
    fn to_answer(&self, path: PathBuf, ending: CancellationToken) -> Answering {
        Answering {
            known: self.done.get(&path).map(|(version, _)| *version),
            path,
            input: self.name.clone(),
            then: self.then,
            max_bytes: self.max_bytes,
            intake: self.intake.clone(),
            ending,
        }
    }

    /// Notes what became of an image; gives when to look at the folder again, where one is there of which nobody tells.
    fn answered(
        &mut self,
        answered: Result<(PathBuf, Outcome), JoinError>,
        nothing_hangs: bool,
    ) -> Option<Duration> {
        let (path, outcome) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                tracing::error!(%error, "the task of an image ended before its time");
                return None;
            }
        };
        self.taken.remove(&path);
        match outcome {
            Outcome::PutAway(version, left) => {
                if !self.waits_for_files && nothing_hangs {
                    self.opening.came();
                }
                if left == Left::Same {
                    let device = self.watched.map_or(0, |folder| folder.device);
                    self.done.insert(path, (version, device));
                }
                (left == Left::Another).then_some(self.settle)
            }
            Outcome::Unopened(cause) => {
                // All that were taken up at that time are one failure.
                let is_first = !std::mem::replace(&mut self.waits_for_files, true);
                is_first.then(|| self.opening.failed(cause))
            }
            Outcome::Again => Some(self.settle),
            Outcome::Passed | Outcome::Hangs(_) => None,
        }
    }

    /// All images that are whole and were not answered, in order of name, and how long to wait for the next look.
    async fn all(&mut self) -> (Vec<PathBuf>, Duration) {
        self.waits_for_files = false;
        let (path, settle) = (self.path.clone(), self.settle);
        let (watched, teller) = (self.watched, self.teller.clone());
        let asks_for_others = !self.others_are_told;
        let mut looking = spawn_blocking(move || {
            let others = asks_for_others.then(|| others(&path, settle)).flatten();
            look(&path, settle, watched, &teller).map(|looked| (looked, others))
        });
        let looked = match timeout(PATIENCE, &mut looking).await {
            Ok(looked) => looked,
            // Another look would hang, too.
            Err(_) => {
                self.reading.failed(HANGS);
                looking.await
            }
        };
        let (looked, others) = match looked {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                self.watched = None;
                let pause = self.reading.failed(&error.to_string());
                return (Vec::new(), pause.min(self.look));
            }
            Err(_) => return (Vec::new(), self.look),
        };
        let Look {
            folder,
            whole,
            young,
            written,
            renewed,
        } = looked;
        if let Some((count, example)) = others {
            self.others_are_told = true;
            tracing::warn!(
                folder = %self.path.display(),
                "{count} files here are not called as images ({}), for example {}: they stay",
                EXTENSIONS.join(", "),
                example.display(),
            );
        }
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
        let here: HashSet<&PathBuf> = whole
            .iter()
            .map(|(path, _)| path)
            .chain(young.iter().chain(&written))
            .collect();
        self.done
            .retain(|path, (_, device)| *device != folder.device || here.contains(path));
        let wait = match young.is_empty() {
            true => self.look,
            false => self.settle.min(self.look),
        };
        let is_new = |(path, version): &(PathBuf, Version)| {
            self.done.get(path).is_none_or(|(done, _)| done != version)
        };
        let whole = whole.into_iter().filter(is_new);
        (whole.map(|(path, _)| path).collect(), wait)
    }
}
