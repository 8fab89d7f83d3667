//! `[outputs.mqtt]`: every event comes to a real broker, Mosquitto, also to one that is restarted; what is no broker holds up
//! nobody.
//!
//! Where `mosquitto`, `mosquitto_passwd` or `mosquitto_sub` is not installed the tests say that they are skipped; where
//! `OUTPOST_REQUIRE_MQTT` is set, they fail.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use outpost_tests::{CertificateFolder, free_address, some_cifar};
use serde_json::Value;

use super::run::{Device, json, until};

const PASSWORD: &str = "p4ssw0rd-of-the-device";

/// A program of Mosquitto, where it is installed.
fn mosquitto(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Mosquitto over TLS, for those who know the password. It keeps what a subscriber has not had yet.
struct Broker {
    certificates: CertificateFolder,
    address: SocketAddr,
    process: Option<Child>,
}

impl Broker {
    /// None where it is not installed.
    fn start() -> Option<Self> {
        let programs = ["mosquitto", "mosquitto_passwd", "mosquitto_sub"];
        if let Some(missing) = programs.iter().find(|name| mosquitto(name).is_none()) {
            assert!(
                env::var_os("OUTPOST_REQUIRE_MQTT").is_none(),
                "{missing} is missing: install the packages mosquitto and mosquitto-clients"
            );
            eprintln!("SKIPPED: no {missing}");
            return None;
        }
        let certificates = CertificateFolder::valid();
        let address = free_address();
        let passwords = certificates.file("passwords");
        let made = Command::new(mosquitto("mosquitto_passwd").unwrap())
            .args(["-c", "-b"])
            .arg(&passwords)
            .args(["camera-7", PASSWORD])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let folder = passwords.parent().unwrap().display();
        let config = format!(
            "user root\nlistener {port} 127.0.0.1\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key\nallow_anonymous false\npassword_file {folder}/passwords\npersistence true\npersistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\n",
            port = address.port(),
        );
        fs::write(certificates.file("mosquitto.conf"), config).unwrap();
        fs::write(certificates.file("mqtt.password"), format!("{PASSWORD}\n")).unwrap();
        let mut broker = Self {
            certificates,
            address,
            process: None,
        };
        broker.restart();
        Some(broker)
    }

    fn restart(&mut self) {
        let mut command = Command::new(mosquitto("mosquitto").unwrap());
        command
            .arg("-c")
            .arg(self.certificates.file("mosquitto.conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        until("the broker", || {
            std::net::TcpStream::connect(self.address).ok()
        });
    }

    /// Ends it as an operator would, so that it keeps what it has.
    fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        let id = process.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        process.wait().unwrap();
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The lines of a device's configuration.
    fn output(&self, password: &Path, authority: &Path) -> String {
        format!(
            "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.mqtt]\nhost = \"localhost\"\nport = {}\ntopic = \"site/camera-7\"\nusername = \"camera-7\"\npassword = {password:?}\ncertificate_authority = {authority:?}\n",
            self.address.port(),
        )
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An independent client that has all messages of a topic.
struct Subscriber {
    process: Arc<Mutex<Child>>,
    lines: Arc<Mutex<Vec<String>>>,
    leaving: Arc<AtomicBool>,
}

impl Subscriber {
    fn start(broker: &Broker, topic: &str) -> Self {
        let mut command = Command::new("stdbuf");
        command
            // What it says about itself is not held back.
            .arg("-oL")
            .arg(mosquitto("mosquitto_sub").unwrap())
            .args(["-h", "localhost", "-p", &broker.address.port().to_string()])
            .arg("--cafile")
            .arg(broker.certificates.authority())
            .args(["-u", "camera-7", "-P", PASSWORD, "-q", "1", "-c", "-i"])
            .arg(format!("of-{}", topic.replace('/', "-")))
            .args(["-t", topic, "-d"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut stdout = process.stdout.take().unwrap();
        let subscriber = Self {
            process: Arc::new(Mutex::new(process)),
            lines: Arc::default(),
            leaving: Arc::default(),
        };
        let (process, lines) = (subscriber.process.clone(), subscriber.lines.clone());
        let leaving = subscriber.leaving.clone();
        thread::spawn(move || {
            loop {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    lines.lock().unwrap().push(line);
                }
                // It connects again by itself, but not where TLS was what broke: then it ends.
                thread::sleep(Duration::from_millis(100));
                let mut process = process.lock().unwrap();
                let _ = process.wait();
                if leaving.load(Ordering::Relaxed) {
                    return;
                }
                *process = command.spawn().unwrap();
                stdout = process.stdout.take().unwrap();
            }
        });
        until("the subscription", || {
            let lines = subscriber.lines.lock().unwrap();
            lines
                .iter()
                .any(|line| line.contains("SUBACK"))
                .then_some(())
        });
        subscriber
    }

    /// Messages that came, without what the client says about itself.
    fn messages(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        let is_message =
            |line: &&String| !line.starts_with("Client ") && !line.starts_with("Subscribed");
        lines.iter().filter(is_message).cloned().collect()
    }

    fn events(&self) -> Vec<Value> {
        let messages = self.messages();
        // Besides, the client may tell of a connection that broke.
        let events = messages.iter().filter(|line| line.starts_with('{'));
        events
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::Relaxed);
        let mut process = self.process.lock().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

#[test]
fn events_come_to_the_broker_and_it_says_whether_the_device_is_there() {
    let Some(broker) = Broker::start() else {
        return;
    };
    let password = broker.certificates.file("mqtt.password");
    let config = broker.output(&password, &broker.certificates.authority());
    let events = Subscriber::start(&broker, "site/camera-7");
    let availability = Subscriber::start(&broker, "site/camera-7/availability");
    let device = Device::start(&config);
    until("online", || {
        (availability.messages() == ["online"]).then_some(())
    });
    let mut said = Vec::new();
    for image in some_cifar(5) {
        let image = fs::read(image).unwrap();
        said.push(json(device.post("/v1/classify", "image/jpeg", &image)));
    }
    device.post("/v1/classify", "image/jpeg", b"none");
    until("six events", || (events.events().len() == 6).then_some(()));
    assert_eq!(events.events()[..5], said);
    assert_eq!(events.events()[5]["kind"], "failure");
    let (log, _) = device.end();
    assert!(!log.contains(PASSWORD), "{log}");
    until("offline", || {
        (availability.messages() == ["online", "offline"]).then_some(())
    });
    // One that goes without a word is missed.
    let mut device = Device::start(&config);
    until("online", || {
        (availability.messages().len() == 3).then_some(())
    });
    device.process.kill();
    until("offline", || {
        (availability.messages() == ["online", "offline", "online", "offline"]).then_some(())
    });
}

#[test]
fn no_event_is_lost_when_the_broker_is_restarted_or_killed() {
    let Some(mut broker) = Broker::start() else {
        return;
    };
    let password = broker.certificates.file("mqtt.password");
    let events = Subscriber::start(&broker, "site/camera-7");
    let device = Device::start(&broker.output(&password, &broker.certificates.authority()));
    let images: Vec<Vec<u8>> = some_cifar(20)
        .iter()
        .map(|image| fs::read(image).unwrap())
        .collect();
    let classify = |image: &Vec<u8>| {
        let event = json(device.post("/v1/classify", "image/jpeg", image));
        event["id"].as_str().unwrap().to_owned()
    };
    let mut said: Vec<String> = Vec::new();
    // Restarted while events come.
    thread::scope(|scope| {
        let calls = scope.spawn(|| {
            let pause = Duration::from_millis(10);
            let calls = images.iter().cycle().take(100);
            calls
                .map(|image| (classify(image), thread::sleep(pause)).0)
                .collect::<Vec<_>>()
        });
        until("some events", || (events.events().len() > 10).then_some(()));
        broker.stop();
        thread::sleep(Duration::from_millis(200));
        broker.restart();
        said.extend(calls.join().unwrap());
    });
    let ids = || {
        let mut ids: Vec<String> = Vec::new();
        for event in events.events() {
            ids.push(event["id"].as_str().unwrap().to_owned());
        }
        ids.sort();
        ids.dedup();
        ids
    };
    until("all events", || (ids().len() >= said.len()).then_some(()));
    assert_eq!(ids(), said);
    // Killed, with events that come while it is away.
    broker.kill();
    said.extend(images.iter().map(classify));
    until("a failure", || {
        device.counted("outpost_edge_output_failures_total{output=\"mqtt\"}")
    });
    broker.restart();
    until("all events", || (ids().len() >= said.len()).then_some(()));
    assert_eq!(ids(), said);
    let (log, _) = device.end();
    assert!(log.contains("events wait for the MQTT broker"), "{log}");
    assert!(log.contains("events are taken again"), "{log}");
    assert!(!log.contains("before the end"), "{log}");
}

#[test]
fn a_wrong_password_and_a_wrong_certificate_are_told_with_what_to_do() {
    let Some(broker) = Broker::start() else {
        return;
    };
    let wrong = broker.certificates.file("wrong.password");
    fs::File::create(&wrong)
        .unwrap()
        .write_all(b"wr0ng-passw0rd\n")
        .unwrap();
    let right = broker.certificates.file("mqtt.password");
    let stranger = CertificateFolder::valid();
    for (password, authority, says) in [
        (
            &wrong,
            broker.certificates.authority(),
            "give the `username` and `password` that it knows",
        ),
        (
            &right,
            stranger.authority(),
            "give the authority of its certificate as `certificate_authority`",
        ),
    ] {
        let device = Device::start(&broker.output(password, &authority));
        until("two failures", || {
            let failures = device.metric("outpost_edge_output_failures_total{output=\"mqtt\"}");
            failures.filter(|&failures| failures >= 2.0)
        });
        let (log, _) = device.end();
        assert_eq!(log.matches(says).count(), 1, "{log}");
        assert!(
            !log.contains("passw0rd") && !log.contains(PASSWORD),
            "{log}"
        );
    }
}

/// Where somebody listens who is no broker: takes connections, and says `says` or nothing at all.
fn no_broker(says: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            match says {
                Some(says) => {
                    let _ = stream.write_all(says.as_bytes());
                }
                None => silent.push(stream),
            }
        }
    });
    address
}

#[test]
fn who_is_no_broker_holds_up_neither_the_start_nor_answers() {
    let http = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    for (says, plain) in [(None, true), (Some(http), true), (Some(http), false)] {
        let mut device = Device::start(&format!(
            "deadline_ms = 20000\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.mqtt]\nhost = \"127.0.0.1\"\nport = {}\nplain = {plain}\ntopic = \"site/camera-7\"\n",
            no_broker(says).port(),
        ));
        let image = fs::read(&some_cifar(1)[0]).unwrap();
        let status = |device: &Device| {
            let answer = device.post("/v1/classify", "image/jpeg", &image);
            answer.status()
        };
        assert_eq!(status(&device), 200);
        until("a failure", || {
            device.counted("outpost_edge_output_failures_total{output=\"mqtt\"}")
        });
        assert_eq!(status(&device), 200);
        // Its events would be tried for some time yet.
        device.process.kill();
        let (_, log) = device.process.wait();
        assert!(log.contains("events wait for the MQTT broker"), "{log}");
        assert!(log.contains("whether it speaks TLS") || !plain, "{log}");
    }
}
