//! Events as lines of JSON, in a file that is replaced when it has grown.

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::FILE;
use crate::{config::FileOutput, event::Event, metrics::Metrics};

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
#[error("cannot write {}: make its folder and give this program the right to write there", path.display())]
pub struct FileError {
    path: PathBuf,
    pub(crate) source: io::Error,
}

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
    bytes: u64,
    max_bytes: u64,
    kept: usize,
    done: Done,
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
        let file = append_to(&config.path).map_err(failed)?;
        let mut done = Done::default();
        // One that is not there, or cannot be read, says nothing.
        if let Ok(older) = File::open(older(&config.path, 1)) {
            let _ = done.note_last(&older);
            let _ = older.sync_data();
        }
        // What is there already is taken for delivered.
        let _ = file.sync_data();
        Ok(Self {
            bytes: whole_lines(&config.path, &file, &mut done).map_err(failed)?,
            path: config.path.clone(),
            file,
            max_bytes: config.max_bytes,
            kept: config.keep,
            done,
        })
    }

    /// Whether [`Self::open`] can do with a file that is there; nothing is changed, nor made where there is none.
    pub(super) fn look(config: &FileOutput) -> Result<(), FileError> {
        let opened = File::options().append(true).open(&config.path);
        let read = opened.and_then(|_| Done::default().note_last(&File::open(&config.path)?));
        match read {
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
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        let written = self.file.write_all(line);
        match written {
            Ok(()) => self.bytes += line.len() as u64,
            Err(_) => self.file.set_len(self.bytes)?,
        }
        written
    }

    /// The file becomes `.1`, `.1` becomes `.2`, and so on; the oldest goes. Nothing moves where the file has gone, by
    /// another's hand or by an attempt before this one.
    fn rotate(&mut self) -> io::Result<()> {
        let older = |number| older(&self.path, number);
        if self.path.try_exists()? {
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
        }
        self.file = append_to(&self.path)?;
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }
}

