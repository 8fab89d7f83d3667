//! `[[folders]]`: a folder that goes and comes back, images that cannot be opened for a while, are not whole yet or come
//! again, and files that are no images.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use outpost_tests::{program, some_cifar};
use serde_json::Value;
use tempfile::TempDir;

use super::run::{Device, lines, until};

const FAILURES: &str = "outpost_edge_input_failures_total{input=\"folder\"}";

/// A device that hears of images in `incoming`, and does not look there by itself again for a long time.
fn start() -> Device {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("incoming")).unwrap();
    start_in(folder, 600)
}

fn start_in(folder: TempDir, look_seconds: u64) -> Device {
    let config = format!(
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[[folders]]\npath = \"incoming\"\nsettle_ms = 10\nlook_seconds = {look_seconds}\n[outputs.file]\npath = \"answers.jsonl\"\n"
    );
    Device::start_in(folder, &config)
}

fn incoming(device: &Device) -> PathBuf {
    device.folder.path().join("incoming")
}

/// Moves an image there, and waits until it is answered and put away.
fn answered(device: &Device, image: &Path) {
    put(device, image);
    let away = incoming(device)
        .join("answered")
        .join(image.file_name().unwrap());
    until("an answer", || away.is_file().then_some(()));
}

fn put(device: &Device, image: &Path) {
    let aside = device.folder.path().join("aside.part");
    fs::copy(image, &aside).unwrap();
    fs::rename(aside, incoming(device).join(image.file_name().unwrap())).unwrap();
}

#[test]
fn a_folder_that_is_removed_and_made_again_is_watched_as_before() {
    let device = start();
    let images = some_cifar(4);
    answered(&device, &images[0]);
    assert_eq!(device.metric(FAILURES), Some(0.0));
    fs::remove_dir_all(incoming(&device)).unwrap();
    until("a failure", || device.counted(FAILURES));
    fs::create_dir(incoming(&device)).unwrap();
    for image in &images[1..] {
        answered(&device, image);
    }
    assert_eq!(lines(&device.folder.path().join("answers.jsonl")).len(), 4);
    let (log, _) = device.end();
    assert_eq!(log.matches("no images come").count(), 1, "{log}");
    assert_eq!(log.matches("images come again").count(), 1, "{log}");
}

#[test]
fn a_file_has_one_name_however_it_is_found() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("incoming")).unwrap();
    // By a configuration whose folder is relative.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "cd \"$1\" && exec \"$0\" run --config edge-agent.toml",
        ])
        .arg(program("edge-agent"))
        .arg(folder.path());
    let device = Device::start_as(
        folder,
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[[folders]]\npath = \"incoming\"\nthen = \"keep\"\nsettle_ms = 10\nlook_seconds = 1\n[outputs.file]\npath = \"answers.jsonl\"\n",
        command,
    );
    let answers = device.folder.path().join("answers.jsonl");
    let images = some_cifar(2);
    put(&device, &images[0]);
    until("an answer", || (lines(&answers).len() == 1).then_some(()));
    // Nobody tells of a link: a look finds it, and the first again.
    let aside = device.folder.path().join("aside.part");
    fs::copy(&images[1], &aside).unwrap();
    let name = images[1].file_name().unwrap();
    fs::hard_link(aside, incoming(&device).join(name)).unwrap();
    until("the other", || {
        let said = lines(&answers);
        let is_found = |line: &Value| Path::new(line["image"].as_str().unwrap()).ends_with(name);
        said.iter().any(is_found).then_some(())
    });
    let (_, folder) = device.end();
    let said = lines(&folder.path().join("answers.jsonl"));
    assert_eq!(said.len(), 2, "{said:#?}");
    for line in said {
        assert!(Path::new(line["image"].as_str().unwrap()).is_absolute());
    }
}

#[test]
fn a_file_is_not_taken_while_its_writer_pauses() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("incoming")).unwrap();
    let device = start_in(folder, 1);
    let answers = device.folder.path().join("answers.jsonl");
    let images = some_cifar(2);
    let image = fs::read(&images[0]).unwrap();
    let (half, rest) = image.split_at(image.len() / 2);
    let mut file = fs::File::create(incoming(&device).join("slow.jpg")).unwrap();
    file.write_all(half).unwrap();
    // Nobody tells of links: a look finds each, and the other file with it.
    let aside = device.folder.path().join("aside.part");
    fs::copy(&images[1], &aside).unwrap();
    for number in 1..=2 {
        let link = incoming(&device).join(format!("link-{number}.jpg"));
        fs::hard_link(&aside, link).unwrap();
        until("a look", || (lines(&answers).len() == number).then_some(()));
    }
    file.write_all(rest).unwrap();
    drop(file);
    let away = incoming(&device).join("answered/slow.jpg");
    until("an answer", || away.is_file().then_some(()));
    answered(&device, &images[0]);
    let failed = fs::read_dir(incoming(&device).join("failed")).unwrap();
    assert_eq!(failed.count(), 0);
    let (_, folder) = device.end();
    let said = lines(&folder.path().join("answers.jsonl"));
    assert_eq!(said.len(), 4, "{said:#?}");
    assert!(said[2]["image"].as_str().unwrap().ends_with("/slow.jpg"));
    // As of the same image, which came at once.
    for field in ["kind", "label", "confidence"] {
        assert_eq!(said[2][field], said[3][field], "{said:#?}");
    }
    assert_eq!(said[2]["kind"], "answer");
}

