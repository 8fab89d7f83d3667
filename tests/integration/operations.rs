//! What operators do to a device that runs: another configuration, policy and credentials, and what a service manager is
//! told.

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use outpost_tests::{
    CertificateFolder, CloudService, Process, edge_config, free_address, program, repository,
    some_cifar, some_photos,
};
use outpost_transport::development_certificates::Validity;
use serde_json::{Value, json as value};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::{
    run::{Device, PATIENCE, json, until},
    security::issue,
};

const API: &str = "[api]\naddress = \"127.0.0.1:0\"\n";

pub(crate) fn state(device: &Device) -> Value {
    json(device.get("/v1/state"))
}

/// Writes a configuration over that of the device, and has it read again.
pub(crate) fn reconfigure(device: &Device, extra: &str) {
    Device::configure(&device.folder, extra);
    device.process.hang_up();
}

/// Waits for a reload that was refused, and gives why.
pub(crate) fn refused(device: &Device) -> String {
    until("a refusal", || {
        let reload = &state(device)["reload"];
        (reload["result"] == "refused").then(|| reload["error"].as_str().unwrap().to_owned())
    })
}

fn answer(device: &Device, image: &Path) -> Value {
    let image = fs::read(image).unwrap();
    json(device.post("/v1/classify", "image/jpeg", &image))
}

fn reason(device: &Device, image: &Path) -> String {
    answer(device, image)["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_configuration_takes_effect_while_images_are_answered_and_a_broken_one_changes_nothing() {
    let config = |first: &str| format!("{first}\nreload_seconds = 3600\n{API}");
    let device = Arc::new(Device::start(&config("deadline_ms = 20000")));
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let callers: Vec<_> = (0..2)
        .map(|caller| {
            let (device, stop, answered) = (device.clone(), stop.clone(), answered.clone());
            thread::spawn(move || {
                let image = fs::read(&some_cifar(2)[caller]).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let response = device.post("/v1/classify", "image/jpeg", &image);
                    assert_eq!(response.status(), 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let applied = |field: &'static str, expected: Value| {
        until(field, || (state(&device)[field] == expected).then_some(()));
    };
    assert_eq!(state(&device)["reload"], Value::Null);
    reconfigure(&device, &config("deadline_ms = 15000"));
    applied("deadline_ms", value!(15000));
    let before = answered.load(Ordering::Relaxed);
    until("more answers", || {
        (answered.load(Ordering::Relaxed) > before + 10).then_some(())
    });

    // What does not hold changes nothing, whatever is wrong.
    let cascade = |file: &str| format!("deadline_ms = 14000\ncascade = {file:?}");
    for (text, says) in [
        (config("deadline_ms = 14000\nnonsense = 1"), "nonsense"),
        (config("deadline_ms = 0"), "deadline_ms"),
        (
            config("deadline_ms = 14000").replace("127.0.0.1:0", "0.0.0.0:0"),
            "api.address",
        ),
        ("deadline_ms = [".to_owned(), "does not parse"),
    ] {
        reconfigure(&device, &text);
        until(says, || refused(&device).contains(says).then_some(()));
        assert_eq!(state(&device)["deadline_ms"], 15000);
    }
    // A network that is not there.
    let missing = device.folder.path().join("missing.toml");
    let text = repository().join("models/cascades/cifar10-alexnet-resnet.toml");
    let text = fs::read_to_string(text).unwrap().replace(
        "{ kind = \"learned\" }",
        "{ kind = \"threshold\", measure = \"max-probability\", at_least = 0.9, to = \"cifar10-resnet\" }",
    );
    fs::write(&missing, text.replace("cifar10-alexnet", "no-such-network")).unwrap();
    let path = Device::configure(&device.folder, &config("deadline_ms = 14000"));
    let text = fs::read_to_string(&path).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("cascade") && !line.starts_with("policy"));
    let text = lines.fold(
        cascade(missing.to_str().unwrap()),
        |text, line| match line {
            "deadline_ms = 14000" => text,
            line => format!("{text}\n{line}"),
        },
    );
    fs::write(&path, text).unwrap();
    device.process.hang_up();
    until("a missing model", || {
        refused(&device)
            .contains("there is no network \"no-such-network\"")
            .then_some(())
    });
    assert_eq!(state(&device)["deadline_ms"], 15000);
    assert_eq!(
        device.metric("outpost_edge_reloads_total{result=\"refused\"}"),
        Some(5.0)
    );
    assert_eq!(
        device.metric("outpost_edge_reloads_total{result=\"applied\"}"),
        Some(1.0)
    );

    // What waits for a restart is named, and the rest is taken.
    reconfigure(
        &device,
        &config("deadline_ms = 13000\nmax_in_flight = 2\ndelivery = \"now\""),
    );
    applied("deadline_ms", value!(13000));
    // What came of a reload is noted once it is in use.
    until("what waits for a restart", || {
        (state(&device)["reload"]["restart_for"] == value!(["max_in_flight"])).then_some(())
    });

    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().unwrap();
    }
    let images = device.metric("outpost_edge_images_total{input=\"api\"}");
    assert_eq!(images, Some(answered.load(Ordering::Relaxed) as f64));
    let (log, _) = Arc::into_inner(device).unwrap().end();
    assert_eq!(
        log.matches("what was before stays in use").count(),
        5,
        "{log}"
    );
    assert!(
        log.contains("restart to apply") && log.contains("max_in_flight"),
        "{log}"
    );
}

#[test]
fn each_line_of_the_log_is_json_where_that_is_asked_for() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" --log-format json"])
        .arg(program("edge-agent"));
    let config = |first: &str| format!("{first}\nreload_seconds = 3600\n{API}");
    let device = Device::start_as(tempfile::tempdir().unwrap(), &config(""), command);
    reconfigure(&device, &config("deadline_ms = 900\nmax_in_flight = 2"));
    until("a reload", || {
        (state(&device)["reload"]["result"] == "applied").then_some(())
    });
    reconfigure(&device, "nonsense = 1");
    refused(&device);
    let (log, _) = device.end();
    let mut levels: Vec<String> = Vec::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(line["message"].is_string(), "{line}");
        levels.push(line["level"].as_str().unwrap().to_owned());
    }
    for level in ["INFO", "WARN"] {
        assert!(levels.iter().any(|found| found == level), "{log}");
    }
}

