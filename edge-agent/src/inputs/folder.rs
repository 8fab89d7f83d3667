//! A folder whose images are answered as they come.
//!
//! The system tells which files were closed or moved there; these are whole. Every now and then all of the folder is
//! looked at, for what was not told: there a file is believed to be whole once it has not changed for a while. Then, and
//! once the system tells that the folder has gone, it is seen whether another has taken its place.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{self, Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RemoveKind, RenameMode},
};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::outage::Outage;
use crate::{
    agent::Image,
    config::{FolderConfig, Then},
    intake::Intake,
    metrics::Metrics,
    paths::has_image_extension,
    record::{FailureCause, Record},
};

/// Subfolders for images that were answered, and for those without an answer.
const ANSWERED: &str = "answered";
const FAILED: &str = "failed";
/// Files told of that may wait to be heard.
const TOLD: usize = 1024;
/// Why images wait though they are there.
const TOO_MANY_FILES: &str =
    "this program has as many files open as it may: raise the limit (`LimitNOFILE` of systemd)";
/// Further than a server's clock is ahead of this machine's.
const FAR_AHEAD: Duration = Duration::from_secs(3600);

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

/// Tells a folder from another at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FolderId {
    device: u64,
    inode: u64,
}

impl FolderId {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// Tells which files are whole, and that the folder has gone.
#[derive(Debug, Clone)]
struct Teller {
    tell: mpsc::Sender<PathBuf>,
    gone: Arc<Notify>,
}

impl Teller {
    /// Begins to tell of the folder that is at an absolute path now, until the watcher is dropped.
    fn watch(&self, path: &Path) -> notify::Result<RecommendedWatcher> {
        let (teller, folder) = (self.clone(), path.to_owned());
        let mut watcher = notify::recommended_watcher(move |event| {
            let Some(event) = heard(event) else { return };
            if has_gone(&event, &folder) {
                // Another that has its number already is another nonetheless.
                teller.gone.notify_one();
            }
            for path in whole(event) {
                // What is not heard is seen at the next look at all of the folder.
                let _ = teller.tell.try_send(path);
            }
        })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// What a look at all of a folder finds.
struct Look {
    /// Images that are whole, in order of name.
    whole: Vec<PathBuf>,
    /// Those that may not be.
    young: Vec<PathBuf>,
    /// Which folder it is.
    folder: FolderId,
    /// Where that is another than the one that is watched: what watches it from now on.
    renewed: Option<notify::Result<RecommendedWatcher>>,
}

/// Looks at all of a folder; blocks.
fn look(
    path: &Path,
    settle: Duration,
    watched: Option<FolderId>,
    teller: &Teller,
) -> io::Result<Look> {
    let folder = FolderId::of(path)?;
    // Before its images are listed: of those that come after that the system tells.
    let renewed = (watched != Some(folder)).then(|| teller.watch(path));
    let (mut whole, mut young) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(path)? {
        let Some((path, version)) = image(entry?.path()) else {
            continue;
        };
        match is_settled(version.modified, settle) {
            true => whole.push(path),
            false => young.push(path),
        }
    }
    whole.sort();
    Ok(Look {
        whole,
        young,
        folder,
        renewed,
    })
}

/// A file as it was at some time: another has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

impl Version {
    /// The identifier of the image that the file is: the same after a crash, which may have come after its answer and
    /// before it was put away.
    fn id(&self, path: &Path) -> Uuid {
        let since_1970 = self.modified.duration_since(SystemTime::UNIX_EPOCH);
        let since_1970 = since_1970.unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update(since_1970.as_nanos().to_le_bytes());
        hash.update(self.bytes.to_le_bytes());
        hash.update(self.inode.to_le_bytes());
        let mut rest = [0; 10];
        rest.copy_from_slice(&hash.finalize()[..10]);
        uuid::Builder::from_unix_timestamp_millis(since_1970.as_millis() as u64, &rest).into_uuid()
    }
}

/// An image that was answered, or could not be opened.
struct Answered {
    path: PathBuf,
    version: Version,
    left: Left,
}

/// What is where an image was found, once it has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Same,
    Another,
    /// Itself, without an answer: it is tried again.
    Unopened,
}

/// Whether a file has not changed for a while; one from far in the future, of a clock that was set back, has not.
fn is_settled(modified: SystemTime, settle: Duration) -> bool {
    match SystemTime::now().duration_since(modified) {
        Ok(age) => age >= settle,
        Err(ahead) => ahead.duration() > FAR_AHEAD,
    }
}

/// What the system tells.
fn heard(event: notify::Result<notify::Event>) -> Option<notify::Event> {
    event
        .inspect_err(|error| tracing::debug!(%error, "the system does not tell of all changes"))
        .ok()
}

/// Whether the folder was removed, or moved elsewhere, by what the system tells.
fn has_gone(event: &notify::Event, folder: &Path) -> bool {
    let is_end = matches!(
        event.kind,
        EventKind::Remove(RemoveKind::Folder)
            | EventKind::Modify(ModifyKind::Name(RenameMode::From))
    );
    is_end && event.paths.iter().any(|path| path == folder)
}

/// The files that are whole, by what the system tells.
fn whole(event: notify::Event) -> Vec<PathBuf> {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => event.paths,
        _ => Vec::new(),
    }
}

/// A path and its file's version, where it is an image's.
fn image(path: PathBuf) -> Option<(PathBuf, Version)> {
    if !has_image_extension(&path) {
        return None;
    }
    let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    let version = Version {
        modified: metadata.modified().ok()?,
        bytes: metadata.len(),
        inode: metadata.ino(),
    };
    Some((path, version))
}

/// Does with an image what is to be done once it has been answered; leaves another that has taken its place.
fn put_away(path: PathBuf, version: Version, then: Then, is_answered: bool, id: Uuid) -> Left {
    match image(path.clone()) {
        None => return Left::Nothing,
        Some((_, now)) if now != version => return Left::Another,
        Some(_) => {}
    }
    let done = match (then, is_answered) {
        (Then::Keep, _) => return Left::Same,
        (Then::Delete, true) => fs::remove_file(&path),
        (Then::Move, true) => move_to(&path, ANSWERED, id),
        (_, false) => move_to(&path, FAILED, id),
    };
    match done {
        Ok(()) => Left::Nothing,
        // Whoever put it there has taken it away.
        Err(_) if !path.exists() => Left::Nothing,
        Err(error) => {
            tracing::warn!(
                image = %path.display(), %error,
                "answered and cannot be put away: it is answered again after a restart"
            );
            Left::Same
        }
    }
}

fn move_to(path: &Path, subfolder: &str, id: Uuid) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let folder = folder.join(subfolder);
    fs::create_dir_all(&folder)?;
    let mut target = folder.join(name);
    if target.exists() {
        let mut unique = std::ffi::OsString::from(format!("{id}-"));
        unique.push(name);
        target.set_file_name(unique);
    }
    fs::rename(path, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, name: &str, text: &str) -> (PathBuf, Version) {
        fs::write(folder.join(name), text).unwrap();
        image(folder.join(name)).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_answered_image_is_put_away_into_folders_that_may_have_gone() {
        let folder = tempfile::tempdir().unwrap();
        let id = Uuid::nil();
        let put = |name| put(folder.path(), name, "pixels");
        let (path, version) = put("a.jpg");
        assert_eq!(put_away(path, version, Then::Move, true, id), Left::Nothing);
        // Another of the same name does not replace it.
        let (path, version) = put("a.jpg");
        assert_eq!(put_away(path, version, Then::Move, true, id), Left::Nothing);
        assert_eq!(
            names(&folder.path().join(ANSWERED)),
            [format!("{id}-a.jpg"), "a.jpg".into()]
        );
        let (path, version) = put("b.jpg");
        assert_eq!(
            put_away(path, version, Then::Delete, false, id),
            Left::Nothing
        );
        assert_eq!(names(&folder.path().join(FAILED)), ["b.jpg"]);
        let (path, version) = put("c.jpg");
        assert_eq!(
            put_away(path.clone(), version, Then::Keep, true, id),
            Left::Same
        );
        assert_eq!(
            put_away(path, version, Then::Delete, true, id),
            Left::Nothing
        );
        assert_eq!(names(folder.path()), [ANSWERED, FAILED]);
    }

    #[test]
    fn an_image_that_took_the_place_of_another_stays_to_be_answered() {
        let folder = tempfile::tempdir().unwrap();
        for then in [Then::Move, Then::Delete, Then::Keep] {
            let (path, version) = put(folder.path(), "snapshot.jpg", "first");
            put(folder.path(), "snapshot.jpg", "second, and longer");
            assert_eq!(
                put_away(path, version, then, true, Uuid::nil()),
                Left::Another
            );
            assert_eq!(names(folder.path()), ["snapshot.jpg"]);
        }
        let (path, version) = put(folder.path(), "snapshot.jpg", "third");
        fs::remove_file(&path).unwrap();
        assert_eq!(
            put_away(path, version, Then::Move, true, Uuid::nil()),
            Left::Nothing
        );
    }

    #[tokio::test]
    async fn a_folder_that_was_removed_and_made_again_is_watched_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("incoming");
        let settle = Duration::from_secs(3600);
        let (tell, mut told) = mpsc::channel(TOLD);
        let teller = Teller {
            tell,
            gone: Arc::default(),
        };
        let look = |watched| look(&folder, settle, watched, &teller);
        assert!(look(None).is_err());
        let mut watcher = None;
        for name in ["a.jpg", "b.jpg"] {
            fs::create_dir(&folder).unwrap();
            let seen = look(None).unwrap();
            let id = seen.folder;
            // The one before ends.
            watcher.replace(seen.renewed.unwrap().unwrap());
            assert!(look(Some(id)).unwrap().renewed.is_none());
            let (path, _) = put(&folder, name, "pixels");
            assert_eq!(told.recv().await, Some(path.clone()));
            assert_eq!(look(Some(id)).unwrap().young, [path]);
            fs::remove_dir_all(&folder).unwrap();
            teller.gone.notified().await;
        }
        // Also one that was moved elsewhere, with another in its place.
        fs::create_dir(&folder).unwrap();
        let seen = look(None).unwrap();
        let id = seen.folder;
        watcher.replace(seen.renewed.unwrap().unwrap());
        fs::rename(&folder, parent.path().join("elsewhere")).unwrap();
        teller.gone.notified().await;
        fs::create_dir(&folder).unwrap();
        assert!(look(Some(id)).unwrap().renewed.is_some());
    }

    #[test]
    fn a_file_has_an_identifier_of_its_own_that_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, version) = put(folder.path(), "a.jpg", "pixels");
        let id = version.id(&path);
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(image(path.clone()).unwrap().1.id(&path), id);
        let (other, version) = put(folder.path(), "b.jpg", "pixels");
        assert_ne!(version.id(&other), id);
        let (path, version) = put(folder.path(), "a.jpg", "another");
        assert_ne!(version.id(&path), id);
    }

    #[test]
    fn a_file_is_whole_once_it_has_settled_whatever_the_clocks() {
        let (settle, now) = (Duration::from_secs(1), SystemTime::now());
        assert!(is_settled(now - 2 * settle, settle));
        assert!(!is_settled(now, settle));
        // A server's clock that is ahead, and a clock here that was set back.
        assert!(!is_settled(now + 5 * settle, settle));
        assert!(is_settled(now + 2 * FAR_AHEAD, settle));
    }
}
