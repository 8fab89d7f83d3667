//! What changes in a folder: what the system tells, and what a look at all of it finds.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RemoveKind, RenameMode},
};
use tokio::sync::{Notify, mpsc};

use super::file::image;

/// Further than a server's clock is ahead of this machine's.
const FAR_AHEAD: Duration = Duration::from_secs(3600);

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

/// Tells which files are whole, and that the folder has gone.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    pub(super) tell: mpsc::Sender<PathBuf>,
    pub(super) gone: Arc<Notify>,
}

impl Teller {
    /// Begins to tell of the folder that is at an absolute path now, until the watcher is dropped.
    pub(super) fn watch(&self, path: &Path) -> notify::Result<RecommendedWatcher> {
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
pub(super) struct Look {
    /// Images that are whole, in order of name.
    pub(super) whole: Vec<PathBuf>,
    /// Those that may not be.
    pub(super) young: Vec<PathBuf>,
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

#[cfg(test)]
mod tests {
    use super::{super::file::tests::put, *};

    #[tokio::test]
    async fn a_folder_that_was_removed_and_made_again_is_watched_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("incoming");
        let settle = Duration::from_secs(3600);
        let (tell, mut told) = mpsc::channel(8);
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
    fn a_file_is_whole_once_it_has_settled_whatever_the_clocks() {
        let (settle, now) = (Duration::from_secs(1), SystemTime::now());
        assert!(is_settled(now - 2 * settle, settle));
        assert!(!is_settled(now, settle));
        // A server's clock that is ahead, and a clock here that was set back.
        assert!(!is_settled(now + 5 * settle, settle));
        assert!(is_settled(now + 2 * FAR_AHEAD, settle));
    }
}
