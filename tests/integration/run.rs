//! `edge-agent run`: the program that is left running. Images come by HTTP and to a folder, answers go to their callers,
//! to listeners and to a file; every image that was taken up has one.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use outpost_runtime::{Encoder, RgbImage};
use outpost_tests::{
    CertificateFolder, CloudService, EdgeAgent, Process, edge_config, program, repository,
    some_cifar, some_photos,
};
use serde_json::Value;
use tempfile::TempDir;
use ureq::{
    Agent, Body,
    http::{Response, header},
    tls::{Certificate, RootCerts, TlsConfig},
};

/// Far beyond what a test waits for on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `edge-agent run` on CIFAR-10's small network, without a cloud.
pub(crate) struct Device {
    pub(crate) process: Process,
    pub(crate) url: String,
    agent: Agent,
    pub(crate) folder: TempDir,
}

impl Device {
    /// One with further lines in its configuration, whose relative paths are in a folder of its own.
    pub(crate) fn start(extra: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), extra)
    }

    pub(crate) fn start_in(folder: TempDir, extra: &str) -> Self {
        Self::start_as(folder, extra, Command::new(program("edge-agent")))
    }

    /// One that `command` starts, to which the arguments of `edge-agent` are added.
    pub(crate) fn start_as(folder: TempDir, extra: &str, mut command: Command) -> Self {
        command
            .args(["run", "--config"])
            .arg(Self::configure(&folder, extra));
        let mut process = Process::start(&mut command);
        let address = process.address();
        let scheme = if extra.contains("\ncertificate = ") {
            "https"
        } else {
            "http"
        };
        let port = address.rsplit_once(':').unwrap().1.to_owned();
        Self {
            process,
            url: format!("{scheme}://localhost:{port}"),
            agent: client(None),
            folder,
        }
    }

    /// Writes a configuration into a folder.
    pub(crate) fn configure(folder: &TempDir, extra: &str) -> PathBuf {
        let models = repository().join("models");
        let cascade = models.join("cascades/cifar10-alexnet-resnet.toml");
        let policy = models.join("policies/cifar10-alexnet-resnet.json");
        let config = folder.path().join("edge-agent.toml");
        let text =
            format!("models = {models:?}\ncascade = {cascade:?}\npolicy = {policy:?}\n{extra}");
        fs::write(&config, text).unwrap();
        config
    }

    /// Starts one that must not start; gives its exit code and what it logged.
    pub(crate) fn refused(folder: &TempDir, extra: &str) -> (i32, String) {
        let mut command = Command::new(program("edge-agent"));
        let config = Self::configure(folder, extra);
        let output = command.args(["run", "--config"]).arg(config).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), said)
    }

    /// Kills it at once; gives its folder.
    pub(crate) fn kill(mut self) -> TempDir {
        self.process.kill();
        self.folder
    }

    pub(crate) fn post(&self, path: &str, kind: &str, body: &[u8]) -> Response<Body> {
        let request = self.agent.post(format!("{}{path}", self.url));
        request
            .header(header::CONTENT_TYPE, kind)
            .send(body)
            .unwrap()
    }

    pub(crate) fn put(&self, path: &str, body: &[u8]) -> Response<Body> {
        let request = self.agent.put(format!("{}{path}", self.url));
        let request = request.header(header::CONTENT_TYPE, "application/json");
        request.send(body).unwrap()
    }

    /// Believes an authority from now on, and shows it in new connections alone.
    pub(crate) fn trust(&mut self, certificates: &CertificateFolder) {
        self.agent = client(Some(&certificates.authority()));
    }

    /// The status of what a token gives; none where there is no connection.
    pub(crate) fn get_with_token(&self, path: &str, token: &str) -> Option<u16> {
        let request = self.agent.get(format!("{}{path}", self.url));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        request
            .call()
            .ok()
            .map(|response| response.status().as_u16())
    }

    pub(crate) fn get(&self, path: &str) -> Response<Body> {
        self.agent
            .get(format!("{}{path}", self.url))
            .call()
            .unwrap()
    }

    pub(crate) fn metric(&self, line: &str) -> Option<f64> {
        let text = self.get("/metrics").body_mut().read_to_string().unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line));
        found.map(|value| value.trim().parse().unwrap())
    }

    /// What a counter says, once it says something.
    pub(crate) fn counted(&self, line: &str) -> Option<f64> {
        self.metric(line).filter(|&count| count > 0.0)
    }

    /// Asks it to end; gives what it logged.
    pub(crate) fn end(self) -> (String, TempDir) {
        self.process.terminate();
        let (is_well, log) = self.process.wait();
        assert!(is_well, "{log}");
        (log, self.folder)
    }
}

