//! The images that wait, on disk: every change is there whole or not at all, whatever ends the program.
//!
//! A new file gets its name once it is whole; one that is damaged is set aside, and a new one begun.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableError,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::clock::Mark;
use crate::{agent::Unsent, event::Event, record::Record};

/// Encoded images, by the image's identifier.
const IMAGES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("images");
/// An [`Entry`] an image, as JSON.
const ENTRIES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("entries");
/// Last events about images that have left, or promises of such, as JSON, until every output has delivered them.
const FINALS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("finals");
/// The queue's time as it was last written, a [`Mark`] as JSON under [`THE_MARK`].
const CLOCK: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("clock");
const THE_MARK: u8 = 0;
/// Tables of the file.
const TABLES: usize = 4;
/// What the name of a file ends with that is not whole yet.
const NEW: &str = ".new";
/// What the name of a damaged file ends with, once it is set aside. The newest is kept.
const DAMAGED: &str = ".damaged";
/// What a file of redb begins with.
const MAGIC: &[u8] = b"redb\x1a\n";
/// A file that is smaller need not shrink.
const SMALL_BYTES: u64 = 8 << 20;
/// Bytes of images that may be moved so that the file shrinks: a second's work for a slow card.
const MOVED_BYTES: u64 = 8 << 20;
/// Memory for pages of the file: those that lead to images. An image is written once and read once.
const CACHE_BYTES: usize = 128 << 10;

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
    /// Attempts in vain before, as of then.
    #[serde(skip)]
    pub(crate) attempts: u32,
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
            attempts: 0,
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
    /// It waits no longer: this is the last that is said about it, or what is unless something else comes.
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
    /// None at first, and after an error, until it is opened.
    database: Option<Database>,
    /// Bytes of the file when it was made to shrink last.
    shrunk_to: u64,
}

/// What an earlier run of the program left.
pub(super) struct Left {
    /// The images that wait.
    pub(super) entries: Vec<Entry>,
    /// The last events that may not have been delivered, and promises of such.
    pub(super) finals: Vec<Event>,
    /// The queue's time as it was last written.
    pub(super) mark: Option<Mark>,
}

/// What a start of the program would find.
#[derive(Debug)]
pub(crate) enum Present {
    /// No file: one is begun.
    Nothing,
    /// A queue with so many images.
    Whole(u64),
    /// A queue that another program, an edge-agent that runs, has open.
    InUse,
    /// A queue whose program ended before it could close it, or of which a part is missing: it is repaired, or set aside.
    Unclosed,
    /// A queue that is damaged: it is set aside.
    Damaged(redb::Error),
}

