//! `delivery = "eventually"`: images that found no cloud wait on disk, whatever happens to the device meanwhile.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use outpost_tests::{
    CertificateFolder, CloudService, free_address, program, repository, some_cifar, some_photos,
};
use serde_json::Value;

use crate::{
    operations::{reconfigure, state},
    run::{Device, json, lines, until},
    security::issue,
};

fn cloud(address: SocketAddr, certificates: &CertificateFolder) -> CloudService {
    cloud_with(address, certificates, "")
}

/// A cloud with `more` in its configuration.
fn cloud_with(address: SocketAddr, certificates: &CertificateFolder, more: &str) -> CloudService {
    let models = repository().join("models");
    let config = format!(
        "address = \"{address}\"\nmodels = {models:?}\nnetworks = [\"cifar10-resnet\"]\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n{more}"
    );
    CloudService::start_from(certificates, &config, |_| {})
}

/// The configuration of a device that sends all but the surest images to a cloud; `queue` are lines of `[queue]`.
fn config(address: SocketAddr, certificates: &CertificateFolder, queue: &str) -> String {
    format!(
        "operating_point = \"loss=0\"\nfollow_link = false\ndeadline_ms = 10000\ndelivery = \"eventually\"\n\
         [queue]\n{queue}\n[cloud]\nurl = \"https://{address}\"\ncertificate_authority = {:?}\n\
         [api]\naddress = \"127.0.0.1:0\"\n[[folders]]\npath = \"images\"\nsettle_ms = 10\n[outputs.file]\npath = \"answers.jsonl\"\n",
        certificates.authority(),
    )
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap()
}

/// The events about each image, in order.
fn by_image(events: &[Value]) -> HashMap<String, Vec<&Value>> {
    let mut images: HashMap<String, Vec<&Value>> = HashMap::new();
    for event in events {
        let id = text(event, "id").to_owned();
        images.entry(id).or_default().push(event);
    }
    images
}

/// Each image has one final event, its last one.
fn assert_one_final(events: &[Value]) {
    for (id, said) in by_image(events) {
        let finals = said.iter().filter(|event| event["final"] == true).count();
        assert_eq!(finals, 1, "{id}: {said:#?}");
        assert_eq!(said.last().unwrap()["final"], true, "{id}: {said:#?}");
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("images")).unwrap();
    folder
}