/// A client that gives error statuses as they are.
fn client(authority: Option<&Path>) -> Agent {
    let mut config = Agent::config_builder().http_status_as_error(false);
    if let Some(path) = authority {
        let authority = Certificate::from_pem(&fs::read(path).unwrap()).unwrap();
        let roots = RootCerts::Specific([authority].to_vec().into());
        config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
    }
    config.build().into()
}

pub(crate) fn json(mut response: Response<Body>) -> Value {
    serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap()
}

/// The body of a form with one part, and its content type.
fn form(part: &str, file: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    let head = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"{part}\"; filename=\"{file}\"\r\n\r\n"
    );
    let body = [head.as_bytes(), bytes, b"\r\n--edge--\r\n"].concat();
    ("multipart/form-data; boundary=edge".to_owned(), body)
}

pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn an_image_by_http_gets_its_answer_as_a_body_and_as_a_form() {
    let device = Device::start(
        "[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = \"answers.jsonl\"\n",
    );
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let listening = {
        let url = format!("{}/v1/answers", device.url);
        let mut response = device.agent.get(url).call().unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        thread::spawn(move || {
            let mut lines = BufReader::new(response.body_mut().as_reader()).lines();
            let mut next = |prefix: &str| {
                lines
                    .find_map(|line| line.unwrap().strip_prefix(prefix).map(str::to_owned))
                    .unwrap()
            };
            // The order of an event's fields is the server's.
            let data: Value = serde_json::from_str(&next("data:")).unwrap();
            let second: Value = serde_json::from_str(&next("data:")).unwrap();
            [data, second]
        })
    };
    let first = device.post("/v1/classify?name=a", "image/jpeg", &image);
    assert_eq!(first.status(), 200);
    let first = json(first);
    assert_eq!(first["image"], "a");
    assert_eq!(first["input"], "api");
    assert_eq!(first["site"], "device");
    assert!(first["confidence"].as_f64().unwrap() > 0.1);
    let (kind, body) = form("image", "b.jpg", &image);
    let second = json(device.post("/v1/classify", &kind, &body));
    assert_eq!(second["image"], "b.jpg");
    assert_eq!(second["label"], first["label"]);
    assert!(
        second["id"].as_str() > first["id"].as_str(),
        "{second} {first}"
    );
    assert_eq!(listening.join().unwrap(), [first.clone(), second.clone()]);
    assert_eq!(
        device.metric("outpost_edge_images_total{input=\"api\"}"),
        Some(2.0)
    );
    assert_eq!(device.metric("outpost_edge_in_flight_images"), Some(0.0));
    assert_eq!(device.get("/readyz").status(), 200);
    let (_, folder) = device.end();
    assert_eq!(lines(&folder.path().join("answers.jsonl")), [first, second]);
}

