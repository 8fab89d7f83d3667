//! Images that found no cloud: kept on disk until it is back, in `edge-agent run` with `delivery = "eventually"`.
//!
//! A thread has the file ([`store`]) and the account of what is in it ([`order`]). It makes changes in batches, each of
//! which is on disk before anybody is told. The [`courier`] sends what is worth the most of what was attempted the least;
//! what came of it, or that it was given up, is the image's last event. That one is on disk, too, until every output has
//! delivered it, so that the end of the program at any moment loses none. So is the promise of a last event about an image
//! that does not wait here: an answer that is audited, or that a late reply may correct.
//!
//! An image is on disk before it is said that it waits. The [`reserve`] is the time before its deadline that this takes.

mod clock;
mod courier;
mod order;
mod reserve;
mod store;

use std::{
    io, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use outpost_offload::Kind;
use tokio::{
    runtime::{self, Runtime},
    sync::{Notify, mpsc, oneshot},
};
use uuid::Uuid;

use crate::{
    config::QueueConfig,
    event::{Announcer, Event, SureAnnouncer},
    metrics::{Metrics, QueueOutcome},
    record::Record,
};

use clock::QueueClock;
pub(crate) use courier::carry;
use order::{Bounds, Order};
use reserve::Reserve;
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
    /// Tells the courier that somebody is there to take it.
    back: Arc<Notify>,
    reserve: Arc<AtomicU64>,
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
    Promise {
        event: Box<Event>,
        kept: oneshot::Sender<Result<(), NotKept>>,
    },
    SayLast(Box<Event>),
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
    /// or fails, that comes later. Gives the thread, which ends once all ways to the queue are gone and the outputs have done
    /// with what it announced.
    ///
    /// # Errors
    /// [`QueueError`], which names the file, where the configuration, or who else uses the file, is at fault.
    pub(crate) fn open(
        config: &QueueConfig,
        announcer: Announcer,
        metrics: Metrics,
    ) -> Result<(Self, thread::JoinHandle<()>), QueueError> {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (announcer, delivered) = SureAnnouncer::new(announcer);
        let reserve = Arc::default();
        let mut keeper = Keeper {
            store: Store::new(&config.path),
            opens_at: None,
            order: Order::new(Bounds {
                bytes: config.max_bytes,
                age: Duration::from_secs_f64(config.max_age_hours * 3600.0),
            }),
            clock: QueueClock::after(None),
            unwritten: Vec::new(),
            announcer,
            delivered,
            undelivered: 0,
            reserve: Reserve::new(Arc::clone(&reserve)),
            metrics,
        };
        match keeper.open() {
            Ok(()) => {}
            Err(error) if may_pass(&error) => keeper.do_without(&error),
            Err(error) => return Err(QueueError::new(config, error)),
        }
        let thread = thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || keeper.keep(received))
            .expect("the system starts threads");
        let queue = Self {
            commands,
            news: Arc::default(),
            back: Arc::default(),
            reserve,
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
        self.back.notify_one();
    }

    /// How long before its deadline an image is to be kept, so that it is on disk by then.
    pub(crate) fn reserve(&self) -> Duration {
        Duration::from_micros(self.reserve.load(Ordering::Relaxed))
    }

    /// Promises a last event about an image that does not wait here; returns once the promise is on disk. Unless
    /// [`Self::say_last`] comes first, the next start of the program says that what was said holds. One of the same identifier
    /// waits no longer.
    pub(crate) async fn promise(
        &self,
        id: Uuid,
        input: &str,
        record: Record,
    ) -> Result<(), NotKept> {
        let (kept, answer) = oneshot::channel();
        let event = Box::new(Event::promise(id, input, record));
        let promise = Command::Promise { event, kept };
        let sent = self.commands.send(promise).await;
        sent.map_err(|_| NotKept::Ended)?;
        answer.await.unwrap_or(Err(NotKept::Ended))
    }

    /// The last event about an image, which was promised.
    pub(crate) async fn say_last(&self, event: Event) {
        let say = Command::SayLast(Box::new(event));
        let _ = self.commands.send(say).await;
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
    announcer: SureAnnouncer,
    /// Images whose last event every output has delivered.
    delivered: mpsc::UnboundedReceiver<Uuid>,
    /// Last events that were announced and not delivered yet.
    undelivered: usize,
    reserve: Reserve,
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
            self.announce(event.or_promised());
        }
        self.give_up(&given_up, QueueOutcome::NoRoom);
        // Also where there is nothing to say: it shows how long the disk takes.
        self.settle(vec![Write::Mark(self.clock.mark())], Vec::new());
        self.shrink();
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
        let runtime = runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("one without I/O needs nothing of the system");
        while let Some(first) = self.wait(&runtime, &mut commands) {
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
                    Command::Promise { kept, .. } if self.opens_at.is_some() => {
                        let _ = kept.send(Err(NotKept::NotOpen));
                    }
                    Command::Promise { event, kept } => {
                        self.order.remove(event.id);
                        waiters.push(Waiter::Kept(event.id, kept));
                        changes.push(Write::Finish(event));
                    }
                    // What is on disk says the same.
                    Command::SayLast(event) if event.kind == Kind::Confirmation => {
                        self.announce(*event);
                    }
                    Command::SayLast(event) => waiters.push(Waiter::Finished(event)),
                    Command::Delivered(id) => self.forget(id, &mut changes),
                    Command::Next(answer) => {
                        next = Some(answer);
                        break;
                    }
                }
                command = commands.try_recv().ok();
            }
            while let Ok(id) = self.delivered.try_recv() {
                self.forget(id, &mut changes);
            }
            let expired = self.order.expire(self.clock.now());
            self.give_up(&expired, QueueOutcome::TooOld);
            self.settle(changes, waiters);
            if let Some(answer) = next {
                let next = self.next();
                let is_idle = next.is_none() && self.order.images() + self.undelivered == 0;
                let _ = answer.send(next);
                if is_idle {
                    self.shrink();
                }
            }
        }
        self.end();
    }

    /// Waits for a command; none once all ways to the queue are gone.
    fn wait(
        &mut self,
        runtime: &Runtime,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Option<Command> {
        runtime.block_on(async {
            tokio::select! {
                biased;
                command = commands.recv() => command,
                Some(id) = self.delivered.recv() => Some(Command::Delivered(id)),
            }
        })
    }

    /// Forgets what outputs still deliver; what they do not stays for the next start.
    fn end(mut self) {
        drop(self.announcer);
        while let Some(id) = self.delivered.blocking_recv() {
            let mut changes = vec![Write::Delivered(id)];
            while let Ok(id) = self.delivered.try_recv() {
                changes.push(Write::Delivered(id));
            }
            if let Err(error) = self.store.write(&changes) {
                report(&self.store, &self.metrics, &error);
            }
        }
    }

    /// Announces a last event, which is on disk until it is delivered.
    fn announce(&mut self, event: Event) {
        self.undelivered += 1;
        self.metrics.queue_undelivered(self.undelivered);
        self.announcer.announce(event);
    }

    /// A last event was delivered.
    fn forget(&mut self, id: Uuid, changes: &mut Vec<Write>) {
        self.undelivered -= 1;
        self.metrics.queue_undelivered(self.undelivered);
        changes.push(Write::Delivered(id));
    }

    /// Gives room back where little is in the file any more.
    fn shrink(&mut self) {
        if let Err(error) = self.store.shrink(self.order.bytes()) {
            self.report(&error);
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
                let began = Instant::now();
                let written = self.store.write(&changes);
                let took = began.elapsed();
                self.reserve.observe(took);
                self.metrics.queue_committed(took);
                written
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
                    self.announce(event);
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
        report(&self.store, &self.metrics, error);
    }
}

fn report(store: &Store, metrics: &Metrics, error: &redb::Error) {
    metrics.queue_failed();
    tracing::error!(queue = %store.path().display(), %error, "{}", advice(error));
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
mod tests;