#[test]
fn what_a_person_chose_holds_until_the_configuration_says_otherwise() {
    let config =
        |first: &str| format!("{first}\nreload_seconds = 3600\nfollow_link = false\n{API}");
    let device = Device::start(&config("operating_point = \"loss=1\""));
    let is_decided_by = |goal: &str, mode: &str| {
        until(goal, || {
            let state = state(&device);
            (state["policy"]["goal"] == goal && state["mode"] == mode).then_some(())
        });
    };
    let chosen = br#"{"operating_point": "loss=3", "mode": "device-only"}"#;
    assert_eq!(device.put("/v1/state", chosen).status(), 200);
    let base = "operating_point = \"loss=1\"";
    reconfigure(&device, &config(&format!("{base}\ndeadline_ms = 900")));
    until("the deadline", || {
        (state(&device)["deadline_ms"] == 900).then_some(())
    });
    is_decided_by("loss=3", "device-only");
    reconfigure(
        &device,
        &config("operating_point = \"loss=0\"\ndeadline_ms = 900"),
    );
    is_decided_by("loss=0", "device-only");
    reconfigure(
        &device,
        &config("operating_point = \"loss=0\"\nmode = \"cloud-only\""),
    );
    is_decided_by("loss=0", "cloud-only");
    device.end();
}

/// A cloud that knows callers by tokens, and asks for certificates where `tls` says so.
fn cloud(certificates: &CertificateFolder, more: &str) -> CloudService {
    let models = repository().join("models");
    let text = format!(
        "address = \"127.0.0.1:0\"\nmodels = {models:?}\nnetworks = [\"cifar10-resnet\"]\ncredentials_seconds = 3600\n\
         [limits]\ndrain_timeout_seconds = 1\n{more}\n"
    );
    CloudService::start_from(certificates, &text, |_| {})
}

const TLS: &str = "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";

/// A configuration that sends every image to the cloud, and does not open the circuit for long.
fn of_cloud(
    address: SocketAddr,
    certificates: &CertificateFolder,
    first: &str,
    of_cloud: &str,
) -> String {
    format!(
        "mode = \"cloud-only\"\ndeadline_ms = 10000\n{first}\n{API}[circuit]\nopen_for_ms = 1\nopen_for_at_most_ms = 1\n\
         [cloud]\nurl = \"https://{address}\"\ncertificate_authority = {:?}\n{of_cloud}",
        certificates.authority()
    )
}