#[test]
fn bad_calls_are_told_what_to_do_and_none_is_taken_up() {
    let device = Device::start(
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[images]\nmax_bytes = 2000\n",
    );
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    assert!(image.len() < 2000);
    let (no_image, form_without) = form("picture", "b.jpg", &image);
    let (kind, large_form) = form("image", "b.jpg", &[0xff; 3000]);
    for (path, kind, body, status, says) in [
        (
            "/v1/classify",
            "image/jpeg",
            &b"not an image"[..],
            422,
            "neither JPEG",
        ),
        ("/v1/classify", "image/jpeg", b"", 422, "empty"),
        ("/v1/classify", "image/jpeg", &image[..100], 422, "corrupt"),
        (
            "/v1/classify",
            "image/jpeg",
            &[0xff; 3000],
            413,
            "images.max_bytes",
        ),
        (
            "/v1/classify",
            kind.as_str(),
            &large_form,
            413,
            "images.max_bytes",
        ),
        ("/v1/classify", "text/plain", &image, 415, "Content-Type"),
        (
            "/v1/classify",
            no_image.as_str(),
            &form_without,
            400,
            "part `image`",
        ),
        (
            "/v1/classify",
            "multipart/form-data",
            &image,
            400,
            "boundary",
        ),
        ("/v1/classify", kind.as_str(), b"--edge", 400, ""),
        (
            "/v1/classify?deadline_ms=0",
            "image/jpeg",
            &image,
            400,
            "deadline_ms",
        ),
        (
            "/v1/classify?deadline=5",
            "image/jpeg",
            &image,
            400,
            "deadline",
        ),
        ("/v1/clasify", "image/jpeg", &image, 404, "openapi"),
    ] {
        let response = device.post(path, kind, body);
        let found = response.status().as_u16();
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let problem = json(response);
        assert_eq!(found, status, "{path} {kind}: {problem}");
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"].as_str().unwrap().contains(says),
            "{problem}"
        );
    }
    assert_eq!(device.get("/v1/classify").status(), 405);
    let of_another_site = device
        .agent
        .post(format!("{}/v1/classify", device.url))
        .header("sec-fetch-site", "cross-site")
        .header(header::CONTENT_TYPE, "image/jpeg")
        .send(&image)
        .unwrap();
    assert_eq!(of_another_site.status(), 403);
    assert_eq!(device.metric("outpost_edge_answers_total"), None);
    assert_eq!(
        device.metric("outpost_edge_failures_total{input=\"api\",cause=\"not-an-image\"}"),
        Some(3.0)
    );
    // And it still answers.
    assert_eq!(
        device.post("/v1/classify", "image/jpeg", &image).status(),
        200
    );
    device.end();
}

#[test]
fn with_a_certificate_and_a_token_only_those_who_know_both_may_call() {
    let certificates = CertificateFolder::valid();
    let token = certificates.file("api.token");
    fs::write(&token, "0123456789abcdef0123\n").unwrap();
    let mut device = Device::start(&format!(
        "[api]\naddress = \"0.0.0.0:0\"\ncertificate = {:?}\nkey = {:?}\ntoken = {token:?}\n",
        certificates.chain(),
        certificates.key(),
    ));
    device.agent = client(Some(&certificates.authority()));
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let refused = device.post("/v1/classify", "image/jpeg", &image);
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    assert_eq!(device.get("/v1/answers").status(), 401);
    let with = |token: &str| {
        let request = device.agent.post(format!("{}/v1/classify", device.url));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        request
            .header(header::CONTENT_TYPE, "image/jpeg")
            .send(&image)
            .unwrap()
    };
    assert_eq!(with("0123456789abcdef0124").status(), 401);
    assert_eq!(with("0123456789abcdef0123").status(), 200);
    // Health needs no token.
    assert_eq!(device.get("/livez").status(), 200);
    let stranger = client(None).get(format!("{}/livez", device.url)).call();
    assert!(stranger.is_err());
    let (log, _) = device.end();
    assert!(!log.contains("0123456789abcdef"), "{log}");
}

