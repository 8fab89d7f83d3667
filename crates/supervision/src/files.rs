//! Files that are read again where they change.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{Interval, MissedTickBehavior, interval, sleep},
};

/// How long files must have stayed as they are before they are believed to be whole: a configuration that is half written
/// may parse, and a certificate comes before its key.
const SETTLE: Duration = Duration::from_secs(1);

/// Digests of files as they were at a time. One that cannot be read counts as empty: reading it says why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digests(BTreeMap<PathBuf, [u8; 32]>);

impl Digests {
    /// Of the files as they are now.
    pub fn of<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let mut digests = Self::default();
        digests.add(paths);
        digests
    }

    /// Adds files as they are now; those that are known stay as they were.
    pub fn add<P: AsRef<Path>>(&mut self, paths: impl IntoIterator<Item = P>) {
        for path in paths {
            let path = path.as_ref();
            if !self.0.contains_key(path) {
                let bytes = fs::read(path).unwrap_or_default();
                self.0.insert(path.to_owned(), Sha256::digest(bytes).into());
            }
        }
    }

    /// Files of both that are not now as they were `before`.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Path> {
        let is_other = |(path, digest): &(&PathBuf, &[u8; 32])| {
            before.0.get(*path).is_some_and(|before| before != *digest)
        };
        self.0
            .iter()
            .filter(is_other)
            .map(|(path, _)| path.as_path())
    }

    /// Of the same files as they are now.
    pub fn again(&self) -> Self {
        Self::of(self.0.keys())
    }

    /// The same off the async threads: files may be large, and disks slow.
    async fn look(&self) -> Self {
        let before = self.clone();
        let digests = spawn_blocking(move || before.again()).await;
        digests.expect("a digest does not panic")
    }
}

/// Looks at files every so often, and listens for SIGHUP.
#[derive(Debug)]
pub struct Watch {
    looks: Interval,
    /// None where the system has no such signal to give.
    hangups: Option<Signal>,
}

/// Why files are to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// SIGHUP came, whether they changed or not.
    Hangup,
    /// They changed, and have stayed so for a moment.
    Changed,
    /// The time of a look has come, and they did not change.
    Look,
}

impl Watch {
    /// Looks every so often, for the first time after that. Must be called in a tokio runtime; from then on SIGHUP does not
    /// end the program.
    ///
    /// # Errors
    /// The system's, where it gives no signals; it can then be left at looks with [`Watch::without_signal`].
    pub fn new(every: Duration) -> io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        Ok(Self {
            hangups: Some(hangups),
            ..Self::without_signal(every)
        })
    }

    /// Looks every so often, for the first time after that, and hears no signal.
    pub fn without_signal(every: Duration) -> Self {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, and the files were just read.
        looks.reset();
        Self {
            looks,
            hangups: None,
        }
    }

    /// Waits until the files are to be read again, or a look finds them as they were.
    pub async fn next(&mut self, seen: &Digests) -> Call {
        tokio::select! {
            () = heard(&mut self.hangups) => return Call::Hangup,
            _ = self.looks.tick() => {}
        }
        let mut now = seen.look().await;
        if now == *seen {
            return Call::Look;
        }
        loop {
            sleep(SETTLE).await;
            let later = seen.look().await;
            if later == now {
                break;
            }
            now = later;
        }
        // One that was changed back is as it was.
        match now == *seen {
            true => Call::Look,
            false => Call::Changed,
        }
    }
}

async fn heard(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once_the_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let missing = folder.path().join("missing");
        fs::write(&path, "first").unwrap();
        let seen = Digests::of([&path, &missing]);
        let mut watch = Watch::without_signal(Duration::from_secs(60));
        assert_eq!(watch.next(&seen).await, Call::Look);
        fs::write(&path, "sec").unwrap();
        let whole = async {
            sleep(Duration::from_millis(60_500)).await;
            fs::write(&path, "second").unwrap();
        };
        let (call, ()) = tokio::join!(watch.next(&seen), whole);
        assert_eq!(call, Call::Changed);
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        let seen = seen.again();
        fs::write(&missing, "there").unwrap();
        assert_eq!(watch.next(&seen).await, Call::Changed);
        assert_eq!(watch.next(&seen.again()).await, Call::Look);
    }

    #[test]
    fn a_file_that_is_known_stays_as_it_was_first_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge-agent.toml");
        fs::write(&path, "before").unwrap();
        let mut seen = Digests::of([&path]);
        fs::write(&path, "after").unwrap();
        seen.add([&path]);
        assert_ne!(seen, seen.again());
    }
}