#[test]
fn a_new_token_is_taken_up_without_a_signal_and_gives_no_fresh_budget() {
    let certificates = CertificateFolder::valid();
    let entry = issue(&certificates, "good.token");
    fs::write(certificates.file("identities.toml"), entry).unwrap();
    let cloud = cloud(
        &certificates,
        &format!("{TLS}[access]\nidentities = \"identities.toml\"\n"),
    );
    let token = certificates.file("token");
    fs::write(&token, "not-the-right-one").unwrap();
    let config = of_cloud(
        cloud.address(),
        &certificates,
        "reload_seconds = 1",
        &format!("token = {token:?}\n[cloud.budget]\noffloads_per_hour = 2\n"),
    );
    let device = Device::start(&config);
    let image = &some_cifar(1)[0];
    // Refused before an image was sent, so that it costs nothing of the budget.
    assert_eq!(reason(&device, image), "fallback:rejected");
    fs::copy(certificates.file("good.token"), &token).unwrap();
    until("a reload", || {
        (state(&device)["reload"]["result"] == "applied").then_some(())
    });
    assert_eq!(reason(&device, image), "offloaded");
    assert_eq!(reason(&device, image), "offloaded");
    assert_eq!(reason(&device, image), "fallback:budget");
    let link = state(&device)["peers"][0]["link"].clone();
    assert!(link.is_object(), "{link}");
    reconfigure(
        &device,
        &config.replace("deadline_ms = 10000", "deadline_ms = 9000"),
    );
    until("the deadline", || {
        (state(&device)["deadline_ms"] == 9000).then_some(())
    });
    assert_eq!(state(&device)["peers"][0]["link"], link);
    assert_eq!(reason(&device, image), "fallback:budget");
    // A larger one gives what it has more.
    reconfigure(
        &device,
        &config
            .replace("offloads_per_hour = 2", "offloads_per_hour = 3")
            .replace("10000", "8000"),
    );
    until("the deadline", || {
        (state(&device)["deadline_ms"] == 8000).then_some(())
    });
    assert_eq!(reason(&device, image), "offloaded");
    assert_eq!(reason(&device, image), "fallback:budget");
    device.end();
}

#[test]
fn the_api_takes_up_a_new_certificate_and_a_new_token() {
    let certificates = CertificateFolder::valid();
    let token = certificates.file("api.token");
    fs::write(&token, "0123456789abcdef-first").unwrap();
    let mut device = Device::start(&format!(
        "[api]\naddress = \"127.0.0.1:0\"\ncertificate = {:?}\nkey = {:?}\ntoken = {token:?}\n",
        certificates.chain(),
        certificates.key(),
    ));
    device.trust(&certificates);
    let status = |device: &Device, token: &str| device.get_with_token("/v1/state", token);
    assert_eq!(status(&device, "0123456789abcdef-first"), Some(200));
    certificates.renew();
    fs::write(&token, "0123456789abcdef-second").unwrap();
    device.process.hang_up();
    device.trust(&certificates);
    until("the new certificate", || {
        (status(&device, "0123456789abcdef-second") == Some(200)).then_some(())
    });
    assert_eq!(status(&device, "0123456789abcdef-first"), Some(401));
    // One that is too short is refused, and the old one holds.
    fs::write(&token, "short").unwrap();
    device.process.hang_up();
    until("a refusal", || {
        (device.metric("outpost_edge_reloads_total{result=\"refused\"}") == Some(1.0)).then_some(())
    });
    assert_eq!(status(&device, "0123456789abcdef-second"), Some(200));
    device.end();
}

