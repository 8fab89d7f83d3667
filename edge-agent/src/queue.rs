//! Images that found no cloud: kept on disk until it is back, in `edge-agent run` with `delivery = "eventually"`.
//!
//! A thread has the file ([`store`]) and the account of what is in it ([`order`]). It makes changes in batches, each of
//! which is on disk before anybody is told. The [`courier`] sends what is worth the most of what was attempted the least;
//! what came of it, or that it was given up, is the image's last event. That one is on disk, too, until every output has
//! delivered it, so that the end of the program at any moment loses none.

mod clock;
mod courier;
mod order;
mod store;

use std::{
    io, mem,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use outpost_offload::Kind;
use tokio::sync::{Notify, mpsc, oneshot};

use uuid::Uuid;

use crate::{
    config::QueueConfig,
    event::{Announcer, Event},
    metrics::{Metrics, QueueOutcome},
    record::Record,
};

use clock::QueueClock;
pub(crate) use courier::carry;
use order::{Bounds, Order};
pub(crate) use store::{Entry, Present};
use store::{Left, Store, Write, is_damage};

/// Commands that may wait for the thread; whoever has another waits with it.
const COMMANDS: usize = 64;
/// Pause between attempts to open the file. The courier asks as often.
const OPEN_EVERY: Duration = Duration::from_secs(30);

/// The queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the queue {}: {advice}", path.display())]
pub struct QueueError {
    path: PathBuf,
    pub(crate) advice: &'static str,
    pub(crate) source: Box<redb::Error>,
}

/// An image was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    /// Those that wait are worth more, and there is no room beside them.
    #[error("there is no room beside images that are worth more")]
    NoRoom,
    /// The file could not be opened yet.
    #[error("the queue could not be opened yet")]
    NotOpen,
    /// The file cannot be written.
    #[error(transparent)]
    Store(Arc<redb::Error>),
    /// The program ends.
    #[error("the program ends")]
    Ended,
}

/// The way to the queue. Clones share it.
#[derive(Clone)]
pub(crate) struct Queue {
    commands: mpsc::Sender<Command>,
    /// Tells the courier that there may be something to send.
    news: Arc<Notify>,
}

enum Command {
    Keep {
        entry: Box<Entry>,
        image: Bytes,
        kept: oneshot::Sender<Result<(), NotKept>>,
    },
    Release(Uuid),
    Attempted(Uuid),
    Next(oneshot::Sender<Option<(Entry, Bytes)>>),
    Finish {
        entry: Box<Entry>,
        record: Option<Record>,
    },
    Delivered(Uuid),
}

impl QueueError {
    fn new(config: &QueueConfig, source: redb::Error) -> Self {
        Self {
            path: config.path.clone(),
            advice: advice(&source),
            source: Box::new(source),
        }
    }
}

impl Queue {
    /// What [`Self::open`] would find; nothing is changed.
    ///
    /// # Errors
    /// [`QueueError`] where no image would be kept.
    pub(crate) fn look(config: &QueueConfig) -> Result<Present, QueueError> {
        store::look(&config.path).map_err(|error| QueueError::new(config, error))
    }

