//! The images that wait, on disk: every change is there whole or not at all, whatever ends the program.

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::clock::Mark;
use crate::{agent::Unsent, event::Event, record::Record};

/// Encoded images, by the image's identifier.
const IMAGES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("images");
/// An [`Entry`] an image, as JSON.
const ENTRIES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("entries");
/// Last events about images that have left, as JSON, until every output has delivered them.
const FINALS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("finals");
/// The queue's time as it was last written, a [`Mark`] as JSON under [`THE_MARK`].
const CLOCK: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("clock");
const THE_MARK: u8 = 0;
/// Memory for pages of the file; it is hardly read.
const CACHE_BYTES: usize = 1 << 20;

/// What is known about an image that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The image's identifier.
    pub(crate) id: Uuid,
    /// The input that it came from.
    pub(crate) input: String,
    /// What was said about it.
    pub(crate) record: Record,
    /// Name of the node elsewhere that is to be asked.
    pub(crate) node: String,
    /// What its answer is worth, 0 to 1: the probability that the device is wrong, as it sees it.
    pub(crate) value: f32,
    /// Bytes of the image.
    pub(crate) bytes: u64,
    /// When it was taken up, in milliseconds of the queue's time.
    pub(crate) taken_ms: u64,
    /// How long it has waited, as of when the queue gave it.
    #[serde(skip)]
    pub(crate) waited: Duration,
}

impl Entry {
    /// An image that was taken up just now.
    pub(crate) fn new(id: Uuid, input: &str, record: &Record, unsent: &Unsent) -> Self {
        Self {
            id,
            input: input.to_owned(),
            record: record.clone(),
            node: unsent.node.clone(),
            value: unsent.value,
            bytes: unsent.encoded.len() as u64,
            // The queue says when, once it has it.
            taken_ms: 0,
            waited: Duration::ZERO,
        }
    }

    /// Time since the image was taken up, as of `now` in the queue's time.
    pub(super) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.taken_ms))
    }
}

/// A change.
pub(super) enum Write {
    /// An image waits.
    Keep(Box<Entry>, Bytes),
    /// It waits no longer: this is the last that is said about it.
    Finish(Box<Event>),
    /// That was delivered.
    Delivered(Uuid),
    /// What time it is in the queue.
    Mark(Mark),
}

/// The file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// None after an error, until it is opened again.
    database: Option<Database>,
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, redb::Error> {
        let mut store = Self {
            path: path.to_owned(),
            database: None,
        };
        store.attempt(|_| Ok(()))?;
        Ok(store)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The images that wait, and the last events that may not have been delivered.
    pub(super) fn load(&mut self) -> Result<(Vec<Entry>, Vec<Event>), redb::Error> {
        self.attempt(|database| {
            let reading = database.begin_read()?;
            Ok((
                all(&reading.open_table(ENTRIES)?)?,
                all(&reading.open_table(FINALS)?)?,
            ))
        })
    }

    /// The queue's time as it was last written.
    pub(super) fn mark(&mut self) -> Result<Option<Mark>, redb::Error> {
        self.attempt(|database| {
            let mark = database.begin_read()?.open_table(CLOCK)?.get(THE_MARK)?;
            Ok(mark.and_then(|mark| read(mark.value())))
        })
    }

    /// What is known about an image that waits.
    pub(super) fn entry(&mut self, id: Uuid) -> Result<Option<Entry>, redb::Error> {
        self.attempt(|database| {
            let entry = database
                .begin_read()?
                .open_table(ENTRIES)?
                .get(id.as_u128())?;
            Ok(entry.and_then(|entry| read(entry.value())))
        })
    }

    /// An image that waits.
    pub(super) fn image(&mut self, id: Uuid) -> Result<Option<(Entry, Bytes)>, redb::Error> {
        self.attempt(|database| {
            let reading = database.begin_read()?;
            let entry = reading.open_table(ENTRIES)?.get(id.as_u128())?;
            let image = reading.open_table(IMAGES)?.get(id.as_u128())?;
            let entry = entry.and_then(|entry| read(entry.value()));
            let image = image.map(|image| Bytes::copy_from_slice(image.value()));
            Ok(entry.zip(image))
        })
    }

    /// Makes all changes, or none.
    pub(super) fn write(&mut self, changes: &[Write]) -> Result<(), redb::Error> {
        self.attempt(|database| {
            let writing = database.begin_write()?;
            {
                let mut images = writing.open_table(IMAGES)?;
                let mut entries = writing.open_table(ENTRIES)?;
                let mut finals = writing.open_table(FINALS)?;
                let mut clock = writing.open_table(CLOCK)?;
                for change in changes {
                    match change {
                        Write::Keep(entry, image) => {
                            let id = entry.id.as_u128();
                            entries.insert(id, &*json(entry))?;
                            images.insert(id, &**image)?;
                        }
                        Write::Finish(event) => {
                            let id = event.id.as_u128();
                            entries.remove(id)?;
                            images.remove(id)?;
                            finals.insert(id, &*json(event))?;
                        }
                        Write::Delivered(id) => {
                            finals.remove(id.as_u128())?;
                        }
                        Write::Mark(mark) => {
                            clock.insert(THE_MARK, &*json(mark))?;
                        }
                    }
                }
            }
            writing.commit()?;
            Ok(())
        })
    }

    /// Does something with the file. After an error it is closed, and opened again at the next attempt: by then a disk may
    /// have room again.
    fn attempt<T>(
        &mut self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let done = act(&database)?;
        self.database = Some(database);
        Ok(done)
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    // Images are for nobody else to read.
    let mut options = File::options();
    options.read(true).write(true).create(true).mode(0o600);
    options.open(path).map_err(redb::Error::Io)?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)?;
    // So that reading finds them.
    let writing = database.begin_write()?;
    for table in [IMAGES, ENTRIES, FINALS] {
        writing.open_table(table)?;
    }
    writing.open_table(CLOCK)?;
    writing.commit()?;
    Ok(database)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("no keys but strings")
}

/// What a row says; none where another version of the program wrote it in other words.
fn read<T: for<'de> Deserialize<'de>>(row: &[u8]) -> Option<T> {
    let read = serde_json::from_slice(row);
    read.inspect_err(|error| tracing::error!(%error, "an image in the queue cannot be read"))
        .ok()
}

fn all<T: for<'de> Deserialize<'de>>(
    table: &impl ReadableTable<u128, &'static [u8]>,
) -> Result<Vec<T>, redb::Error> {
    let mut rows = Vec::new();
    for row in table.iter()? {
        rows.extend(read(row?.1.value()));
    }
    Ok(rows)
}