#[test]
fn a_certificate_that_has_ended_or_ends_soon_is_told_at_the_start_and_when_it_is_read_again() {
    let in_days = |days| OffsetDateTime::now_utc() + time::Duration::days(days);
    let of = |not_before, not_after| {
        CertificateFolder::with_validity(Validity {
            not_before,
            not_after,
        })
    };
    let ends = in_days(10);
    let certificates = of(in_days(-90), ends);
    let (authority, address) = (certificates.authority(), free_address());
    let device = Device::start(&of_cloud(address, &certificates, "reload_seconds = 1", ""));
    let valid_until = "outpost_edge_credential_valid_until_timestamp_seconds{credential=\"cloud.certificate_authority\"}";
    let is_known = |ends: OffsetDateTime| {
        until("the day", || {
            let known = device.metric(valid_until);
            (known == Some(ends.unix_timestamp() as f64)).then_some(())
        });
    };
    is_known(ends);
    let ended = in_days(-1);
    fs::copy(of(in_days(-90), ended).authority(), &authority).unwrap();
    is_known(ended);
    // One that lasts is no news.
    let lasts = in_days(400);
    fs::copy(of(in_days(-1), lasts).authority(), &authority).unwrap();
    is_known(lasts);
    let (log, _) = device.end();
    let told: Vec<_> = log
        .lines()
        .filter(|line| line.contains("is not valid, or not for long"))
        .collect();
    assert_eq!(told.len(), 2, "{log}");
    assert!(told[0].contains("9 days left"), "{log}");
    assert!(told[1].contains("expired 24 hours ago"), "{log}");
    for line in told {
        assert!(line.contains("WARN") && line.contains("ca.pem"), "{line}");
        assert!(line.contains("get the new authority"), "{line}");
    }
}

/// The server's certificate ends while the device runs; the service is started again with it, and gets a new one later.
#[test]
fn a_server_certificate_that_ends_costs_the_clouds_answers_until_there_is_a_new_one() {
    let now = OffsetDateTime::now_utc();
    let ends = now + time::Duration::seconds(25);
    let certificates = CertificateFolder::with_validity(Validity {
        not_before: now - time::Duration::HOUR,
        not_after: ends,
    });
    let address = free_address();
    let start = || {
        let models = repository().join("models");
        let text = format!(
            "address = \"{address}\"\nmodels = {models:?}\nnetworks = [\"cifar10-resnet\"]\ncredentials_seconds = 3600\n{TLS}"
        );
        CloudService::start_from(&certificates, &text, |_| {})
    };
    let mut cloud = start();
    let device = Device::start(&of_cloud(address, &certificates, "reload_seconds = 1", ""));
    let image = &some_cifar(1)[0];
    let first = reason(&device, image);
    assert!(
        OffsetDateTime::now_utc() >= ends || first == "offloaded",
        "{first}"
    );
    let until_metric = format!(
        "outpost_edge_certificate_valid_until_timestamp_seconds{{site=\"cloud\",endpoint=\"https://{address}\"}}"
    );
    assert_eq!(
        device.metric(&until_metric),
        Some(ends.unix_timestamp() as f64)
    );
    while OffsetDateTime::now_utc() <= ends + time::Duration::SECOND {
        thread::sleep(Duration::from_millis(200));
    }
    // A connection that was made in time may go on; a new one may not be made.
    cloud.kill();
    let cloud = start();
    until("the certificate to be refused", || {
        let answer = answer(&device, image);
        assert_eq!(answer["site"], "device", "{answer}");
        (answer["reason"] == "fallback:certificate").then_some(())
    });
    certificates.renew();
    cloud.hang_up();
    until("an answer of the cloud", || {
        (reason(&device, image) == "offloaded").then_some(())
    });
    let (log, _) = device.end();
    assert!(log.contains("not accepted: expired"), "{log}");
}

#[test]
fn a_client_certificate_that_has_ended_is_told_and_a_new_one_is_taken_up() {
    let certificates = CertificateFolder::valid();
    let now = OffsetDateTime::now_utc();
    let clients = CertificateFolder::with_validity(Validity {
        not_before: now - time::Duration::days(3),
        not_after: now - time::Duration::days(1),
    });
    let cloud = cloud(
        &certificates,
        &format!("{TLS}client_authority = {:?}\n", clients.authority()),
    );
    let device = Device::start(&of_cloud(
        cloud.address(),
        &certificates,
        "reload_seconds = 1",
        &format!(
            "client_certificate = {:?}\nclient_key = {:?}\n",
            clients.file("camera-7.pem"),
            clients.file("camera-7.key"),
        ),
    ));
    let image = &some_cifar(1)[0];
    until("the certificate to be refused", || {
        let answer = answer(&device, image);
        assert_eq!(answer["site"], "device", "{answer}");
        (answer["reason"] == "fallback:certificate").then_some(())
    });
    clients.renew();
    cloud.hang_up();
    until("an answer of the cloud", || {
        (reason(&device, image) == "offloaded").then_some(())
    });
    let (log, _) = device.end();
    assert!(
        log.contains("did not accept this client's certificate"),
        "{log}"
    );
}