#[test]
fn images_in_a_folder_are_answered_once_and_put_away() {
    let folder = tempfile::tempdir().unwrap();
    let incoming = folder.path().join("incoming");
    fs::create_dir(&incoming).unwrap();
    let images = some_cifar(12);
    let put = |image: &PathBuf| {
        fs::copy(image, incoming.join(image.file_name().unwrap())).unwrap();
    };
    // There before the program, copied while it runs, moved there, and written slowly.
    images[..3].iter().for_each(put);
    let device = Device::start_in(
        folder,
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[[folders]]\nname = \"door\"\npath = \"incoming\"\n[outputs.file]\npath = \"answers.jsonl\"\n",
    );
    let answers = device.folder.path().join("answers.jsonl");
    until("three answers", || {
        (lines(&answers).len() == 3).then_some(())
    });
    images[3..9].iter().for_each(put);
    for image in &images[9..11] {
        let aside = device.folder.path().join("aside.part");
        fs::copy(image, &aside).unwrap();
        fs::rename(aside, incoming.join(image.file_name().unwrap())).unwrap();
    }
    fs::write(incoming.join("broken.jpg"), "not an image").unwrap();
    fs::write(incoming.join("notes.txt"), "no image, and none by name").unwrap();
    {
        let bytes = fs::read(&images[11]).unwrap();
        let path = incoming.join(images[11].file_name().unwrap());
        let mut file = fs::File::create(path).unwrap();
        for piece in bytes.chunks(bytes.len().div_ceil(4)) {
            std::io::Write::write_all(&mut file, piece).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    }
    until("all answers", || {
        (lines(&answers).len() == 13).then_some(())
    });
    until("the folder to be empty", || {
        let left = fs::read_dir(&incoming)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_file());
        (left.count() == 1).then_some(())
    });
    let mut answered: Vec<String> = Vec::new();
    for line in lines(&answers) {
        assert_eq!(line["input"], "door");
        let name = Path::new(line["image"].as_str().unwrap())
            .file_name()
            .unwrap()
            .to_owned();
        let name = name.into_string().unwrap();
        assert_eq!(
            line["cause"].as_str(),
            (name == "broken.jpg").then_some("not-an-image")
        );
        answered.push(name);
    }
    answered.sort();
    let mut expected: Vec<String> = images
        .iter()
        .map(|image| image.file_name().unwrap().to_str().unwrap().to_owned())
        .chain(["broken.jpg".to_owned()])
        .collect();
    expected.sort();
    assert_eq!(answered, expected);
    assert!(incoming.join("failed/broken.jpg").is_file());
    assert_eq!(fs::read_dir(incoming.join("answered")).unwrap().count(), 12);
    device.end();
}

#[test]
fn answers_go_on_in_a_file_of_the_name_where_somebody_moves_or_removes_it() {
    let device = Device::start(
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = \"answers.jsonl\"\n",
    );
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let answers = device.folder.path().join("answers.jsonl");
    let moved = device.folder.path().join("moved.jsonl");
    let classify = || {
        let event = json(device.post("/v1/classify", "image/jpeg", &image));
        until("its line", || {
            (lines(&answers).last() == Some(&event)).then_some(())
        });
        event
    };
    let first = classify();
    fs::rename(&answers, &moved).unwrap();
    let second = classify();
    assert_eq!(lines(&moved), [first]);
    assert_eq!(lines(&answers), [second]);
    fs::remove_file(&answers).unwrap();
    let third = classify();
    fs::write(&answers, "").unwrap();
    let fourth = classify();
    assert_ne!(third, fourth);
    assert_eq!(lines(&answers), [fourth]);
    let (log, _) = device.end();
    assert_eq!(
        log.matches("somebody moved or removed it").count(),
        2,
        "{log}"
    );
    assert!(log.contains("somebody cut it off"), "{log}");
}

#[test]
fn a_file_of_answers_that_is_a_pipe_or_a_folder_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for path in ["pipe", "."] {
        let extra = format!("[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = {path:?}\n");
        let (code, says) = Device::refused(&folder, &extra);
        assert_eq!(code, 1, "{says}");
        assert!(says.contains("it is no regular file"), "{says}");
        assert!(
            says.contains("name a file as `outputs.file.path`"),
            "{says}"
        );
    }
}

