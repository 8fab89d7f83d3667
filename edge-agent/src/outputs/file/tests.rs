use std::{process::Command, sync::Arc};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::*;
use crate::event::{Announcer, Event, WayIn};

fn open(folder: &Path, max_bytes: u64, keep: usize) -> RotatingFile {
    RotatingFile::open(&FileOutput {
        path: folder.join("answers.jsonl"),
        max_bytes,
        keep,
    })
    .unwrap()
}

fn event(id: Uuid, is_final: bool) -> Event {
    let record = crate::record::Record::Failed {
        image: "x".to_owned(),
        cause: crate::record::FailureCause::NotAnImage,
        error: "y".to_owned(),
    };
    Event::first(id, "api", record, is_final)
}

/// That event on its way into the file.
fn undelivered(id: Uuid, is_final: bool) -> Undelivered {
    let waiting = Metrics::default().output_waiting(FILE);
    Undelivered::new(Arc::new(event(id, is_final)), &waiting)
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
            let event = undelivered(ids[image], is_final);
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
    (file.file, file.id, file.bytes) = append_to(&file.path, &mut file.done).unwrap();
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
fn lines_go_on_in_the_file_that_has_the_name_whatever_others_do_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let of = |name| read(folder.path(), name);
    let mut file = open(folder.path(), 1000, 1);
    file.add(b"one\n").unwrap();
    // Moved, as `logrotate` does.
    fs::rename(&path, folder.path().join("moved")).unwrap();
    file.add(b"two\n").unwrap();
    assert_eq!(
        (of("moved"), of("answers.jsonl")),
        ("one\n".into(), "two\n".into())
    );
    // Removed, with its folder for a while.
    fs::remove_file(&path).unwrap();
    file.add(b"three\n").unwrap();
    assert_eq!(of("answers.jsonl"), "three\n");
    let away = folder.path().with_extension("away");
    fs::rename(folder.path(), &away).unwrap();
    assert!(file.add(b"lost\n").is_err());
    fs::rename(&away, folder.path()).unwrap();
    file.add(b"four\n").unwrap();
    assert_eq!(of("answers.jsonl"), "three\nfour\n");
    // Cut off within a line, and to nothing, as `copytruncate` of `logrotate` does.
    let outsider = File::options().write(true).open(&path).unwrap();
    outsider.set_len(8).unwrap();
    file.add(b"five\n").unwrap();
    assert_eq!(of("answers.jsonl"), "three\nfive\n");
    outsider.set_len(0).unwrap();
    file.add(b"six\n").unwrap();
    assert_eq!(of("answers.jsonl"), "six\n");
    // Another in its place, with half a line and one of an image about which all was said.
    let line = format!("{{\"id\":\"{}\",\"final\":true}}\n", Uuid::from_u128(7));
    fs::write(folder.path().join("another"), format!("{line}{{\"ha")).unwrap();
    fs::rename(folder.path().join("another"), &path).unwrap();
    file.add(b"seven\n").unwrap();
    assert_eq!(of("answers.jsonl"), line.clone() + "seven\n");
    assert!(file.done.images.contains(&Uuid::from_u128(7)));
    // What could not be cut off of a line is before the next one.
    fs::write(&path, line.clone() + "seven\neig").unwrap();
    file.add(b"eight\n").unwrap();
    assert_eq!(of("answers.jsonl"), line + "seven\neight\n");
}

#[test]
fn a_file_that_was_cut_off_is_not_made_longer_by_a_line_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = open(folder.path(), 1000, 1);
    file.add(b"one\n").unwrap();
    // As if it was cut off once it had been looked at: empty, and takes no line.
    let sealed = memfd_create("answers", MemfdFlags::ALLOW_SEALING).unwrap();
    fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
    file.file = sealed.into();
    assert!(file.add(b"lost\n").is_err());
    assert_eq!(file.file.metadata().unwrap().len(), 0);
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
        let event = undelivered(Uuid::now_v7(), true);
        sender.blocking_send(event).unwrap();
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
        let (way_in, events) = WayIn::new(FILE, 8, &Metrics::default());
        let ending = CancellationToken::new();
        ending.cancel();
        let writer = tokio::task::spawn_blocking(move || {
            write_all(file, events, &Metrics::default(), &ending);
        });
        let announcer = Announcer::new([way_in]);
        let event = event(Uuid::now_v7(), true);
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
    assert!(error.ends_with("make its folder"), "{error}");
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for path in [pipe, folder.path().to_owned(), PathBuf::from("/dev/null")] {
        let config = FileOutput {
            path,
            max_bytes: 1,
            keep: 1,
        };
        for refused in [
            RotatingFile::open(&config).unwrap_err(),
            RotatingFile::look(&config).unwrap_err(),
        ] {
            assert!(refused.source.to_string().contains("no regular file"));
            let error = refused.to_string();
            assert!(
                error.contains("name a file as `outputs.file.path`"),
                "{error}"
            );
        }
    }
}