    /// Opens the queue and announces what may not have been delivered when the program last ended; where the disk has no room
    /// or fails, that comes later. Gives the thread, which ends once all ways to the queue are gone.
    ///
    /// # Errors
    /// [`QueueError`], which names the file, where the configuration, or who else uses the file, is at fault.
    pub(crate) fn open(
        config: &QueueConfig,
        announcer: Announcer,
        metrics: Metrics,
    ) -> Result<(Self, thread::JoinHandle<()>), QueueError> {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (announce, mut announced) = mpsc::unbounded_channel::<Event>();
        let mut keeper = Keeper {
            store: Store::new(&config.path),
            opens_at: None,
            order: Order::new(Bounds {
                bytes: config.max_bytes,
                age: Duration::from_secs_f64(config.max_age_hours * 3600.0),
            }),
            clock: QueueClock::after(None),
            unwritten: Vec::new(),
            announce,
            metrics,
        };
        match keeper.open() {
            Ok(()) => {}
            Err(error) if may_pass(&error) => keeper.do_without(&error),
            Err(error) => return Err(QueueError::new(config, error)),
        }
        // What is announced is delivered in order, and then forgotten. What an output gives up stays for the next start.
        let delivered = commands.downgrade();
        tokio::spawn(async move {
            while let Some(event) = announced.recv().await {
                let id = event.id;
                let is_delivered = announcer.announce_surely(event).await;
                if is_delivered && let Some(commands) = delivered.upgrade() {
                    let _ = commands.send(Command::Delivered(id)).await;
                }
            }
        });
        let thread = thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || keeper.keep(received))
            .expect("the system starts threads");
        let queue = Self {
            commands,
            news: Arc::default(),
        };
        Ok((queue, thread))
    }

    /// Keeps an image; returns once it is on disk. It is not sent before [`Self::release`].
    pub(crate) async fn keep(&self, entry: Entry, image: Bytes) -> Result<(), NotKept> {
        let (kept, answer) = oneshot::channel();
        let command = Command::Keep {
            entry: Box::new(entry),
            image,
            kept,
        };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| NotKept::Ended)?;
        answer.await.unwrap_or(Err(NotKept::Ended))
    }

    /// An image may be sent.
    pub(crate) async fn release(&self, id: Uuid) {
        let _ = self.commands.send(Command::Release(id)).await;
        self.news.notify_one();
    }

    /// The cloud was reached: it may take what waits.
    pub(crate) fn cloud_is_back(&self) {
        self.news.notify_one();
    }

    /// An attempt at an image failed, maybe by its doing: others go first.
    async fn attempted(&self, id: Uuid) {
        let _ = self.commands.send(Command::Attempted(id)).await;
    }

    /// The image that is sent next, where one waits.
    async fn next(&self) -> Option<(Entry, Bytes)> {
        let (next, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Next(next)).await;
        answer.await.ok().flatten()
    }

    /// What came of an image, or that what was said about it holds. Says nothing where that was said already.
    pub(crate) async fn finish(&self, entry: Entry, record: Option<Record>) {
        let entry = Box::new(entry);
        let finish = Command::Finish { entry, record };
        let _ = self.commands.send(finish).await;
    }
}

/// The thread that has the file.
struct Keeper {
    store: Store,
    /// When it is tried next to open the file; none once it was opened.
    opens_at: Option<Instant>,
    order: Order,
    /// By which images grow old.
    clock: QueueClock,
    /// Last events that a full disk did not take.
    unwritten: Vec<Event>,
    announce: mpsc::UnboundedSender<Event>,
    metrics: Metrics,
}

/// Whoever waits for a change to be on disk.
enum Waiter {
    Kept(Uuid, oneshot::Sender<Result<(), NotKept>>),
    Finished(Box<Event>),
}

impl Keeper {
    /// Opens the file and takes up what an earlier run of the program left.
    fn open(&mut self) -> Result<(), redb::Error> {
        let Left {
            entries,
            finals,
            mark,
        } = self.store.load()?;
        tracing::info!(
            queue = %self.store.path().display(), images = entries.len(),
            "images that found no cloud wait here"
        );
        self.opens_at = None;
        self.clock = QueueClock::after(mark.as_ref());
        let mut given_up = Vec::new();
        for entry in &entries {
            let making_way = self.insert(entry, entry.age(self.clock.now()));
            given_up.extend(making_way);
        }
        for event in finals {
            let _ = self.announce.send(event);
        }
        self.give_up(&given_up, QueueOutcome::NoRoom);
        self.settle(Vec::new(), Vec::new());
        Ok(())
    }

    /// Keeps no images until the file can be opened.
    fn do_without(&mut self, error: &redb::Error) {
        self.opens_at = Some(Instant::now() + OPEN_EVERY);
        self.metrics.queue_failed();
        tracing::error!(
            queue = %self.store.path().display(), %error,
            "images that find no cloud are not kept until the queue can be opened: {}", advice(error)
        );
    }

    /// Opens the file where it is not open and it is time to try again.
    fn open_late(&mut self) {
        if self.opens_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        if let Err(error) = self.open() {
            self.do_without(&error);
        }
    }

