//! `[[cameras]]`: cameras on this machine. There is none where tests run: a library that the program is started with says what
//! the kernel says about one, so that all of the program is the real one.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use outpost_tests::{program, repository, some_cifar};
use serde_json::Value;
use tempfile::TempDir;

use super::run::{Device, json, lines, until};

const API: &str = "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = \"answers.jsonl\"\n";

/// A folder in which a camera can be plugged in.
struct Camera {
    folder: TempDir,
}

impl Camera {
    fn new(frame: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = repository().join("tests/v4l2/camera.c");
        let library = folder.path().join("camera.so");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        assert!(compiled.unwrap().success());
        let camera = Self { folder };
        fs::write(camera.file("frame"), frame).unwrap();
        camera.plug_in();
        camera
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the program takes for a device.
    fn device(&self) -> PathBuf {
        self.file("video0")
    }

    fn plug_in(&self) {
        symlink("/dev/null", self.device()).unwrap();
    }

    fn unplug(&self) {
        fs::remove_file(self.device()).unwrap();
    }

    /// The program, which will find a camera of these formats.
    fn program(&self, formats: &str) -> Command {
        let mut command = Command::new(program("edge-agent"));
        command
            .env("LD_PRELOAD", self.file("camera.so"))
            .env("OUTPOST_CAMERA", self.device())
            .env("OUTPOST_CAMERA_FORMATS", formats)
            .env("OUTPOST_CAMERA_FRAME", self.file("frame"));
        command
    }

    fn start(&self, formats: &str, extra: &str) -> Device {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("{API}{}{extra}", table(&self.device()));
        Device::start_as(folder, &config, self.program(formats))
    }

    /// What `doctor` finds about it.
    fn examined(&self, formats: &str, extra: &str) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let config = Device::configure(&folder, &format!("{}{extra}", table(&self.device())));
        about_the_camera(self.program(formats), &config)
    }
}

fn table(device: &Path) -> String {
    format!("[[cameras]]\nname = \"door\"\ndevice = {device:?}\nevery_ms = 100\n")
}