impl Store {
    /// The file at `path`, which is opened once something is done with it.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            database: None,
            shrunk_to: 0,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier run of the program left.
    pub(super) fn load(&mut self) -> Result<Left, redb::Error> {
        self.attempt(left)
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

    /// Has the file shrink to what is in it, of which `image_bytes` are images, where it is much larger. It is not read or
    /// written meanwhile: with more images that would take too long.
    pub(super) fn shrink(&mut self, image_bytes: u64) -> Result<(), redb::Error> {
        let Some(database) = &mut self.database else {
            return Ok(());
        };
        let bytes = fs::metadata(&self.path)?.len();
        let needed = self.shrunk_to.max(2 * image_bytes + SMALL_BYTES);
        if image_bytes > MOVED_BYTES || bytes <= needed {
            return Ok(());
        }
        database.compact()?;
        self.shrunk_to = fs::metadata(&self.path)?.len();
        tracing::info!(
            queue = %self.path.display(), bytes, now = self.shrunk_to,
            "the queue has given back room on its disk"
        );
        Ok(())
    }

    /// Does something with the file; where that is damaged, with a new one in its place.
    fn attempt<T>(
        &mut self,
        act: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        match self.attempt_once(&act) {
            Err(error) if is_damage(&error) && is_ours(&self.path)? => {
                set_aside(&self.path, &error)?;
                self.attempt_once(&act)
            }
            done => done,
        }
    }

    /// Does something with the file. After an error it is closed, and opened again at the next attempt: by then a disk may
    /// have room again.
    fn attempt_once<T>(
        &mut self,
        act: impl Fn(&Database) -> Result<T, redb::Error>,
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

/// What [`Store::load`] would find at `path`, where nothing is changed.
pub(super) fn look(path: &Path) -> Result<Present, redb::Error> {
    match look_inside(path) {
        Ok(images) => Ok(Present::Whole(images)),
        Err(redb::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Present::Nothing)
        }
        Err(redb::Error::DatabaseAlreadyOpen) => Ok(Present::InUse),
        Err(redb::Error::RepairAborted) => Ok(Present::Unclosed),
        Err(error) if is_damage(&error) && is_ours(path)? => Ok(Present::Damaged(error)),
        Err(error) => Err(error),
    }
}

/// Images in the file.
fn look_inside(path: &Path) -> Result<u64, redb::Error> {
    // It may have to be written, too.
    File::options().read(true).write(true).open(path)?;
    let reading = builder().open_read_only(path)?.begin_read()?;
    let is_older = reading.list_tables()?.count() < TABLES;
    let missing = |error: &TableError| {
        // They are added to a file of an earlier version of the program.
        is_older && matches!(error, TableError::TableDoesNotExist(_))
    };
    for found in [
        reading.open_table(IMAGES).map(drop),
        reading.open_table(FINALS).map(drop),
        reading.open_table(CLOCK).map(drop),
    ] {
        match found {
            Err(error) if !missing(&error) => return Err(error.into()),
            _ => {}
        }
    }
    match reading.open_table(ENTRIES) {
        Err(error) if missing(&error) => Ok(0),
        entries => Ok(entries?.len()?),
    }
}

fn left(database: &Database) -> Result<Left, redb::Error> {
    let reading = database.begin_read()?;
    let mark = reading.open_table(CLOCK)?.get(THE_MARK)?;
    Ok(Left {
        entries: all(&reading.open_table(ENTRIES)?)?,
        finals: all(&reading.open_table(FINALS)?)?,
        mark: mark.and_then(|mark| read(mark.value())),
    })
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Opens the file, or begins one where there is none.
fn open(path: &Path) -> Result<Database, redb::Error> {
    match open_present(path) {
        Err(redb::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => begin(path),
        opened => opened,
    }
}

/// Opens a file that is there. Writes nothing where that is not needed: the disk may be full.
fn open_present(path: &Path) -> Result<Database, redb::Error> {
    let database = builder().open(path)?;
    let tables = database.begin_read()?.list_tables()?.count();
    if tables < TABLES {
        // Of an earlier version of the program.
        add_tables(&database)?;
    }
    Ok(database)
}

/// Begins a file beside the path, and gives it its name once it is whole: a full disk, or the end of the program, leaves
/// nothing that a later start could take for the queue.
fn begin(path: &Path) -> Result<Database, redb::Error> {
    let new = beside(path, NEW);
    let named = create(&new).and_then(|database| {
        fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(database)
    });
    if named.is_err() {
        // Its room is others'.
        let _ = fs::remove_file(&new);
    }
    named
}

/// Makes an empty queue, in place of what an earlier attempt left.
fn create(path: &Path) -> Result<Database, redb::Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Images are for nobody else to read.
    let mut options = File::options();
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let database = builder().create(path)?;
    add_tables(&database)?;
    Ok(database)
}

/// Adds the tables, so that reading finds them.
fn add_tables(database: &Database) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    for table in [IMAGES, ENTRIES, FINALS] {
        writing.open_table(table)?;
    }
    writing.open_table(CLOCK)?;
    writing.commit()?;
    Ok(())
}

/// Whether a file is no queue, or not a whole one.
pub(super) fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

/// Whether a file may be a queue that was damaged: it begins as one, or has nothing at its beginning. Others' files are not
/// moved away, where a path is mistaken.
fn is_ours(path: &Path) -> io::Result<bool> {
    let mut first = Vec::new();
    File::open(path)?
        .take(MAGIC.len() as u64)
        .read_to_end(&mut first)?;
    Ok(MAGIC.starts_with(&first) || first.iter().all(|&byte| byte == 0))
}

/// Moves a damaged file out of the way.
fn set_aside(path: &Path, error: &redb::Error) -> Result<(), redb::Error> {
    let aside = beside(path, DAMAGED);
    fs::rename(path, &aside)?;
    tracing::error!(
        queue = %path.display(), aside = %aside.display(), %error,
        "the queue is damaged and was set aside: a new one is begun without the images in it; look after the disk, and remove what \
         was set aside"
    );
    Ok(())
}

/// The path of a file with a longer name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
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

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::record::{FailureCause, Record};

    /// An image that waits, and its bytes.
    pub(in crate::queue) fn entry(id: Uuid) -> (Entry, Bytes) {
        let record = Record::Failed {
            image: "x".to_owned(),
            cause: FailureCause::NotAnImage,
            error: "y".to_owned(),
        };
        let unsent = Unsent {
            encoded: Bytes::from_static(b"an image"),
            node: "large".to_owned(),
            value: 0.5,
        };
        let entry = Entry::new(id, "api", &record, &unsent);
        (entry, unsent.encoded)
    }

    fn keep(store: &mut Store) -> Result<(), redb::Error> {
        let (entry, image) = entry(Uuid::now_v7());
        store.write(&[Write::Keep(Box::new(entry), image)])
    }

    /// A path in a new folder, and a queue there with one image.
    fn kept() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.redb");
        keep(&mut Store::new(&path)).unwrap();
        (folder, path)
    }