    fn keep(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            self.open_late();
            let mut changes = Vec::new();
            let mut waiters = Vec::new();
            let mut next = None;
            let mut command = Some(first);
            // What has come meanwhile goes to the disk in one go.
            while let Some(one) = command {
                match one {
                    Command::Keep { kept, .. } if self.opens_at.is_some() => {
                        let _ = kept.send(Err(NotKept::NotOpen));
                    }
                    Command::Keep {
                        mut entry,
                        image,
                        kept,
                    } => {
                        let id = entry.id;
                        entry.taken_ms = self.clock.now_ms();
                        let making_way = self.insert(&entry, Duration::ZERO);
                        self.order.hold(id, true);
                        let (own, others): (Vec<Uuid>, Vec<Uuid>) =
                            making_way.into_iter().partition(|&other| other == id);
                        if !others.is_empty() {
                            // Those that make way may have come just now.
                            self.settle(mem::take(&mut changes), mem::take(&mut waiters));
                            self.give_up(&others, QueueOutcome::NoRoom);
                        }
                        if own.is_empty() {
                            changes.push(Write::Keep(entry, image));
                            waiters.push(Waiter::Kept(id, kept));
                        } else {
                            let _ = kept.send(Err(NotKept::NoRoom));
                        }
                    }
                    Command::Release(id) => self.order.hold(id, false),
                    Command::Attempted(id) => self.order.attempted(id),
                    Command::Finish { entry, record } => {
                        if self.order.remove(entry.id) {
                            let outcome = match record {
                                Some(_) => QueueOutcome::Answered,
                                None => QueueOutcome::Refused,
                            };
                            self.metrics.left_queue(outcome);
                            let event = Box::new(last(*entry, record));
                            waiters.push(Waiter::Finished(event));
                        }
                    }
                    Command::Delivered(id) => changes.push(Write::Delivered(id)),
                    Command::Next(answer) => {
                        next = Some(answer);
                        break;
                    }
                }
                command = commands.try_recv().ok();
            }
            let expired = self.order.expire(self.clock.now());
            self.give_up(&expired, QueueOutcome::TooOld);
            self.settle(changes, waiters);
            if let Some(next) = next {
                let _ = next.send(self.next());
            }
        }
    }

    fn insert(&mut self, entry: &Entry, age: Duration) -> Vec<Uuid> {
        let now = self.clock.now();
        self.order
            .insert(entry.id, entry.value, entry.bytes, age, now)
    }

    /// What was said about images that have left the account holds.
    fn give_up(&mut self, images: &[Uuid], outcome: QueueOutcome) {
        for &id in images {
            self.metrics.left_queue(outcome);
            match self.store.entry(id) {
                Ok(Some(entry)) => self.unwritten.push(last(entry, None)),
                Ok(None) => {}
                Err(error) => self.report(&error),
            }
        }
    }

    /// Writes changes and the last events about images, and tells who waits for that. Events that cannot be written are
    /// tried again with the next changes; their images stay in the file until then.
    fn settle(&mut self, mut changes: Vec<Write>, waiters: Vec<Waiter>) {
        let mut kept = Vec::new();
        for waiter in waiters {
            match waiter {
                Waiter::Kept(id, answer) => kept.push((id, answer)),
                Waiter::Finished(event) => self.unwritten.push(*event),
            }
        }
        let events = mem::take(&mut self.unwritten);
        changes.extend(events.iter().cloned().map(Box::new).map(Write::Finish));
        let written = match changes.is_empty() {
            true => Ok(()),
            false => {
                changes.push(Write::Mark(self.clock.mark()));
                self.store.write(&changes)
            }
        };
        if written.is_err() {
            for (id, _) in &kept {
                self.order.remove(*id);
            }
        }
        // Before anybody is told: who asks then sees it.
        self.metrics.queued(self.order.images(), self.order.bytes());
        match written {
            Ok(()) => {
                for event in events {
                    let _ = self.announce.send(event);
                }
                for (_, answer) in kept {
                    let _ = answer.send(Ok(()));
                }
            }
            Err(error) => {
                self.report(&error);
                self.unwritten = events;
                let error = Arc::new(error);
                for (_, answer) in kept {
                    let _ = answer.send(Err(NotKept::Store(error.clone())));
                }
            }
        }
    }

    fn next(&mut self) -> Option<(Entry, Bytes)> {
        while let Some(id) = self.order.next() {
            match self.store.image(id) {
                Ok(Some((mut entry, image))) => {
                    entry.waited = entry.age(self.clock.now());
                    entry.attempts = self.order.attempts(id);
                    return Some((entry, image));
                }
                // Of another version of the program.
                Ok(None) => self.order.remove(id),
                Err(error) => {
                    self.report(&error);
                    return None;
                }
            };
        }
        None
    }

    fn report(&self, error: &redb::Error) {
        self.metrics.queue_failed();
        tracing::error!(queue = %self.store.path().display(), %error, "{}", advice(error));
    }
}

/// The last event about an image: what came of it, or that what was said holds.
fn last(entry: Entry, record: Option<Record>) -> Event {
    match record {
        Some(record) => Event::last(entry.id, &entry.input, Kind::Correction, record),
        None => Event::last(entry.id, &entry.input, Kind::Confirmation, entry.record),
    }
}

/// Whether the file may be opened later: the disk is at fault, and not what the configuration says.
fn may_pass(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(failure) => !is_of_the_path(failure.kind()) && !is_damage(error),
        redb::Error::PreviousIo => true,
        _ => false,
    }
}

