//! Events as lines of JSON, in a file that is replaced when it has grown.
//!
//! Others may move the file, remove it or cut it off at any time: before a line is written it is seen whether the path is
//! still that file, and as long as it was left; where not, it is opened as at the start.

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::FILE;
use crate::{config::FileOutput, event::Undelivered, metrics::Metrics};

/// Pauses between attempts to write a line, in a file system that is full or away. The last one goes on.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// Attempts once the program wants to end; then the line goes to the log.
const LAST_ATTEMPTS: usize = 3;

/// The file of an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {}", path.display(), advice(source))]
pub struct FileError {
    path: PathBuf,
    pub(crate) source: io::Error,
}

/// It is something else by that name: a folder, a pipe, a device.
#[derive(Debug, thiserror::Error)]
#[error("it is no regular file")]
struct NotRegular;

/// Images whose last events are remembered: far more than an end of the program can leave half done.
const REMEMBERED: usize = 4096;
/// Bytes that are looked at at a time for the last lines of a file.
const BLOCK: usize = 64 << 10;
/// Far more than an event has; a longer line, which is none of ours, is read in pieces of so many.
const MOST_LINE_BYTES: u64 = 64 << 10;

/// A file of lines that is never torn: a line is in it whole, or not at all.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    /// Which file it is, and the bytes that were left in it.
    id: FileId,
    bytes: u64,
    max_bytes: u64,
    kept: usize,
    done: Done,
}

/// Tells a file from others, as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

/// The last images about which all was said. A program that ended before it could note so says it again.
#[derive(Debug, Default)]
struct Done {
    images: HashSet<Uuid>,
    in_order: VecDeque<Uuid>,
}

impl Done {
    fn note(&mut self, id: Uuid) {
        if !self.images.insert(id) {
            return;
        }
        self.in_order.push_back(id);
        if self.in_order.len() > REMEMBERED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.images.remove(&oldest);
        }
    }

    /// Notes what the last lines of a file say; gives where its whole lines end.
    fn note_last(&mut self, mut file: &File) -> io::Result<u64> {
        #[derive(Deserialize)]
        struct Line {
            id: Uuid,
            #[serde(rename = "final")]
            is_final: bool,
        }
        let lines = last_lines(file, 2 * REMEMBERED)?;
        file.seek(SeekFrom::Start(lines.start))?;
        let mut rest = BufReader::new(file).take(lines.end - lines.start);
        let mut line = Vec::new();
        while rest
            .by_ref()
            .take(MOST_LINE_BYTES)
            .read_until(b'\n', &mut line)?
            > 0
        {
            if let Ok(line) = serde_json::from_slice::<Line>(&line)
                && line.is_final
            {
                self.note(line.id);
            }
            line.clear();
        }
        Ok(lines.end)
    }
}

impl RotatingFile {
    pub(super) fn open(config: &FileOutput) -> Result<Self, FileError> {
        let failed = |source| FileError {
            path: config.path.clone(),
            source,
        };
        let mut done = Done::default();
        // One that is not there, or cannot be read, says nothing.
        if let Ok(older) = regular(&older(&config.path, 1), File::options().read(true)) {
            let _ = done.note_last(&older);
            let _ = older.sync_data();
        }
        let (file, id, bytes) = append_to(&config.path, &mut done).map_err(failed)?;
        Ok(Self {
            path: config.path.clone(),
            file,
            id,
            bytes,
            max_bytes: config.max_bytes,
            kept: config.keep,
            done,
        })
    }