    fn images(path: &Path) -> usize {
        Store::new(path).load().unwrap().entries.len()
    }

    #[test]
    fn what_was_kept_is_there_at_the_next_start_and_nothing_beside_it() {
        let (folder, path) = kept();
        assert_eq!(images(&path), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }

    #[test]
    fn an_empty_file_gives_back_the_room_that_images_had() {
        let (_folder, path) = kept();
        let mut store = Store::new(&path);
        let bytes = || fs::metadata(&path).unwrap().len();
        for id in 0..16 {
            let (entry, _) = entry(Uuid::from_u128(id));
            let image = Bytes::from(vec![7; 1 << 20]);
            store.write(&[Write::Keep(Box::new(entry), image)]).unwrap();
        }
        let full = bytes();
        assert!(full > 16 << 20);
        // More than is moved.
        store.shrink(16 << 20).unwrap();
        assert_eq!(bytes(), full);
        for id in 0..16 {
            let (entry, _) = entry(Uuid::from_u128(id));
            let last = Event::promise(entry.id, &entry.input, entry.record);
            store.write(&[Write::Finish(Box::new(last))]).unwrap();
        }
        assert_eq!(bytes(), full);
        store.shrink(8).unwrap();
        assert!(bytes() < SMALL_BYTES, "{}", bytes());
        keep(&mut store).unwrap();
        drop(store);
        assert_eq!(images(&path), 2);
    }

    #[test]
    fn a_file_that_was_not_finished_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.redb");
        fs::write(beside(&path, NEW), [0; 4096]).unwrap();
        assert_eq!(images(&path), 0);
        assert!(path.exists() && !beside(&path, NEW).exists());
    }

    #[test]
    fn what_cannot_be_made_whole_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.redb");
        // In its place there is what no file can replace.
        fs::create_dir(&path).unwrap();
        assert!(begin(&path).is_err());
        assert!(!beside(&path, NEW).exists());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_a_new_one_begun() {
        let (_folder, path) = kept();
        let whole = fs::read(&path).unwrap();
        for damaged in [
            whole[..whole.len() / 2].to_vec(),
            whole[..20].to_vec(),
            vec![0; whole.len()],
            Vec::new(),
        ] {
            fs::write(&path, &damaged).unwrap();
            let mut store = Store::new(&path);
            assert!(store.load().unwrap().entries.is_empty());
            // The newest is kept.
            assert_eq!(fs::read(beside(&path, DAMAGED)).unwrap(), damaged);
            keep(&mut store).unwrap();
            drop(store);
            assert_eq!(images(&path), 1);
        }
    }

    #[test]
    fn a_look_finds_what_a_start_would_and_changes_nothing() {
        let (folder, path) = kept();
        let whole = fs::read(&path).unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let unclosed = {
            let mut store = Store::new(&path);
            keep(&mut store).unwrap();
            assert!(matches!(look(&path), Ok(Present::InUse)));
            file("unclosed", &fs::read(&path).unwrap())
        };
        assert!(matches!(look(&path), Ok(Present::Whole(2))));
        assert!(matches!(look(&unclosed), Ok(Present::Unclosed)));
        assert_eq!(images(&unclosed), 2);
        let none = folder.path().join("none");
        assert!(matches!(look(&none), Ok(Present::Nothing)));
        assert!(!none.exists());
        for damaged in [&whole[..20], &[0; 99], &[]] {
            let path = file("damaged", damaged);
            assert!(matches!(look(&path), Ok(Present::Damaged(_))));
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
        let half = file("half", &whole[..whole.len() / 2]);
        assert!(matches!(look(&half), Ok(Present::Unclosed)));
        let text = file("text", b"a text");
        assert!(is_damage(&look(&text).unwrap_err()));
        assert_eq!(fs::read(&text).unwrap(), b"a text");
        let of_the_folder = look(folder.path()).unwrap_err();
        assert!(matches!(of_the_folder, redb::Error::Io(_)));
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        fs::write(&path, "a text").unwrap();
        assert!(Store::new(&path).load().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a text");
        assert!(!beside(&path, DAMAGED).exists());
    }

    #[test]
    fn a_file_of_other_tables_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.redb");
        let other = Database::create(&path).unwrap();
        let writing = other.begin_write().unwrap();
        let table: TableDefinition<'_, u8, u8> = TableDefinition::new("images");
        writing.open_table(table).unwrap();
        writing.commit().unwrap();
        drop(other);
        assert!(look(&path).is_err());
        assert!(Store::new(&path).load().is_err());
        assert!(path.exists() && !beside(&path, DAMAGED).exists());
    }
}