fn about_the_camera(mut doctor: Command, config: &Path) -> Value {
    doctor.args(["doctor", "--format", "json", "--config"]);
    let output = doctor.arg(config).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let mut findings = said
        .lines()
        .map(|line| -> Value { serde_json::from_str(line).unwrap() });
    let found = findings.find(|finding| finding["area"] == "camera");
    found.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// A file as cameras give it: without Huffman tables, and filled up.
fn without_tables(file: &[u8]) -> Vec<u8> {
    let (mut frame, mut at) = (file[..2].to_vec(), 2);
    while file[at + 1] != 0xda {
        let length = usize::from(u16::from_be_bytes([file[at + 2], file[at + 3]]));
        let segment = &file[at..at + 2 + length];
        if segment[1] != 0xc4 {
            frame.extend(segment);
        }
        at += segment.len();
    }
    frame.extend(&file[at..]);
    frame.extend([0; 64]);
    frame
}

fn image() -> Vec<u8> {
    fs::read(&some_cifar(1)[0]).unwrap()
}

#[test]
fn images_of_a_camera_are_answered_and_come_again_once_it_is_plugged_in_again() {
    let camera = Camera::new(&without_tables(&image()));
    let device = camera.start("YUYVMJPG", "frames_per_second = 30\n");
    let folder = device.folder.path().to_owned();
    let answers = || lines(&folder.join("answers.jsonl"));
    until("answers", || (answers().len() >= 3).then_some(()));
    // As the same file by HTTP.
    let same: Value = json(device.post("/v1/classify", "image/jpeg", &image()));
    let of_camera = answers().into_iter().find(|event| event["input"] == "door");
    let of_camera = of_camera.unwrap();
    assert_eq!(of_camera["kind"], "answer");
    assert_eq!(of_camera["image"], "door-1");
    for field in ["class_id", "confidence"] {
        assert_eq!(of_camera[field], same[field]);
    }
    camera.unplug();
    until("the outage", || {
        device.counted("outpost_edge_input_failures_total{input=\"door\"}")
    });
    camera.plug_in();
    let before = answers().len();
    until("answers after the outage", || {
        (answers().len() >= before + 2).then_some(())
    });
    let (log, _folder) = device.end();
    for said in [
        "MJPEG, 64×48",
        "does not take `frames_per_second`",
        "the camera is gone",
        "images come again",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
}

#[test]
fn pixels_are_answered_as_well_and_what_is_no_frame_is_not() {
    let camera = Camera::new(b"garbage");
    let device = camera.start("YUYV", "");
    let path = device.folder.path().join("answers.jsonl");
    let first = until("an answer", || lines(&path).into_iter().next());
    assert_eq!(
        (&first["kind"], &first["input"]),
        (&"answer".into(), &"door".into())
    );
    device.end();
    let device = camera.start("MJPG", "timeout_ms = 300\n");
    until("failures", || {
        let failures = device.metric("outpost_edge_input_failures_total{input=\"door\"}")?;
        (failures >= 3.0).then_some(())
    });
    assert_eq!(
        device.metric("outpost_edge_images_total{input=\"door\"}"),
        Some(0.0)
    );
    let (log, _folder) = device.end();
    assert!(
        log.contains("what the camera gave is no frame")
            && log.contains("does not begin as an image"),
        "{log}"
    );
}

#[test]
fn doctor_takes_a_frame_or_says_what_is_wrong_with_the_camera() {
    let camera = Camera::new(&without_tables(&image()));
    let good = camera.examined("MJPG", "");
    assert_eq!(good["verdict"], "good", "{good}");
    assert!(good["found"].as_str().unwrap().contains("MJPEG, 64×48"));
    let pixels = camera.examined("MJPGYUYV", "format = \"yuyv\"\n");
    assert!(
        pixels["found"].as_str().unwrap().contains("YUYV, 64×48"),
        "{pixels}"
    );
    fs::write(camera.file("frame"), &image()[..200]).unwrap();
    for (formats, extra, says) in [
        ("MJPG", "timeout_ms = 500\n", "it was cut short"),
        ("NV12", "", "the camera gives NV12 and not MJPG, JPEG, YUYV"),
        (
            "YUYV",
            "format = \"mjpeg\"\n",
            "the camera gives YUYV and not MJPG, JPEG",
        ),
        ("", "", "the camera gives no format"),
    ] {
        let found = camera.examined(formats, extra);
        assert_eq!(found["verdict"], "failed", "{found}");
        assert!(found["found"].as_str().unwrap().contains(says), "{found}");
    }
}

#[test]
fn what_is_no_camera_is_told_from_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for (device, says) in [
        (PathBuf::from("/dev/null"), "/dev/null is no camera"),
        (file, "is no camera"),
        (folder.path().to_owned(), "is no camera"),
        (folder.path().join("video0"), "there is no "),
    ] {
        let config = Device::configure(&folder, &table(&device));
        let found = about_the_camera(Command::new(program("edge-agent")), &config);
        assert_eq!(found["verdict"], "failed", "{found}");
        assert!(found["found"].as_str().unwrap().contains(says), "{found}");
    }
}

#[test]
fn a_camera_that_is_configured_wrongly_keeps_the_program_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let door = table(Path::new("/dev/video0"));
    for (extra, says) in [
        ("width = 0\n".to_owned(), "`cameras.width` is 0"),
        (
            "height = 20000\n".to_owned(),
            "`cameras.height` is above 16384",
        ),
        ("timeout_ms = 0\n".to_owned(), "`cameras.timeout_ms` is 0"),
        (door.clone(), "two inputs are called \"door\""),
        ("format = \"h264\"\n".to_owned(), "unknown variant `h264`"),
    ] {
        let (code, said) = Device::refused(&folder, &format!("{door}{extra}"));
        assert_eq!(code, 1);
        assert!(said.contains(says), "{said}");
    }
}