#[test]
fn images_that_found_no_cloud_outlive_a_killed_device_and_get_its_answer_once() {
    let certificates = CertificateFolder::valid();
    let address = free_address();
    let config = config(address, &certificates, "");
    let device = Device::start_in(folder(), &config);
    let images = some_cifar(40);
    let mut provisional = 0;
    for (i, image) in images.iter().enumerate() {
        if i % 2 == 0 {
            let encoded = fs::read(image).unwrap();
            let answer = json(device.post("/v1/classify", "image/jpeg", &encoded));
            assert_eq!(answer["site"], "device", "{answer}");
            let is_offloaded = text(&answer, "reason") != "confident";
            assert_eq!(answer["final"], !is_offloaded, "{answer}");
            provisional += usize::from(is_offloaded);
        } else {
            let name = image.file_name().unwrap();
            fs::copy(image, device.folder.path().join("images").join(name)).unwrap();
        }
    }
    assert!(provisional > 2, "{provisional}");
    let answers = device.folder.path().join("answers.jsonl");
    // It dies while files wait, are answered, or are put away.
    until("half of the answers", || {
        (lines(&answers).len() > images.len() / 2 + 5).then_some(())
    });
    let device = Device::start_in(device.kill(), &config);
    let cloud = cloud(address, &certificates);
    until("the first of those that waited", || {
        let corrected = |event: &Value| event["kind"] == "correction";
        lines(&answers).iter().any(corrected).then_some(())
    });
    let device = Device::start_in(device.kill(), &config);
    until("all", || {
        let events = lines(&answers);
        let images_said = by_image(&events);
        let is_done = |said: &Vec<&Value>| said.iter().any(|event| event["final"] == true);
        let all_done = images_said.values().all(is_done);
        (images_said.len() == images.len() && all_done).then_some(())
    });
    assert_eq!(device.metric("outpost_edge_queue_images "), Some(0.0));
    let (_, folder) = device.end();
    let events = lines(&folder.path().join("answers.jsonl"));
    assert_one_final(&events);
    let corrections: Vec<&Value> = events
        .iter()
        .filter(|e| e["kind"] == "correction")
        .collect();
    assert!(corrections.len() >= provisional);
    for event in corrections {
        assert_eq!(
            (text(event, "site"), text(event, "reason")),
            ("cloud", "offloaded")
        );
    }
    // What it kept is nobody else's to read.
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(folder.path().join("queue.redb"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    drop(cloud);
}

/// Brings so many images by HTTP; gives how many of them wait for the cloud.
fn bring(device: &Device, count: usize) -> usize {
    let is_waiting = |image: &PathBuf| {
        let encoded = fs::read(image).unwrap();
        json(device.post("/v1/classify", "image/jpeg", &encoded))["final"] == false
    };
    some_cifar(count)
        .iter()
        .filter(|one| is_waiting(one))
        .count()
}

fn corrections(device: &Device) -> usize {
    let mut events = lines(&device.folder.path().join("answers.jsonl"));
    events.retain(|event| event["kind"] == "correction");
    events.len()
}

#[test]
fn an_output_that_is_away_keeps_no_last_word_from_the_others() {
    let certificates = CertificateFolder::valid();
    let address = free_address();
    let away = format!("[outputs.webhook]\nurl = \"http://{}/\"\n", free_address());
    let config = config(address, &certificates, "") + &away;
    let device = Device::start_in(folder(), &config);
    let waiting = bring(&device, 30);
    assert!(waiting > 2, "{waiting}");
    let _cloud = cloud(address, &certificates);
    until("all corrections", || {
        (corrections(&device) == waiting).then_some(())
    });
    let undelivered = device.metric("outpost_edge_queue_undelivered_events ");
    assert_eq!(undelivered, Some(waiting as f64));
    assert_eq!(device.metric("outpost_edge_queue_images "), Some(0.0));
    device.kill();
}

#[test]
fn images_are_sent_within_seconds_of_the_clouds_return_however_many_came_meanwhile() {
    let certificates = CertificateFolder::valid();
    let address = free_address();
    let device = Device::start_in(folder(), &config(address, &certificates, ""));
    let waiting = bring(&device, 60);
    assert!(waiting > 10, "{waiting}");
    let _cloud = cloud(address, &certificates);
    let back = Instant::now();
    until("the first correction", || {
        (corrections(&device) > 0).then_some(())
    });
    // Two are promised; other tests take their time.
    assert!(back.elapsed() < Duration::from_secs(10), "{back:?}");
    device.end();
}

/// Has the programs that are started with it wait for 200 ms more whenever something is to be on the disk; none where there is
/// no compiler.
fn slow_disk(folder: &Path) -> Option<PathBuf> {
    const SLOW: &str = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <unistd.h>\n\
        int fsync(int f) { usleep(200000); return ((int (*)(int))dlsym(RTLD_NEXT, \"fsync\"))(f); }\n\
        int fdatasync(int f) { usleep(200000); return ((int (*)(int))dlsym(RTLD_NEXT, \"fdatasync\"))(f); }\n";
    let (source, library) = (folder.join("slow.c"), folder.join("slow.so"));
    fs::write(&source, SLOW).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
    let is_made = compiler.arg(&source).arg("-ldl").status();
    if !is_made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no C compiler makes the disk slow");
        return None;
    }
    Some(library)
}

#[test]
fn a_slow_disk_makes_no_answer_late_and_its_time_counts() {
    let folder = folder();
    let Some(slow) = slow_disk(folder.path()) else {
        return;
    };
    let certificates = CertificateFolder::valid();
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(silent.local_addr().unwrap(), &certificates, "")
        .replace("= 10000", "= 1000")
        .replace(
            "[cloud]\n",
            "[circuit]\nfailures_to_open = 1000\n[cloud]\ntransport = \"h2\"\n",
        );
    let mut command = Command::new(program("edge-agent"));
    command.env("LD_PRELOAD", slow);
    let device = Device::start_as(folder, &config, command);
    let (mut waits, mut untold) = (Vec::new(), Vec::new());
    let mut images = some_cifar(200).into_iter();
    while waits.len() < 4 {
        let encoded = fs::read(images.next().unwrap()).unwrap();
        let asked = Instant::now();
        let answer = json(device.post("/v1/classify", "image/jpeg", &encoded));
        let waited = asked.elapsed().as_secs_f64() * 1e3;
        if answer["final"] == false {
            waits.push(waited);
            untold.push(waited - answer["total_ms"].as_f64().unwrap());
        }
    }
    // The least of them: the machine may be busy with other tests.
    let least = |times: &[f64]| times.iter().copied().fold(f64::MAX, f64::min);
    assert!(least(&waits) < 1100.0, "{waits:?}");
    assert!(least(&untold) < 100.0, "{untold:?}");
    let slow = device.metric("outpost_edge_queue_commit_seconds_sum ");
    assert!(slow.unwrap() > 4.0 * 0.2, "{slow:?}");
    device.kill();
}

#[test]
fn images_that_wait_too_long_or_find_no_room_keep_the_devices_answer() {
    let certificates = CertificateFolder::valid();
    let address = free_address();
    // Two seconds, and room for two or three images.
    let bounds = "max_bytes = 2500\nmax_age_hours = 0.00056";
    let device = Device::start_in(folder(), &config(address, &certificates, bounds));
    for image in some_cifar(30) {
        let encoded = fs::read(image).unwrap();
        json(device.post("/v1/classify", "image/jpeg", &encoded));
    }
    let no_room = "outpost_edge_queue_left_total{outcome=\"NoRoom\"}";
    assert!(device.metric(no_room).unwrap() > 0.0);
    assert!(device.metric("outpost_edge_queue_bytes ").unwrap() <= 2500.0);
    // The next look finds those that are too old.
    let answers = device.folder.path().join("answers.jsonl");
    until("the last", || {
        let events = lines(&answers);
        let is_done = |said: &Vec<&Value>| said.iter().any(|event| event["final"] == true);
        by_image(&events).values().all(is_done).then_some(())
    });
    let events = lines(&answers);
    assert_one_final(&events);
    for event in events
        .iter()
        .filter(|event| event["kind"] == "confirmation")
    {
        assert_eq!(text(event, "site"), "device");
    }
    let too_old = "outpost_edge_queue_left_total{outcome=\"TooOld\"}";
    assert!(device.metric(too_old).unwrap() > 0.0);
    device.end();
}

#[test]
fn an_image_that_waits_stays_here_once_its_class_must_not_leave() {
    let certificates = CertificateFolder::valid();
    let address = free_address();
    let config = config(address, &certificates, "");
    let device = Device::start_in(folder(), &config);
    // Of images of two classes that wait, those of one may not leave any more.
    let mut images = some_cifar(200).into_iter();
    let mut waits = || {
        until("an image that waits", || {
            let encoded = fs::read(images.next().unwrap()).unwrap();
            let answer = json(device.post("/v1/classify", "image/jpeg", &encoded));
            (answer["final"] == false).then(|| text(&answer, "label").to_owned())
        })
    };
    let private = waits();
    let mut others = 0;
    while others < 5 {
        others += usize::from(waits() != private);
    }
    reconfigure(
        &device,
        &format!("{config}[privacy]\nnever_offload = [{private:?}]\n"),
    );
    until("a reload", || {
        (state(&device)["reload"]["result"] == "applied").then_some(())
    });
    let _cloud = cloud(address, &certificates);
    until("the end of all", || {
        (device.metric("outpost_edge_queue_images ") == Some(0.0)).then_some(())
    });
    let (_, folder) = device.end();
    let events = lines(&folder.path().join("answers.jsonl"));
    let said = by_image(&events);
    assert_one_final(&events);
    let mut kinds = HashMap::new();
    for said in said.values().filter(|said| said[0]["final"] == false) {
        kinds
            .entry(said[0]["label"] == *private)
            .or_insert_with(Vec::new)
            .push(text(said[1], "kind"));
    }
    assert!(
        kinds[&true].iter().all(|kind| *kind == "confirmation"),
        "{kinds:?}"
    );
    // To some of them the class is improbable.
    assert!(kinds[&false].contains(&"correction"), "{kinds:?}");
}

#[test]
fn an_image_whose_time_was_over_before_it_could_be_sent_waits_too() {
    let certificates = CertificateFolder::valid();
    let address = free_address();
    let _cloud = cloud(address, &certificates);
    let config = config(address, &certificates, "").replace("= 10000", "= 1");
    let device = Device::start_in(folder(), &config);
    // To decode a photo alone takes longer.
    let mut photos = some_photos(20).into_iter();
    let id = until("an image that waits", || {
        let photo = fs::read(photos.next().unwrap()).unwrap();
        let answer = json(device.post("/v1/classify", "image/jpeg", &photo));
        assert_eq!(answer["bytes_sent"], 0, "{answer}");
        (answer["reason"] == "fallback:deadline").then(|| {
            assert_eq!(answer["final"], false, "{answer}");
            answer["id"].clone()
        })
    });
    until("its end", || {
        let events = lines(&device.folder.path().join("answers.jsonl"));
        let mut of_it = events.iter().filter(|event| event["id"] == id);
        let last = of_it.find(|event| event["final"] == true)?;
        assert_eq!(
            (&last["kind"], &last["site"]),
            (&"correction".into(), &"cloud".into())
        );
        Some(())
    });
    device.end();
}

#[test]
fn images_wait_until_the_cloud_that_refused_the_device_knows_it() {
    let certificates = CertificateFolder::valid();
    let identity = issue(&certificates, "good.token");
    fs::write(certificates.file("identities.toml"), identity).unwrap();
    let address = free_address();
    let access = "[access]\nidentities = \"identities.toml\"\n";
    let _cloud = cloud_with(address, &certificates, access);
    let token = certificates.file("token");
    fs::write(&token, "not-the-right-one").unwrap();
    let with_token = format!("[cloud]\ntoken = {token:?}\n");
    let config = config(address, &certificates, "").replace("[cloud]\n", &with_token);
    let device = Device::start_in(folder(), &format!("reload_seconds = 1\n{config}"));
    let mut refused = 0;
    for image in some_cifar(20) {
        let encoded = fs::read(image).unwrap();
        let answer = json(device.post("/v1/classify", "image/jpeg", &encoded));
        assert_eq!(answer["site"], "device", "{answer}");
        let is_refused = text(&answer, "reason") == "fallback:rejected";
        assert_eq!(answer["final"], !is_refused, "{answer}");
        refused += usize::from(is_refused);
    }
    assert!(refused > 2, "{refused}");
    fs::copy(certificates.file("good.token"), &token).unwrap();
    let answers = device.folder.path().join("answers.jsonl");
    let corrections = until("the cloud's answers", || {
        let mut events = lines(&answers);
        events.retain(|event| event["kind"] == "correction");
        (events.len() == refused).then_some(events)
    });
    for event in corrections {
        assert_eq!(text(&event, "site"), "cloud");
    }
    assert_one_final(&lines(&answers));
    device.end();
}

/// A folder for a file system of 2 MB, which only root may make; none for others.
fn small_disk() -> Option<tempfile::TempDir> {
    let disk = tempfile::tempdir().unwrap();
    let may_mount = Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "none"])
        .arg(disk.path())
        .status()
        .is_ok_and(|status| status.success());
    if !may_mount {
        eprintln!("SKIPPED: only root can mount a small file system");
        return None;
    }
    Some(disk)
}

/// Runs a device whose queue is on such a disk, which has only as much room as the command `first` leaves.
fn device_on(disk: &Path, first: &str, certificates: &CertificateFolder) -> Device {
    let queue = format!("path = {:?}", disk.join("queue.redb"));
    let config = config(free_address(), certificates, &queue);
    let script = format!(
        "mount -t tmpfs -o size=2m none {} && {{ {first}; exec \"$@\"; }}",
        disk.display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(program("edge-agent"));
    Device::start_as(folder(), &config, command)
}

#[test]
fn a_full_disk_costs_no_image_its_answer() {
    let Some(disk) = small_disk() else { return };
    let certificates = CertificateFolder::valid();
    let device = device_on(disk.path(), "true", &certificates);
    // Noise after the image's end takes room, and is as good as any metadata.
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let padded = [image, vec![7; 300_000]].concat();
    let mut not_final = 0;
    for _ in 0..30 {
        let answer = json(device.post("/v1/classify", "image/jpeg", &padded));
        assert_eq!(answer["kind"], "answer", "{answer}");
        not_final += usize::from(answer["final"] == false);
    }
    assert!((1..30).contains(&not_final), "{not_final} of 30 were kept");
    let not_kept = "outpost_edge_queue_left_total{outcome=\"NotKept\"}";
    assert_eq!(device.metric(not_kept), Some(30.0 - not_final as f64));
    assert!(device.metric("outpost_edge_queue_failures_total ").unwrap() > 0.0);
    let (log, _) = device.end();
    assert!(log.contains("the disk is full: make room"), "{log}");
}

#[test]
fn a_disk_that_is_full_at_the_start_costs_no_image_its_answer() {
    let Some(disk) = small_disk() else { return };
    let certificates = CertificateFolder::valid();
    let fill = format!("cat /dev/zero > {}/full", disk.path().display());
    let device = device_on(disk.path(), &fill, &certificates);
    let mut not_kept = 0.0;
    for image in some_cifar(20) {
        let encoded = fs::read(image).unwrap();
        let answer = json(device.post("/v1/classify", "image/jpeg", &encoded));
        assert_eq!(
            (text(&answer, "site"), &answer["final"]),
            ("device", &true.into())
        );
        not_kept += f64::from(u8::from(text(&answer, "reason") != "confident"));
    }
    assert!(not_kept > 2.0, "{not_kept}");
    let left = "outpost_edge_queue_left_total{outcome=\"NotKept\"}";
    assert_eq!(device.metric(left), Some(not_kept));
    assert!(device.metric("outpost_edge_queue_failures_total ").unwrap() > 0.0);
    let (log, _) = device.end();
    assert!(log.contains("the disk is full: make room"), "{log}");
}

#[test]
fn a_damaged_queue_is_set_aside_and_a_new_one_begun() {
    let certificates = CertificateFolder::valid();
    let folder = folder();
    // As a disk leaves it that lost its pages.
    let damaged = vec![0; 1 << 16];
    fs::write(folder.path().join("queue.redb"), &damaged).unwrap();
    let device = Device::start_in(folder, &config(free_address(), &certificates, ""));
    let mut kept = 0.0;
    for image in some_cifar(20) {
        let encoded = fs::read(image).unwrap();
        let answer = json(device.post("/v1/classify", "image/jpeg", &encoded));
        kept += f64::from(u8::from(answer["final"] == false));
    }
    assert!(kept > 2.0, "{kept}");
    assert_eq!(device.metric("outpost_edge_queue_images "), Some(kept));
    let (log, folder) = device.end();
    let aside = folder.path().join("queue.redb.damaged");
    assert!(log.contains(aside.to_str().unwrap()), "{log}");
    assert_eq!(fs::read(aside).unwrap(), damaged);
}

#[test]
fn a_queue_that_cannot_be_used_is_refused_at_the_start() {
    let certificates = CertificateFolder::valid();
    let refused = |folder: &tempfile::TempDir, queue: &str, says: &str| {
        let config = config(free_address(), &certificates, queue);
        let (code, log) = Device::refused(folder, &config);
        assert_eq!(code, 1, "{log}");
        assert!(log.contains(says), "{says}: {log}");
    };
    refused(&folder(), "path = \"no/such/queue\"", "make its folder");
    let other = folder();
    fs::write(other.path().join("queue.redb"), "a text").unwrap();
    refused(&other, "", "no queue of this version");
    refused(&folder(), "max_bytes = 0", "queue.max_bytes");
    refused(&folder(), "max_age_hours = -1.0", "queue.max_age_hours");
    // Of another device that runs.
    let device = Device::start_in(folder(), &config(free_address(), &certificates, ""));
    let taken = format!("path = {:?}", device.folder.path().join("queue.redb"));
    refused(&folder(), &taken, "another edge-agent uses it");
    device.end();
}