#[test]
fn a_file_that_is_put_there_again_has_another_answer() {
    let device = start();
    let image = &some_cifar(1)[0];
    answered(&device, image);
    let name = image.file_name().unwrap();
    let (here, away) = (
        incoming(&device).join(name),
        incoming(&device).join("answered").join(name),
    );
    fs::rename(&away, &here).unwrap();
    until("another answer", || {
        (away.is_file() && !here.exists()).then_some(())
    });
    let (_, folder) = device.end();
    let said = lines(&folder.path().join("answers.jsonl"));
    assert_eq!(said.len(), 2, "{said:#?}");
    assert_ne!(said[0]["id"], said[1]["id"]);
    assert_eq!(said[0]["label"], said[1]["label"]);
}

#[test]
fn a_file_that_was_answered_before_a_crash_and_not_put_away_has_one_answer() {
    let device = start();
    let image = &some_cifar(1)[0];
    // Nothing can be put there.
    let answered = incoming(&device).join("answered");
    fs::remove_dir(&answered).unwrap();
    fs::write(&answered, "").unwrap();
    put(&device, image);
    let answers = device.folder.path().join("answers.jsonl");
    until("an answer", || (lines(&answers).len() == 1).then_some(()));
    let folder = device.kill();
    fs::remove_file(&answered).unwrap();
    let device = start_in(folder, 600);
    let away = answered.join(image.file_name().unwrap());
    until("the end", || away.is_file().then_some(()));
    let (_, folder) = device.end();
    assert_eq!(lines(&folder.path().join("answers.jsonl")).len(), 1);
}

#[test]
fn files_that_are_not_called_as_images_are_told_of_once_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let incoming = folder.path().join("incoming");
    fs::create_dir_all(incoming.join("answered")).unwrap();
    for name in ["photo.heic", "photo", ".hidden"] {
        fs::write(incoming.join(name), "pixels").unwrap();
    }
    let device = start_in(folder, 1);
    answered(&device, &some_cifar(1)[0]);
    // Found by a look that was later.
    let link = incoming.join("link.jpg");
    fs::hard_link(incoming.join("photo.heic"), link).unwrap();
    let failed = incoming.join("failed/link.jpg");
    until("a look", || failed.is_file().then_some(()));
    let (log, _folder) = device.end();
    let told = "2 files here are not called as images (.jpg, .jpeg, .png, .webp";
    assert_eq!(log.matches(told).count(), 1, "{log}");
    assert_eq!(log.matches("not called as images").count(), 1, "{log}");
    assert!(log.contains("incoming/photo: they stay"), "{log}");
}

/// Sets how many files a device may have open.
fn limit_files(device: &Device, most: usize) {
    let limited = Command::new("prlimit")
        .args(["--pid", &device.process.id().to_string()])
        .arg(format!("--nofile={most}:"))
        .status();
    assert!(limited.unwrap().success());
}

#[test]
fn an_image_that_cannot_be_opened_for_now_waits_and_is_answered_once() {
    let device = start();
    let images = some_cifar(2);
    answered(&device, &images[0]);
    // Its connection stays: no other can be made meanwhile.
    assert_eq!(device.metric(FAILURES), Some(0.0));
    limit_files(&device, 1);
    put(&device, &images[1]);
    until("a failure", || device.counted(FAILURES));
    limit_files(&device, 1024);
    let answers = device.folder.path().join("answers.jsonl");
    until("an answer", || (lines(&answers).len() == 2).then_some(()));
    let failed = fs::read_dir(incoming(&device).join("failed")).unwrap();
    assert_eq!(failed.count(), 0);
    let (log, folder) = device.end();
    let said = lines(&folder.path().join("answers.jsonl"));
    assert_eq!(said.len(), 2, "{said:#?}");
    assert_eq!(said[1]["kind"], "answer");
    assert!(log.contains("as many files open as it may"), "{log}");
}
