use std::{fs, os::unix::fs::symlink, path::Path};

use super::{store::tests::entry, *};
use crate::event::{Undelivered, WayIn};

fn keeper(path: &Path) -> Keeper {
    let (announcer, delivered) = SureAnnouncer::new(Announcer::new([]));
    Keeper {
        store: Store::new(path),
        opens_at: None,
        order: Order::new(Bounds {
            bytes: 1000,
            age: Duration::from_secs(3600),
        }),
        clock: QueueClock::after(None),
        unwritten: Vec::new(),
        announcer,
        delivered,
        undelivered: 0,
        reserve: Reserve::new(Arc::default()),
        metrics: Metrics::default(),
    }
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
        for id in [1, 2] {
            let event = taken.recv().await.unwrap();
            assert_eq!(event.id.as_u128(), id);
        }
        drop(queue);
        let ended = tokio::task::spawn_blocking(|| thread.join());
        ended.await.unwrap().unwrap();
    }
}

/// The start of a program with one output, until its end.
struct Started {
    queue: Queue,
    thread: thread::JoinHandle<()>,
    output: mpsc::Receiver<Undelivered>,
}

impl Started {
    fn new(path: &Path) -> Self {
        let config = QueueConfig {
            path: path.to_owned(),
            ..QueueConfig::default()
        };
        let metrics = Metrics::default();
        let (way_in, output) = WayIn::new("file", 1, &metrics);
        let announcer = Announcer::new([way_in]);
        let (queue, thread) = Queue::open(&config, announcer, metrics).unwrap();
        Self {
            queue,
            thread,
            output,
        }
    }

    /// Ends it; gives what came to the output until then, all of which it delivered.
    async fn end(mut self) -> Vec<(u128, Kind)> {
        drop(self.queue);
        let mut came = Vec::new();
        while let Some(event) = self.output.recv().await {
            assert!(event.is_final);
            came.push((event.id.as_u128(), event.kind));
            event.delivered();
        }
        let ended = tokio::task::spawn_blocking(|| self.thread.join());
        ended.await.unwrap().unwrap();
        came
    }
}

#[tokio::test]
async fn a_promised_last_word_is_said_at_the_next_start_where_none_was_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.redb");
    let record = || entry(Uuid::nil()).0.record;
    let started = Started::new(&path);
    for id in [1, 2, 3] {
        let promised = started.queue.promise(Uuid::from_u128(id), "api", record());
        promised.await.unwrap();
    }
    // As the program leaves it that is killed now.
    let killed = folder.path().join("killed.redb");
    fs::copy(&path, &killed).unwrap();
    for (id, kind) in [(1, Kind::Correction), (2, Kind::Confirmation)] {
        let last = Event::last(Uuid::from_u128(id), "api", kind, record());
        started.queue.say_last(last).await;
    }
    let mut said = started.end().await;
    said.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(said, [(1, Kind::Correction), (2, Kind::Confirmation)]);
    // What was delivered while the program ended is forgotten, too.
    for (path, left) in [(&path, &[3][..]), (&killed, &[1, 2, 3])] {
        let said = Started::new(path).end().await;
        let confirmed: Vec<_> = left.iter().map(|&id| (id, Kind::Confirmation)).collect();
        assert_eq!(said, confirmed);
        assert!(Started::new(path).end().await.is_empty());
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
        let mut keeper = keeper(&path);
        let error = keeper.open().unwrap_err();
        assert!(may_pass(&error), "{error}");
        keeper.do_without(&error);
        keeper
    };
    assert!(matches!(keep(without()), Err(NotKept::NotOpen)));
    let mut keeper = without();
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
    let mut of_no_folder = keeper(&folder.path().join("no/such/queue"));
    assert!(!may_pass(&of_no_folder.open().unwrap_err()));
    let path = folder.path().join("queue.redb");
    let mut first = keeper(&path);
    first.open().unwrap();
    let mut second = keeper(&path);
    assert!(!may_pass(&second.open().unwrap_err()));
}