/// Runs a device whose answers go to a file system of 64 kB, which only root may make.
#[test]
fn a_full_disk_holds_up_the_file_of_answers_and_costs_no_line() {
    let disk = tempfile::tempdir().unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=64k none {} && exec \"$@\"",
        disk.path().display()
    );
    let in_mount = |program: &Path| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &mount, "sh"])
            .arg(program);
        command
    };
    let tried = in_mount(Path::new("true")).status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: only root can mount a small file system");
        return;
    }
    let config = format!(
        "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = {:?}\n",
        disk.path().join("answers.jsonl")
    );
    let folder = tempfile::tempdir().unwrap();
    let device = Device::start_as(folder, &config, in_mount(&program("edge-agent")));
    // As the device sees it.
    let root = PathBuf::from(format!("/proc/{}/root", device.process.id()));
    let disk = root.join(disk.path().strip_prefix("/").unwrap());
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let classify = || json(device.post("/v1/classify", "image/jpeg", &image));
    let mut said = vec![classify()];
    let answers = disk.join("answers.jsonl");
    until("an answer", || (lines(&answers).len() == 1).then_some(()));
    let filler = disk.join("filler");
    assert!(fs::write(&filler, vec![0; 1 << 20]).is_err());
    // More than is left of the file's page, and fewer than may wait.
    said.extend((0..40).map(|_| classify()));
    until("a failure", || {
        device.counted("outpost_edge_output_failures_total{output=\"file\"}")
    });
    fs::remove_file(filler).unwrap();
    until("all answers", || {
        let text = fs::read_to_string(&answers).unwrap();
        (text.lines().count() == said.len() && text.ends_with('\n')).then_some(())
    });
    assert_eq!(lines(&answers), said);
    let (log, _) = device.end();
    assert!(log.contains("an answer waits to be written"), "{log}");
}

#[test]
fn more_callers_than_may_wait_are_told_to_come_back_and_the_others_answered() {
    let device =
        Device::start("max_in_flight = 1\n[api]\naddress = \"127.0.0.1:0\"\nmax_waiting = 2\n");
    // Takes some time to decode.
    let photo = fs::read(&some_photos(1)[0]).unwrap();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let calls: Vec<_> = (0..24)
            .map(|_| {
                scope.spawn(|| {
                    device
                        .post("/v1/classify", "image/jpeg", &photo)
                        .status()
                        .as_u16()
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|&&found| found == status).count();
    assert_eq!(count(200) + count(503), 24, "{statuses:?}");
    assert!(count(200) >= 3 && count(503) >= 1, "{statuses:?}");
    assert_eq!(
        device.metric("outpost_edge_dropped_images_total{input=\"api\"}"),
        Some(count(503) as f64)
    );
    assert_eq!(
        device.metric("outpost_edge_images_total{input=\"api\"}"),
        Some(count(200) as f64)
    );
    device.end();
}

#[test]
fn what_was_taken_up_is_answered_before_the_end() {
    let device = Device::start(
        "[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = \"answers.jsonl\"\n",
    );
    let photo = fs::read(&some_photos(1)[0]).unwrap();
    let answered = thread::scope(|scope| {
        let calls: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let request = device.agent.post(format!("{}/v1/classify", device.url));
                    let response = request
                        .header(header::CONTENT_TYPE, "image/jpeg")
                        .send(&photo);
                    response.is_ok_and(|response| response.status() == 200)
                })
            })
            .collect();
        until("an image", || {
            device.counted("outpost_edge_images_total{input=\"api\"}")
        });
        device.process.terminate();
        calls
            .into_iter()
            .map(|call| usize::from(call.join().unwrap()))
            .sum::<usize>()
    });
    assert!(answered >= 1);
    let (_, folder) = device.end();
    assert_eq!(lines(&folder.path().join("answers.jsonl")).len(), answered);
}

