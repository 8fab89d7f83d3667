//! What changes in a folder: what the system tells, and what a look at all of it finds.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode},
};
use tokio::sync::{Notify, mpsc};

use super::file::{Version, image, is_settled};
use crate::paths::has_image_extension;

/// Files told of that may wait to be heard.
const TOLD: usize = 1024;
/// The longest that a writer may pause before its file is believed to be whole though nobody told that it was closed: far
/// longer than anything takes that is still at work.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Whether the system tells that files are closed: inotify does.
const TELLS_OF_CLOSING: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Tells a folder from another at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FolderId {
    pub(super) device: u64,
    inode: u64,
}

impl FolderId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// Tells which files are whole, which are not, and that the folder has gone. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    tell: mpsc::Sender<PathBuf>,
    pub(super) gone: Arc<Notify>,
    /// Files that were written to and not closed or moved since, and when that was told last.
    written: Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl Teller {
    /// One, and where it tells of files that are whole.
    pub(super) fn new() -> (Self, mpsc::Receiver<PathBuf>) {
        let (tell, told) = mpsc::channel(TOLD);
        let teller = Self {
            tell,
            gone: Arc::default(),
            written: Arc::default(),
        };
        (teller, told)
    }

    /// Whether a file is not whole, as the system told of its writer and not of the end of that.
    pub(super) fn is_being_written(&self, path: &Path) -> bool {
        let written = self.written();
        let told = written.get(path);
        told.is_some_and(|told| told.elapsed() < LONGEST_PAUSE)
    }

    /// Begins to tell of the folder that is at an absolute path now, until the watcher is dropped.
    pub(super) fn watch(&self, path: &Path) -> notify::Result<RecommendedWatcher> {
        // What was told of another folder says nothing of this one.
        self.written().clear();
        let (teller, folder) = (self.clone(), path.to_owned());
        let mut watcher = notify::recommended_watcher(move |event| {
            let Some(event) = heard(event) else { return };
            if has_gone(&event, &folder) {
                // Another that has its number already is another nonetheless.
                teller.gone.notify_one();
            }
            teller.note(&event);
            for path in whole(event) {
                if !has_image_extension(&path) {
                    continue;
                }
                // What is not heard is seen at the next look at all of the folder.
                let _ = teller.tell.try_send(path);
            }
        })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }

    /// Notes which files are being written.
    fn note(&self, event: &notify::Event) {
        if !TELLS_OF_CLOSING {
            return;
        }
        let mut written = self.written();
        if event.need_rescan() {
            // Not all was told: of none is it known.
            written.clear();
        }
        let images = event.paths.iter().filter(|path| has_image_extension(path));
        match event.kind {
            // A link is made, too, and has its bytes at once; nobody will close it.
            EventKind::Create(CreateKind::File) => {
                let is_empty = |path: &&PathBuf| fs::metadata(path).is_ok_and(|of| of.len() == 0);
                written.extend(
                    images
                        .filter(is_empty)
                        .map(|path| (path.clone(), Instant::now())),
                );
            }
            EventKind::Modify(ModifyKind::Data(_)) => {
                written.extend(images.map(|path| (path.clone(), Instant::now())));
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => images.for_each(|path| {
                written.remove(path);
            }),
            _ => {}
        }
    }

    fn written(&self) -> MutexGuard<'_, HashMap<PathBuf, Instant>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look at all of a folder finds.
pub(super) struct Look {
    /// Images that are whole, in order of name.
    pub(super) whole: Vec<(PathBuf, Version)>,
    /// Those that may not be, as they changed a moment ago.
    pub(super) young: Vec<PathBuf>,
    /// Those that are not.
    pub(super) written: Vec<PathBuf>,
    /// Which folder it is.
    pub(super) folder: FolderId,
    /// Where that is another than the one that is watched: what watches it from now on.
    pub(super) renewed: Option<notify::Result<RecommendedWatcher>>,
}

/// Looks at all of a folder; blocks.
pub(super) fn look(
    path: &Path,
    settle: Duration,
    watched: Option<FolderId>,
    teller: &Teller,
) -> io::Result<Look> {
    let folder = FolderId::of(path)?;
    // Before its images are listed: of those that come after that the system tells.
    let renewed = (watched != Some(folder)).then(|| teller.watch(path));
    let (mut whole, mut young, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for entry in fs::read_dir(path)? {
        let Some((path, version)) = image(entry?.path()) else {
            continue;
        };
        if teller.is_being_written(&path) {
            written.push(path);
        } else if is_settled(version.modified, settle) {
            whole.push((path, version));
        } else {
            young.push(path);
        }
    }
    whole.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Look {
        whole,
        young,
        written,
        folder,
        renewed,
    })
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

#[cfg(test)]
mod tests {
    use super::{super::file::tests::put, *};

    #[tokio::test]
    async fn a_folder_that_was_removed_and_made_again_is_watched_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("incoming");
        let settle = Duration::from_secs(3600);
        let (teller, mut told) = Teller::new();
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

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn a_file_is_not_whole_by_age_while_it_is_open_to_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let (teller, mut told) = Teller::new();
        let _watcher = teller.watch(folder.path()).unwrap();
        let id = FolderId::of(folder.path()).unwrap();
        let look = || look(folder.path(), Duration::ZERO, Some(id), &teller).unwrap();
        // Of a link nobody is told that it was closed.
        let aside = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
        fs::write(&aside, "pixels").unwrap();
        let link = folder.path().join("link.jpg");
        fs::hard_link(&aside, &link).unwrap();
        for name in ["empty.jpg", "half.jpg"] {
            let path = folder.path().join(name);
            let mut file = fs::File::create(&path).unwrap();
            if name == "half.jpg" {
                io::Write::write_all(&mut file, b"half").unwrap();
            }
            let started = Instant::now();
            while !teller.is_being_written(&path) {
                assert!(started.elapsed() < Duration::from_secs(10));
                tokio::task::yield_now().await;
            }
            assert!(told.try_recv().is_err());
            drop(file);
            assert_eq!(told.recv().await, Some(path.clone()));
            assert!(!teller.is_being_written(&path));
        }
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(folder.path().join("half.jpg"))
            .unwrap();
        io::Write::write_all(&mut file, b"more").unwrap();
        let started = Instant::now();
        let half = folder.path().join("half.jpg");
        while look().written != [half.clone()] {
            assert!(started.elapsed() < Duration::from_secs(10));
        }
        drop(file);
        assert_eq!(told.recv().await, Some(half.clone()));
        let whole: Vec<PathBuf> = look().whole.into_iter().map(|(path, _)| path).collect();
        assert_eq!(whole, [folder.path().join("empty.jpg"), half, link]);
    }
}
