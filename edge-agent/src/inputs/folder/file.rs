//! The files of a folder: which are images, which is which, and where they go once they are answered.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{config::Then, paths::has_image_extension};

/// Subfolders for images that were answered, and for those without an answer.
pub(super) const ANSWERED: &str = "answered";
pub(super) const FAILED: &str = "failed";
/// Further than a server's clock is ahead of this machine's.
const FAR_AHEAD: Duration = Duration::from_secs(3600);

/// A file as it was at some time: another has another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    pub(super) modified: SystemTime,
    pub(super) bytes: u64,
    inode: u64,
    /// When it was last written, moved, or given rights or links: seconds and nanoseconds since 1970.
    changed: (i64, i64),
}

/// `changed` is no part of it: new rights, as a backup's link, make no other image.
impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        let told_apart = |of: &Self| (of.modified, of.bytes, of.inode);
        told_apart(self) == told_apart(other)
    }
}

impl Version {
    pub(super) fn of(metadata: &fs::Metadata) -> io::Result<Self> {
        Ok(Self {
            modified: metadata.modified()?,
            bytes: metadata.len(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The identifier of the image that the file is: the same after a crash, which may have come after its answer and
    /// before it was put away; another where the file was put there again, which changes it.
    pub(super) fn id(&self, path: &Path) -> Uuid {
        let since_1970 = self.modified.duration_since(SystemTime::UNIX_EPOCH);
        let since_1970 = since_1970.unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update(since_1970.as_nanos().to_le_bytes());
        hash.update(self.bytes.to_le_bytes());
        hash.update(self.inode.to_le_bytes());
        hash.update(self.changed.0.to_le_bytes());
        hash.update(self.changed.1.to_le_bytes());
        let mut rest = [0; 10];
        rest.copy_from_slice(&hash.finalize()[..10]);
        uuid::Builder::from_unix_timestamp_millis(since_1970.as_millis() as u64, &rest).into_uuid()
    }
}

/// What is where an image was found, once it has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Same,
    Another,
}

/// A path and its file's version, where it is an image's.
pub(super) fn image(path: PathBuf) -> Option<(PathBuf, Version)> {
    if !has_image_extension(&path) {
        return None;
    }
    let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    Some((path, Version::of(&metadata).ok()?))
}

/// How many files of a folder are not called as images and are not being written, and one of them; blocks.
pub(super) fn others(folder: &Path, settle: Duration) -> Option<(usize, PathBuf)> {
    let entries = fs::read_dir(folder).ok()?;
    let others = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let (path, name) = (entry.path(), entry.file_name());
        // What begins with a dot is meant to be passed over.
        if has_image_extension(&path) || name.as_encoded_bytes().starts_with(b".") {
            return None;
        }
        let metadata = fs::metadata(&path).ok()?;
        let is_settled = metadata
            .modified()
            .is_ok_and(|modified| is_settled(modified, settle));
        (metadata.is_file() && is_settled).then_some(path)
    });
    let others: Vec<PathBuf> = others.collect();
    let example = others.iter().min()?.clone();
    Some((others.len(), example))
}

/// Whether a file has not changed for a while; one from far in the future, of a clock that was set back, has not.
pub(super) fn is_settled(modified: SystemTime, settle: Duration) -> bool {
    match SystemTime::now().duration_since(modified) {
        Ok(age) => age >= settle,
        Err(ahead) => ahead.duration() > FAR_AHEAD,
    }
}

/// Does with an image what is to be done once it has been answered; leaves another that has taken its place.
pub(super) fn put_away(
    path: PathBuf,
    version: Version,
    then: Then,
    is_answered: bool,
    id: Uuid,
) -> Left {
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
pub(super) mod tests {
    use super::*;

    pub(in crate::inputs::folder) fn put(
        folder: &Path,
        name: &str,
        text: &str,
    ) -> (PathBuf, Version) {
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
    fn a_file_that_is_put_there_again_has_another_identifier() {
        let folder = tempfile::tempdir().unwrap();
        let (path, version) = put(folder.path(), "a.jpg", "pixels");
        let away = folder.path().join("away.jpg");
        // What tells times apart may be as coarse as a tick of the kernel's clock.
        until_another(|| {
            fs::rename(&path, &away).unwrap();
            fs::rename(&away, &path).unwrap();
            let (_, again) = image(path.clone()).unwrap();
            // It is the same file nonetheless, and is put away as that.
            assert_eq!(again, version);
            again.id(&path) != version.id(&path)
        });
    }

    fn until_another(mut is_another: impl FnMut() -> bool) {
        let started = std::time::Instant::now();
        while !is_another() {
            assert!(started.elapsed() < Duration::from_secs(10));
        }
    }

    #[test]
    fn files_that_are_not_called_as_images_are_counted_but_for_folders_and_hidden_ones() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "a.jpg", "pixels");
        fs::create_dir(folder.path().join(FAILED)).unwrap();
        fs::write(folder.path().join(".hidden"), "").unwrap();
        assert_eq!(others(folder.path(), Duration::ZERO), None);
        for name in ["c.heic", "b.gif"] {
            fs::write(folder.path().join(name), "pixels").unwrap();
        }
        let (count, example) = others(folder.path(), Duration::ZERO).unwrap();
        assert_eq!((count, example), (2, folder.path().join("b.gif")));
        // They may be called otherwise once they are whole.
        assert_eq!(others(folder.path(), Duration::from_secs(3600)), None);
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
