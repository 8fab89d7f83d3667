//! What the system may take its time over: the files of a folder whose server is away, say.
//!
//! It is done on a thread of its own and waited for only so long: a thread within the kernel cannot be ended.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::{JoinError, JoinHandle, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::file::{Version, image};

/// The longest that is waited: what the largest image that is taken by default, 32 MB, needs at 10 Mbit/s.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The same once the program is to end: it has others to answer meanwhile, and the file stays for the next start.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(2);

/// What came of the reading of a file.
pub(super) enum Reading {
    /// It has gone, is no file, or is the one that is known.
    Passed,
    /// An image; of more bytes than the limit allows one more than that.
    Image(Version, Bytes),
    /// It cannot be read, as it was when that was tried.
    Failed(Version, io::Error),
}

/// Does what may block; gives what waits for its end where that takes too long.
pub(super) async fn in_time<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    ending: &CancellationToken,
) -> Result<Result<T, JoinError>, JoinHandle<T>> {
    let mut work = spawn_blocking(work);
    let at_the_end = async {
        ending.cancelled().await;
        sleep(PATIENCE_AT_THE_END).await;
    };
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        () = sleep(PATIENCE) => Err(work),
        () = at_the_end => Err(work),
    }
}

/// Reads an image's file, unless it is the one that is known already; blocks.
pub(super) fn read(path: &Path, max_bytes: usize, known: Option<Version>) -> Reading {
    // Before it is opened: who waits at a pipe is not to be disturbed.
    let Some((_, version)) = image(path.to_owned()) else {
        return Reading::Passed;
    };
    if known == Some(version) {
        return Reading::Passed;
    }
    match open(path) {
        Ok(None) => Reading::Passed,
        Ok(Some((file, version))) => match bytes(file, version, max_bytes) {
            Ok(bytes) => Reading::Image(version, bytes),
            Err(error) => Reading::Failed(version, error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Reading::Passed,
        Err(error) => Reading::Failed(version, error),
    }
}

/// Opens a file without waiting for anybody; none where it is another thing by now, as a pipe.
fn open(path: &Path) -> io::Result<Option<(File, Version)>> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok(Some((file, Version::of(&metadata)?))),
        false => Ok(None),
    }
}

fn bytes(file: File, version: Version, max_bytes: usize) -> io::Result<Bytes> {
    // One over the limit is enough to know.
    let most = max_bytes.saturating_add(1);
    let expected = usize::try_from(version.bytes).unwrap_or(most).min(most);
    let mut bytes = Vec::with_capacity(expected);
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::mpsc::channel};

    use super::{super::file::tests::put, *};

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_waited_for_no_longer_and_told_when_it_ends() {
        let ending = CancellationToken::new();
        assert_eq!(in_time(|| 1, &ending).await.unwrap().unwrap(), 1);
        let (let_go, held) = channel::<()>();
        let hangs = tokio::spawn({
            let ending = ending.clone();
            async move { in_time(move || held.recv(), &ending).await }
        });
        // Time does not go on by itself while a thread blocks.
        tokio::task::yield_now().await;
        tokio::time::advance(PATIENCE).await;
        let late = hangs.await.unwrap().unwrap_err();
        let_go.send(()).unwrap();
        assert_eq!(late.await.unwrap(), Ok(()));
        // Less long at the end.
        ending.cancel();
        let (_let_go, held) = channel::<()>();
        let hangs = tokio::spawn(async move { in_time(move || held.recv(), &ending).await });
        tokio::task::yield_now().await;
        tokio::time::advance(PATIENCE_AT_THE_END).await;
        assert!(hangs.await.unwrap().is_err());
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        // As after it was looked at, and was a file then.
        assert!(open(&path).unwrap().is_none());
        assert!(matches!(read(&path, 100, None), Reading::Passed));
    }

    #[test]
    fn a_file_is_read_as_far_as_it_may_be_taken_and_known_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, version) = put(folder.path(), "a.jpg", "pixels");
        for (max_bytes, text) in [(6, "pixels"), (3, "pixe")] {
            let Reading::Image(read, bytes) = read(&path, max_bytes, None) else {
                panic!("it is an image");
            };
            assert_eq!((read, bytes), (version, Bytes::from(text)));
        }
        assert!(matches!(read(&path, 6, Some(version)), Reading::Passed));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read(&path, 6, None), Reading::Passed));
    }
}