/// Whether a path is wrong, or its folder.
fn is_of_the_path(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
    )
}

/// What to do about an error.
fn advice(error: &redb::Error) -> &'static str {
    let kind = match error {
        redb::Error::DatabaseAlreadyOpen => {
            return "another edge-agent uses it: give each its own `queue.path`";
        }
        redb::Error::Io(error) => error.kind(),
        redb::Error::PreviousIo => io::ErrorKind::Other,
        _ => io::ErrorKind::InvalidData,
    };
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: make room, or lower `queue.max_bytes`"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the disk is read-only: mount it for writing, or name another place as `queue.path`"
        }
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            "it is no queue of this version: move it away, and a new one is begun"
        }
        io::ErrorKind::IsADirectory => {
            "a folder has its name: move that away, or name another file as `queue.path`"
        }
        kind if is_of_the_path(kind) => {
            "make its folder, and give this program the right to write to that and to the file"
        }
        _ => "the disk fails: see the system's log",
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::{store::tests::entry, *};
    use crate::event::WayIn;

    fn keeper(path: &Path) -> (Keeper, mpsc::UnboundedReceiver<Event>) {
        let (announce, announced) = mpsc::unbounded_channel();
        let keeper = Keeper {
            store: Store::new(path),
            opens_at: None,
            order: Order::new(Bounds {
                bytes: 1000,
                age: Duration::from_secs(3600),
            }),
            clock: QueueClock::after(None),
            unwritten: Vec::new(),
            announce,
            metrics: Metrics::default(),
        };
        (keeper, announced)
    }

    /// What a keeper says to an image, the last thing that it does.
    fn keep(keeper: Keeper) -> Result<(), NotKept> {
        let (entry, image) = entry(Uuid::from_u128(1));
        let (commands, received) = mpsc::channel(1);
        let (kept, answer) = oneshot::channel();
        let command = Command::Keep {
            entry: Box::new(entry),
            image,
            kept,
        };
        assert!(commands.blocking_send(command).is_ok());
        drop(commands);
        keeper.keep(received);
        answer.blocking_recv().unwrap()
    }

    #[tokio::test]
    async fn last_events_that_an_output_gives_up_are_said_again_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let config = QueueConfig {
            path: folder.path().join("queue.redb"),
            ..QueueConfig::default()
        };
        for start in 0..2 {
            let (output, mut taken) = WayIn::new("file", 1, &Metrics::default());
            let announcer = Announcer::new([output]);
            let (queue, thread) = Queue::open(&config, announcer, Metrics::default()).unwrap();
            if start == 0 {
                for id in [1, 2] {
                    let (entry, image) = entry(Uuid::from_u128(id));
                    queue.keep(entry.clone(), image).await.unwrap();
                    queue.finish(entry, None).await;
                }
            }
            // The second comes once the first is over.
            for id in [1, 2] {
                let event = taken.recv().await.unwrap();
                assert_eq!(event.id.as_u128(), id);
            }
            drop(queue);
            let ended = tokio::task::spawn_blocking(|| thread.join());
            ended.await.unwrap().unwrap();
        }
    }

    #[test]
    fn a_disk_that_fails_at_the_start_is_tried_again_and_until_then_nothing_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        let path = disk.join("queue.redb");
        // One on which nothing can be done: it leads to itself.
        symlink(&disk, &disk).unwrap();
        let without = || {
            let (mut keeper, announced) = keeper(&path);
            let error = keeper.open().unwrap_err();
            assert!(may_pass(&error), "{error}");
            keeper.do_without(&error);
            (keeper, announced)
        };
        assert!(matches!(keep(without().0), Err(NotKept::NotOpen)));
        let (mut keeper, _announced) = without();
        fs::remove_file(&disk).unwrap();
        fs::create_dir(&disk).unwrap();
        keeper.open_late();
        assert!(keeper.opens_at.is_some(), "too soon");
        keeper.opens_at = Some(Instant::now());
        keeper.open_late();
        assert!(keeper.opens_at.is_none());
        keep(keeper).unwrap();
    }

    #[test]
    fn what_the_configuration_says_wrong_does_not_pass() {
        let folder = tempfile::tempdir().unwrap();
        let (mut of_no_folder, _announced) = keeper(&folder.path().join("no/such/queue"));
        assert!(!may_pass(&of_no_folder.open().unwrap_err()));
        let path = folder.path().join("queue.redb");
        let (mut first, _announced) = keeper(&path);
        first.open().unwrap();
        let (mut second, _announced) = keeper(&path);
        assert!(!may_pass(&second.open().unwrap_err()));
    }
}