/// The path of a file that has made way.
fn older(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Bytes of a file's whole lines, and of what images they are the end; what a crash left of one more line is cut off.
fn whole_lines(path: &Path, file: &File, done: &mut Done) -> io::Result<u64> {
    let written = File::open(path)?;
    let whole = done.note_last(&written)?;
    if whole < written.metadata()?.len() {
        tracing::warn!(file = %path.display(), "cut off half a line that a crash left");
        file.set_len(whole)?;
    }
    Ok(whole)
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
    mut events: mpsc::Receiver<Arc<Event>>,
    metrics: &Metrics,
    ending: &CancellationToken,
) {
    let mut given_up = false;
    while let Some(event) = events.blocking_recv() {
        if file.done.images.contains(&event.id) {
            event.delivered();
            continue;
        }
        let mut line = serde_json::to_vec(&*event).expect("an event has no keys but strings");
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
mod tests {
    use super::*;
    use crate::event::Announcer;

    fn open(folder: &Path, max_bytes: u64, keep: usize) -> RotatingFile {
        RotatingFile::open(&FileOutput {
            path: folder.join("answers.jsonl"),
            max_bytes,
            keep,
        })
        .unwrap()
    }

    fn event(id: Uuid, is_final: bool) -> Arc<Event> {
        let record = crate::record::Record::Failed {
            image: "x".to_owned(),
            cause: crate::record::FailureCause::NotAnImage,
            error: "y".to_owned(),
        };
        Arc::new(Event::first(id, "api", record, is_final))
    }

    #[test]
    fn the_last_event_about_an_image_is_written_once_whatever_is_said_again() {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<Uuid> = (0..4).map(Uuid::from_u128).collect();
        // The program ends after each list, and says some of it again; the file is rotated meanwhile.
        for (max_bytes, said) in [
            (1000, vec![(0, false), (0, true), (1, true)]),
            (1, vec![(0, true), (2, false), (3, true)]),
            (1000, vec![(3, true), (2, false), (2, true), (2, true)]),
        ] {
            let file = open(folder.path(), max_bytes, 9);
            let (sender, events) = mpsc::channel(8);
            for (image, is_final) in said {
                let event = event(ids[image], is_final);
                sender.blocking_send(event).unwrap();
            }
            drop(sender);
            write_all(file, events, &Metrics::default(), &CancellationToken::new());
        }
        let mut finals = [0; 4];
        for file in fs::read_dir(folder.path()).unwrap() {
            for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
                let line: Event = serde_json::from_str(line).unwrap();
                let image = ids.iter().position(|id| *id == line.id).unwrap();
                finals[image] += usize::from(line.is_final);
            }
        }
        assert_eq!(finals, [1; 4]);
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap_or_default()
    }

    #[test]
    fn a_file_that_has_grown_makes_way_and_lines_stay_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path(), 10, 2);
        for line in [
            "one\n",
            "two\n",
            "three\n",
            "four, longer than a file\n",
            "five\n",
        ] {
            file.add(line.as_bytes()).unwrap();
        }
        assert_eq!(read(folder.path(), "answers.jsonl"), "five\n");
        assert_eq!(
            read(folder.path(), "answers.jsonl.1"),
            "four, longer than a file\n"
        );
        assert_eq!(read(folder.path(), "answers.jsonl.2"), "three\n");
        assert_eq!(read(folder.path(), "answers.jsonl.3"), "");
    }

    #[test]
    fn half_a_line_of_a_crash_is_cut_off_and_what_is_there_counts() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("answers.jsonl"), "whole\nha").unwrap();
        let mut file = open(folder.path(), 10, 1);
        file.add(b"next\n").unwrap();
        assert_eq!(read(folder.path(), "answers.jsonl"), "next\n");
        assert_eq!(read(folder.path(), "answers.jsonl.1"), "whole\n");
    }

    #[test]
    fn of_a_large_file_the_last_lines_are_read_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let line = |id: u128| format!("{{\"id\":\"{}\",\"final\":true}}\n", Uuid::from_u128(id));
        // A line that is none of ours, longer than several blocks, and one more line than is looked at.
        let count = 2 * REMEMBERED as u128 + 1;
        let foreign = "x".repeat(3 * BLOCK) + "\n";
        let lines: Vec<String> = (0..count).map(line).collect();
        let whole = foreign + &lines.concat();
        fs::write(&path, whole.clone() + "{\"half").unwrap();
        let first = whole.len() - lines[1..].concat().len();
        let found = last_lines(&File::open(&path).unwrap(), 2 * REMEMBERED).unwrap();
        assert_eq!(found, first as u64..whole.len() as u64);
        let all = last_lines(&File::open(&path).unwrap(), usize::MAX).unwrap();
        assert_eq!(all, 0..whole.len() as u64);

        let file = open(folder.path(), 1 << 30, 1);
        assert_eq!(file.bytes, whole.len() as u64);
        assert_eq!(fs::metadata(&path).unwrap().len(), whole.len() as u64);
        assert_eq!(file.done.in_order.len(), REMEMBERED);
        assert_eq!(
            file.done.in_order[0],
            Uuid::from_u128(count - REMEMBERED as u128)
        );
        assert_eq!(file.done.in_order.back(), Some(&Uuid::from_u128(count - 1)));
    }

    #[test]
    fn nothing_stays_of_a_line_that_a_full_disk_takes_half_of() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path(), 1000, 1);
        file.add(b"whole\n").unwrap();
        // A device that is always full, and a file that takes no `set_len`.
        file.file = File::options().append(true).open("/dev/full").unwrap();
        assert!(file.add(b"lost\n").is_err());
        file.file = append_to(&file.path).unwrap();
        file.add(b"again\n").unwrap();
        assert_eq!(read(folder.path(), "answers.jsonl"), "whole\nagain\n");
    }

    #[test]
    fn a_file_that_somebody_took_away_begins_anew_and_older_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path(), 6, 3);
        for line in ["one\n", "two\n", "three\n"] {
            file.add(line.as_bytes()).unwrap();
        }
        fs::remove_file(folder.path().join("answers.jsonl")).unwrap();
        file.add(b"four\n").unwrap();
        assert_eq!(read(folder.path(), "answers.jsonl"), "four\n");
        assert_eq!(read(folder.path(), "answers.jsonl.1"), "two\n");
        assert_eq!(read(folder.path(), "answers.jsonl.2"), "one\n");
    }

    #[test]
    fn a_line_that_cannot_be_written_holds_up_the_others_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path(), 1000, 1);
        file.file = File::options().append(true).open("/dev/full").unwrap();
        let (sender, events) = mpsc::channel(8);
        let ending = CancellationToken::new();
        let ends = ending.clone();
        let writer = thread::spawn(move || {
            write_all(file, events, &Metrics::default(), &ending);
        });
        for _ in 0..3 {
            sender.blocking_send(event(Uuid::now_v7(), true)).unwrap();
        }
        thread::sleep(Duration::from_millis(50));
        assert!(!writer.is_finished());
        // Whoever speaks may still hold the way in.
        ends.cancel();
        drop(sender);
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn a_line_that_is_given_up_is_not_delivered() {
        let folder = tempfile::tempdir().unwrap();
        for (path, is_written) in [("/dev/full", false), ("/dev/null", true)] {
            let mut file = open(folder.path(), 1000, 1);
            file.file = File::options().append(true).open(path).unwrap();
            let (sender, events) = mpsc::channel(8);
            let ending = CancellationToken::new();
            ending.cancel();
            let writer = tokio::task::spawn_blocking(move || {
                write_all(file, events, &Metrics::default(), &ending);
            });
            let announcer = Announcer::new([sender]);
            let event = Event::clone(&event(Uuid::now_v7(), true));
            assert_eq!(announcer.announce_surely(event).await, is_written);
            drop(announcer);
            writer.await.unwrap();
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let config = FileOutput {
            path: PathBuf::from("/no/such/folder/answers.jsonl"),
            max_bytes: 1,
            keep: 1,
        };
        let error = RotatingFile::open(&config).unwrap_err().to_string();
        assert!(error.contains("/no/such/folder/answers.jsonl"), "{error}");
    }
}