#[test]
fn an_answer_of_the_cloud_that_comes_too_late_corrects_that_of_the_device() {
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    // The cloud waits for a second image, in vain, longer than the device does for its answer.
    let cloud = CloudService::start_with(
        &certificates,
        &format!(
            "models = {models:?}\nnetworks = [\"cifar10-resnet\"]\n[batching]\nmax_batch = 2\nmax_delay_ms = 1500\n"
        ),
    );
    let device = Device::start(&format!(
        "deadline_ms = 500\nmode = \"cloud-only\"\n[cloud]\nurl = {:?}\ncertificate_authority = {:?}\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = \"answers.jsonl\"\n",
        cloud.url(),
        certificates.authority(),
    ));
    let answers = device.folder.path().join("answers.jsonl");
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let answer = json(device.post("/v1/classify", "image/jpeg", &image));
    assert_eq!(answer["kind"], "answer");
    assert_eq!(answer["site"], "device");
    assert_eq!(answer["reason"], "fallback:deadline");
    let lines = until("the correction", || {
        let lines = lines(&answers);
        (lines.len() == 2).then_some(lines)
    });
    assert_eq!(lines[0], answer);
    let correction = &lines[1];
    assert_eq!(correction["kind"], "correction");
    assert_eq!(correction["id"], answer["id"]);
    assert_eq!(correction["image"], answer["image"]);
    assert_eq!(correction["site"], "cloud");
    assert_eq!(correction["network"], "cifar10-resnet");
    assert!(
        correction["total_ms"].as_f64().unwrap() > 1000.0,
        "{correction}"
    );
    let class = if correction["class_id"] == answer["class_id"] {
        "same"
    } else {
        "other"
    };
    let metric = format!("outpost_edge_corrections_total{{class=\"{class}\"}}");
    assert_eq!(device.metric(&metric), Some(1.0));
    device.end();
}