/// A socket as a service manager has it, and the environment of a program that it starts.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { socket, folder }
    }

    fn prepare<'a>(&self, command: &'a mut Command, watchdog: Duration) -> &'a mut Command {
        command
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .env_remove("WATCHDOG_PID")
    }

    /// The next message; none where there is none for so long.
    fn next(&self, patience: Duration) -> Option<String> {
        let mut message = [0; 4096];
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let bytes = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..bytes].to_vec()).unwrap())
    }

    /// The next message with a line that is not a sign of life.
    fn said(&self) -> String {
        loop {
            let message = self.next(PATIENCE).expect("nothing was said");
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_how_the_device_stands_and_that_it_makes_progress() {
    let manager = Manager::new();
    let mut command = Command::new(program("edge-agent"));
    manager.prepare(&mut command, Duration::from_secs(2));
    let config = format!("reload_seconds = 3600\n{API}");
    let device = Device::start_as(tempfile::tempdir().unwrap(), &config, command);
    assert_eq!(manager.said(), "READY=1\nSTATUS=answering\n");
    for _ in 0..3 {
        assert_eq!(manager.next(PATIENCE).unwrap(), "WATCHDOG=1\n");
    }
    device.process.hang_up();
    let reloading = manager.said();
    let since_start = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let since_start: u64 = since_start.unwrap().trim().parse().unwrap();
    assert!(since_start > 0);
    assert_eq!(manager.said(), "READY=1\nSTATUS=answering\n");
    reconfigure(&device, "nonsense = 1");
    assert!(manager.said().starts_with("RELOADING=1\n"));
    let ready = manager.said();
    assert!(
        ready.starts_with("READY=1\nSTATUS=answering as before") && ready.contains("nonsense"),
        "{ready}"
    );
    // A program that stands still says nothing.
    device.process.signal("-STOP");
    while manager.next(Duration::from_millis(100)).is_some() {}
    assert_eq!(manager.next(Duration::from_secs(3)), None);
    device.process.signal("-CONT");
    assert_eq!(manager.next(PATIENCE).unwrap(), "WATCHDOG=1\n");
    device.process.terminate();
    assert!(manager.said().starts_with("STOPPING=1\n"));
}

/// A network that runs for longer than half of the watchdog's time cannot be told from one that never ends.
#[test]
fn a_network_that_takes_too_long_for_the_watchdog_is_told() {
    let manager = Manager::new();
    let mut command = Command::new(program("edge-agent"));
    manager.prepare(&mut command, Duration::from_millis(20));
    let listening = manager.socket.try_clone().unwrap();
    thread::spawn(move || while listening.recv(&mut [0; 4096]).is_ok() {});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge-agent.toml");
    fs::write(&path, edge_config(API)).unwrap();
    let mut device = Process::start(command.args(["run", "--config"]).arg(path));
    let url = format!("http://{}/v1/classify", device.address());
    let photo = fs::read(&some_photos(1)[0]).unwrap();
    for _ in 0..20 {
        let posted = ureq::post(&url).header("Content-Type", "image/jpeg");
        assert_eq!(posted.send(&photo).unwrap().status(), 200);
    }
    device.terminate();
    let (is_well, log) = device.wait();
    assert!(is_well && log.contains("has been worked on"), "{log}");
}

#[test]
fn a_service_tells_its_manager_too() {
    let manager = Manager::new();
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let text = format!(
        "address = \"127.0.0.1:0\"\nmodels = {models:?}\nnetworks = [\"cifar10-alexnet\"]\n{TLS}"
    );
    let cloud = CloudService::start_from(&certificates, &text, |command| {
        manager.prepare(command, Duration::from_secs(2));
    });
    assert_eq!(manager.said(), "READY=1\nSTATUS=serving\n");
    assert_eq!(manager.next(PATIENCE).unwrap(), "WATCHDOG=1\n");
    fs::write(certificates.key(), "no key").unwrap();
    cloud.hang_up();
    assert!(manager.said().starts_with("RELOADING=1\n"));
    assert!(manager.said().contains("the new ones do not hold"));
    cloud.terminate();
    assert!(manager.said().starts_with("STOPPING=1\n"));
    assert!(cloud.wait().0);
}