    /// Whether [`Self::open`] can do with a file that is there; nothing is changed, nor made where there is none.
    pub(super) fn look(config: &FileOutput) -> Result<(), FileError> {
        let opened = regular(&config.path, File::options().read(true).append(true));
        match opened.and_then(|file| Done::default().note_last(&file)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FileError {
                path: config.path.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Returns once what was added is on the disk, where it is a file on one.
    fn sync(&self) -> io::Result<()> {
        match self.file.sync_data() {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }

    /// Adds a line; where it cannot be added whole, nothing of it stays.
    fn add(&mut self, line: &[u8]) -> io::Result<()> {
        self.follow()?;
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        let written = self.file.write_all(line);
        match written {
            Ok(()) => self.bytes += line.len() as u64,
            Err(_) => {
                // Whoever cut it off meanwhile gets no zeros for that.
                let bytes = self.file.metadata()?.len();
                self.file.set_len(bytes.min(self.bytes))?;
            }
        }
        written
    }

    /// Opens the path anew where it is another file by now, or none, or has not the bytes that were left in it.
    fn follow(&mut self) -> io::Result<()> {
        let says = match fs::metadata(&self.path) {
            Ok(there) if FileId::of(&there) != self.id => Some("another file has its place"),
            Ok(there) if there.len() == self.bytes => return Ok(()),
            Ok(there) if there.len() < self.bytes => Some("somebody cut it off"),
            // By half a line that could not be cut off, or by another program.
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some("somebody moved or removed it")
            }
            Err(error) => return Err(error),
        };
        (self.file, self.id, self.bytes) = append_to(&self.path, &mut self.done)?;
        if let Some(says) = says {
            tracing::warn!(file = %self.path.display(), "the file of answers is opened anew: {says}");
        }
        Ok(())
    }

    /// The file, which is there, becomes `.1`, `.1` becomes `.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let older = |number| older(&self.path, number);
        for number in (1..self.kept).rev() {
            match fs::rename(older(number), older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.kept {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, older(1))?,
        }
        (self.file, self.id, self.bytes) = append_to(&self.path, &mut self.done)?;
        Ok(())
    }
}

/// The path of a file that has made way.
fn older(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Opens a file, or makes one; gives which it is, and the bytes of its whole lines, and notes of what images they are the
/// end. What was left of one more line is cut off.
fn append_to(path: &Path, done: &mut Done) -> io::Result<(File, FileId, u64)> {
    let options = &mut File::options();
    let file = regular(path, options.create(true).read(true).append(true))?;
    // What is there already is taken for delivered.
    let _ = file.sync_data();
    let whole = done.note_last(&file)?;
    let metadata = file.metadata()?;
    if whole < metadata.len() {
        tracing::warn!(file = %path.display(), "cut off half a line that a crash or a full disk left");
        file.set_len(whole)?;
    }
    Ok((file, FileId::of(&metadata), whole))
}

/// Opens a regular file and nothing else: a pipe would keep the program until somebody reads.
fn regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let check = |file: &Metadata| match file.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(NotRegular)),
    };
    if let Ok(there) = fs::metadata(path) {
        check(&there)?;
    }
    // It may have become one since.
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// What to do about an error.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "make its folder",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "give this program the right to read and write there"
        }
        _ if error
            .get_ref()
            .is_some_and(|error| error.is::<NotRegular>()) =>
        {
            "name a file as `outputs.file.path`, which need not be there yet"
        }
        _ => "look after its disk, or name another `outputs.file.path`",
    }
}

/// Where the last whole lines of a file are, so many at the most; it is read from its end, a block at a time.
fn last_lines(file: &File, most: usize) -> io::Result<Range<u64>> {
    let mut block = vec![0; BLOCK];
    let mut ends = 0;
    let mut last = None;
    let mut unread = file.metadata()?.len();
    while unread > 0 {
        let block = &mut block[..unread.min(BLOCK as u64) as usize];
        unread -= block.len() as u64;
        file.read_exact_at(block, unread)?;
        let newlines = block.iter().enumerate().rev();
        for (at, _) in newlines.filter(|(_, byte)| **byte == b'\n') {
            let end = unread + at as u64 + 1;
            let last = *last.get_or_insert(end);
            if ends == most {
                return Ok(end..last);
            }
            ends += 1;
        }
    }
    Ok(0..last.unwrap_or(0))
}

/// Writes events until there are no more; blocks. A line that cannot be written is tried again until it can, and holds
/// up the others; once the program is to end, it is given up after some attempts and goes to the log, as do all after it
/// that cannot be written at once.
pub(super) fn write_all(
    mut file: RotatingFile,
    mut events: mpsc::Receiver<Undelivered>,
    metrics: &Metrics,
    ending: &CancellationToken,
) {
    let mut given_up = false;
    while let Some(event) = events.blocking_recv() {
        if file.done.images.contains(&event.id) {
            event.delivered();
            continue;
        }
        let mut line = serde_json::to_vec(&**event).expect("an event has no keys but strings");
        line.push(b'\n');
        let mut attempt = 0;
        let is_written = loop {
            let Err(error) = file.add(&line) else {
                break true;
            };
            metrics.output_failed(FILE);
            if attempt == 0 {
                tracing::error!(file = %file.path.display(), %error, "an answer waits to be written");
            }
            attempt += 1;
            given_up |= ending.is_cancelled() && attempt > LAST_ATTEMPTS;
            if given_up {
                let line = String::from_utf8_lossy(&line);
                tracing::error!(
                    line = line.trim_end(),
                    "could not be written before the end"
                );
                break false;
            }
            thread::sleep(PAUSES[attempt.min(PAUSES.len()) - 1]);
        };
        if !is_written {
            continue;
        }
        // Who waits for it forgets it then: it must be on the disk, not with the system alone.
        match event.is_awaited().then(|| file.sync()) {
            Some(Err(error)) => {
                metrics.output_failed(FILE);
                tracing::error!(
                    file = %file.path.display(), %error,
                    "an answer may not be on the disk: it is said again at the next start"
                );
            }
            Some(Ok(())) | None => event.delivered(),
        }
        if event.is_final {
            file.done.note(event.id);
        }
    }
}

#[cfg(test)]
mod tests;