#[test]
fn the_operating_point_and_the_mode_can_be_moved_while_it_runs() {
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let networks = format!("models = {models:?}\nnetworks = [\"cifar10-resnet\"]\n");
    let cloud = CloudService::start_with(&certificates, &networks);
    let device = Device::start(&format!(
        "deadline_ms = 20000\n[cloud]\nurl = {:?}\ncertificate_authority = {:?}\n[api]\naddress = \"127.0.0.1:0\"\n",
        cloud.url(),
        certificates.authority(),
    ));
    let put = |body: &str| {
        let request = device.agent.put(format!("{}/v1/state", device.url));
        request
            .header(header::CONTENT_TYPE, "application/json")
            .send(body)
            .unwrap()
    };
    let state = json(device.get("/v1/state"));
    assert_eq!(state["mode"], "policy");
    assert_eq!(state["peers"][0]["circuit"], "closed");
    let points = state["policy"]["operating_points"].as_array().unwrap();
    let rate = |point: &Value| point["offload_rate"].as_f64().unwrap();
    let images: Vec<Vec<u8>> = some_cifar(40)
        .iter()
        .map(|image| fs::read(image).unwrap())
        .collect();
    let offloaded = || {
        let answers = images
            .iter()
            .map(|image| json(device.post("/v1/classify", "image/jpeg", image)));
        answers.filter(|answer| answer["site"] == "cloud").count()
    };
    let mut by_rate: Vec<&Value> = points.iter().collect();
    by_rate.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
    let counts: Vec<usize> = [
        by_rate[0],
        by_rate[by_rate.len() / 2],
        by_rate[by_rate.len() - 1],
    ]
    .into_iter()
    .map(|point| {
        let changed = json(put(&format!("{{\"operating_point\": {}}}", point["name"])));
        assert_eq!(changed["policy"]["operating_point"], point["name"]);
        offloaded()
    })
    .collect();
    assert!(
        counts[0] <= counts[1] && counts[1] < counts[2],
        "{counts:?}"
    );
    assert_eq!(
        json(put(r#"{"mode": "device-only"}"#))["mode"],
        "device-only"
    );
    assert_eq!(offloaded(), 0);
    assert_eq!(
        json(put(r#"{"mode": "policy", "operating_point": "loss=1"}"#))["mode"],
        "policy"
    );
    for (body, status, says) in [
        (r#"{"operating_point": "p99"}"#, 409, "p99"),
        (r#"{"operating_point": "fast please"}"#, 422, "loss=POINTS"),
        (r#"{"mode": "cloud"}"#, 422, "cloud-only"),
        (r#"{"speed": 3}"#, 422, "speed"),
        ("{}", 422, "nothing would change"),
        ("{", 400, ""),
    ] {
        let response = put(body);
        assert_eq!(response.status(), status, "{body}");
        let detail = json(response)["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(says), "{body}: {detail}");
    }
    device.end();
}

#[test]
fn waiting_for_a_turn_is_part_of_the_time_to_an_answer() {
    let device = Device::start(
        "mode = \"device-only\"\ndeadline_ms = 60000\n[api]\naddress = \"127.0.0.1:0\"\n",
    );
    let photo = fs::read(&some_photos(1)[0]).unwrap();
    let answers: Vec<Value> = thread::scope(|scope| {
        let call = || json(device.post("/v1/classify", "image/jpeg", &photo));
        let callers = [(); 6].map(|()| scope.spawn(move || [(); 4].map(|()| call())));
        callers
            .into_iter()
            .flat_map(|caller| caller.join().unwrap())
            .collect()
    });
    let ms = |answer: &Value, part: &str| answer[part].as_f64().unwrap();
    let beside = answers.iter().map(|answer| {
        let parts = ms(answer, "wait_ms") + ms(answer, "device_ms");
        ms(answer, "total_ms") - parts
    });
    assert_little_beside(beside);
    let has_waited = |answer: &&Value| ms(answer, "wait_ms") > ms(answer, "device_ms");
    assert!(answers.iter().filter(has_waited).count() > 1, "{answers:?}");
    let waited = device.metric("outpost_edge_wait_seconds_sum ");
    let told: f64 = answers.iter().map(|answer| ms(answer, "wait_ms")).sum();
    assert!((waited.unwrap() * 1e3 - told).abs() < 1.0);
    device.end();
}

#[test]
fn images_of_a_list_are_taken_up_once_they_have_their_turn() {
    let answers = EdgeAgent::classify()
        .args(["--mode", "device-only"])
        .args(some_photos(5))
        .run();
    assert_eq!(answers.code, 0, "{}", answers.log);
    let ms = |answer: &Value, part: &str| answer[part].as_f64().unwrap();
    let beside = answers.records.iter().map(|answer| {
        assert_eq!(ms(answer, "wait_ms"), 0.0, "{answer}");
        ms(answer, "total_ms") - ms(answer, "device_ms")
    });
    assert_little_beside(beside);
}

/// Asserts that no part of the times is told twice and that most, whatever else the machine does, say where all of it went.
#[track_caller]
fn assert_little_beside(milliseconds: impl Iterator<Item = f64>) {
    let mut beside: Vec<f64> = milliseconds.collect();
    beside.sort_by(f64::total_cmp);
    assert!(beside[0] > -0.01, "{beside:?}");
    assert!(beside[beside.len() / 2] < 10.0, "{beside:?}");
}

#[test]
fn the_operating_point_follows_the_link() {
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    // Every image waits there for another, which does not come.
    let cloud = CloudService::start_with(
        &certificates,
        &format!(
            "models = {models:?}\nnetworks = [\"cifar10-resnet\"]\n[batching]\nmax_batch = 2\nmax_delay_ms = 250\n"
        ),
    );
    let device = Device::start(&format!(
        "operating_point = \"time=20ms\"\ndeadline_ms = 20000\n[cloud]\nurl = {:?}\ncertificate_authority = {:?}\n[api]\naddress = \"127.0.0.1:0\"\n",
        cloud.url(),
        certificates.authority(),
    ));
    let state = || json(device.get("/v1/state"));
    let rate = |state: &Value| {
        let policy = &state["policy"];
        let points = policy["operating_points"].as_array().unwrap();
        let point = points
            .iter()
            .find(|point| point["name"] == policy["operating_point"]);
        point.unwrap()["offload_rate"].as_f64().unwrap()
    };
    let before = state();
    assert_eq!(before["policy"]["goal"], "time=20ms");
    assert!(before["peers"][0]["link"].is_null(), "{before}");
    assert!(rate(&before) > 0.4, "{before}");
    let images = some_cifar(60);
    let mut images = images.iter().cycle();
    let after = until("another operating point", || {
        let image = fs::read(images.next().unwrap()).unwrap();
        assert_eq!(
            device.post("/v1/classify", "image/jpeg", &image).status(),
            200
        );
        let now = state();
        (now["policy"]["operating_point"] != before["policy"]["operating_point"]).then_some(now)
    });
    assert!(rate(&after) < 0.1, "{after}");
    assert_eq!(after["policy"]["goal"], "time=20ms");
    assert!(
        after["peers"][0]["link"]["at_peer_ms"].as_f64().unwrap() > 200.0,
        "{after}"
    );
    assert_eq!(
        device.metric("outpost_edge_operating_point_changes_total"),
        Some(1.0)
    );
    // What an image waits there is told apart from what it takes.
    assert!(
        after["peers"][0]["link"]["queue_ms"].as_f64().unwrap() > 100.0,
        "{after}"
    );
    for part in ["at_peer", "queue"] {
        let seconds = device.metric(&format!(
            "outpost_edge_link_{part}_seconds{{site=\"cloud\"}}"
        ));
        assert!(seconds.unwrap() > 0.1, "{part}");
    }
    for (state, holds) in [("closed", 1.0), ("open", 0.0), ("half-open", 0.0)] {
        let metric = format!("outpost_edge_circuit{{site=\"cloud\",state=\"{state}\"}}");
        assert_eq!(device.metric(&metric), Some(holds), "{state}");
    }
    // One that is asked for by its name stays.
    let pinned = before["policy"]["operating_point"].as_str().unwrap();
    let request = device.agent.put(format!("{}/v1/state", device.url));
    let body = format!("{{\"operating_point\": {pinned:?}}}");
    request
        .header(header::CONTENT_TYPE, "application/json")
        .send(body)
        .unwrap();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(state()["policy"]["operating_point"], pinned);
    device.end();
}

#[test]
fn the_description_names_what_there_is() {
    let device = Device::start("deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n");
    let description = json(device.get("/openapi.json"));
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(
        description["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["image/jpeg"]
            .is_object()
    );
    assert!(description["paths"]["/v1/answers"]["get"].is_object());
    assert!(description["components"]["schemas"]["Event"].is_object());
    device.end();
}

#[test]
fn a_configuration_that_does_not_hold_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("edge-agent.toml");
    for (extra, says) in [
        ("", "there is no input"),
        ("[api]\naddress = \"0.0.0.0:0\"\n", "api.plain_http"),
        ("[api]\ncertificate = \"x.pem\"\n", "`api.key` is missing"),
        (
            "[api]\naddress = \"127.0.0.1:0\"\ntoken = \"none\"\n",
            "cannot read the token",
        ),
        ("[[folders]]\npath = \"nowhere\"\n", "nowhere"),
        (
            "[[folders]]\npath = \".\"\nname = \"api\"\n",
            "two inputs are called",
        ),
        (
            "[api]\n[outputs.file]\npath = \"nowhere/answers.jsonl\"\n",
            "nowhere/answers.jsonl",
        ),
        ("[api]\nadress = \"127.0.0.1:0\"\n", "adress"),
        (
            "delivery = \"eventually\"\n[api]\n",
            "needs a `[cloud]` or `[fog]`",
        ),
    ] {
        fs::write(&config, edge_config(extra)).unwrap();
        let mut command = Command::new(program("edge-agent"));
        let mut child = command
            .args(["run", "--mode", "device-only", "--config"])
            .arg(&config)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(!child.wait().unwrap().success(), "{extra}");
        assert!(said.contains(says), "{extra}: {said}");
    }
}

#[test]
fn memory_that_an_image_needed_is_given_back_soon() {
    let device = Device::start("[api]\naddress = \"127.0.0.1:0\"\n");
    let written = || {
        let status = fs::read_to_string(format!("/proc/{}/status", device.process.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kilobytes: u64 = line
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        kilobytes / 1024
    };
    let image = RgbImage::new(5000, 4000);
    let encoder: Encoder = "jpeg@80".parse().unwrap();
    let image = encoder.encode(&image).unwrap();
    let (ended, is_ended) = channel();
    let (before, most) = thread::scope(|scope| {
        let before = written();
        scope.spawn(|| {
            let answer = device.post("/v1/classify", "image/jpeg", &image);
            ended.send(()).unwrap();
            assert_eq!(answer.status(), 200);
        });
        let mut most = 0;
        while is_ended.try_recv().is_err() {
            most = most.max(written());
        }
        (before, most)
    });
    assert!(most > before + 50, "its pixels have 57 MB: {before} {most}");
    until("as little memory as before", || {
        (written() < before + 10).then_some(())
    });
    device.end();
}
