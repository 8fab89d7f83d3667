//! Several clouds that serve the same: one that dies or falls silent is left for the next, and gone back to.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use outpost_tests::{
    CertificateFolder, CloudService, EdgeAgent, free_address, repository, some_cifar, some_photos,
};
use serde_json::Value;

use crate::run::{Device, json, lines, until};

fn cloud(address: SocketAddr, certificates: &CertificateFolder) -> CloudService {
    let models = repository().join("models");
    let config = format!(
        "address = \"{address}\"\nmodels = {models:?}\nnetworks = [\"cifar10-resnet\"]\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n"
    );
    CloudService::start_from(certificates, &config, |_| {})
}

/// The configuration of a device that sends all images to the first of two clouds that is there.
fn config(addresses: [SocketAddr; 2], certificates: &CertificateFolder, more: &str) -> String {
    let [first, second] = addresses;
    format!(
        "mode = \"cloud-only\"\ndeadline_ms = 20000\n{more}\n[cloud]\nurl = \"https://{first}\"\ncertificate_authority = {:?}\n\
         health_every_ms = 100\nback_after_ms = 300\n[[cloud.others]]\nurl = \"https://{second}\"\n\
         [api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = \"answers.jsonl\"\n",
        certificates.authority(),
    )
}

fn images(count: usize) -> Vec<Vec<u8>> {
    let image = |path: &PathBuf| fs::read(path).unwrap();
    some_cifar(count).iter().map(image).collect()
}

fn ask(device: &Device, image: &[u8]) -> Value {
    json(device.post("/v1/classify", "image/jpeg", image))
}

/// The cloud at the address answered.
fn assert_answered_by(address: SocketAddr, answer: &Value) {
    let peer = format!("https://{address}");
    assert_eq!(answer["reason"], "offloaded", "{answer}");
    assert_eq!(answer["peer"], peer, "{answer}");
}

/// What `/v1/state` says of the endpoint at the address.
fn endpoint(device: &Device, address: SocketAddr) -> Value {
    let state = json(device.get("/v1/state"));
    let endpoints = state["peers"][0]["endpoints"].as_array().unwrap();
    let url = format!("https://{address}");
    let found = endpoints.iter().find(|one| one["url"] == url.as_str());
    found.unwrap().clone()
}

fn until_answered_by(device: &Device, address: SocketAddr, image: &[u8]) {
    until("an answer of that cloud", || {
        let answer = ask(device, image);
        (answer["peer"] == format!("https://{address}")).then_some(())
    });
}

#[test]
fn a_cloud_that_dies_is_left_for_the_next_and_gone_back_to() {
    let certificates = CertificateFolder::valid();
    let addresses = [free_address(), free_address()];
    let mut clouds = addresses.map(|address| cloud(address, &certificates));
    let device = Device::start(&config(addresses, &certificates, ""));
    let images = images(12);
    until_answered_by(&device, addresses[0], &images[0]);
    clouds[0].kill();
    for image in &images {
        assert_answered_by(addresses[1], &ask(&device, image));
    }
    assert_eq!(endpoint(&device, addresses[0])["presence"], "down");
    assert_eq!(endpoint(&device, addresses[1])["in_use"], true);
    let of = |metric: &str, address: SocketAddr, more: &str| {
        let labels = format!("{{site=\"cloud\",endpoint=\"https://{address}\"{more}}}");
        device.metric(&format!("outpost_edge_cloud_endpoint_{metric}{labels}"))
    };
    assert_eq!(of("up", addresses[0], ""), Some(0.0));
    assert_eq!(of("up", addresses[1], ""), Some(1.0));
    assert_eq!(of("in_use", addresses[1], ""), Some(1.0));
    let answered = of("offloads_total", addresses[1], ",outcome=\"answered\"");
    assert!(answered >= Some(12.0), "{answered:?}");
    let failovers = "outpost_edge_cloud_failovers_total{site=\"cloud\"}";
    assert!(device.metric(failovers) >= Some(1.0));
    clouds[0] = cloud(addresses[0], &certificates);
    until_answered_by(&device, addresses[0], &images[0]);
    assert_eq!(endpoint(&device, addresses[0])["in_use"], true);
    // Both are away: the device answers.
    for cloud in &mut clouds {
        cloud.kill();
    }
    let answer = ask(&device, &images[0]);
    assert_eq!(answer["site"], "device", "{answer}");
    assert!(answer.get("peer").is_none(), "{answer}");
    let (log, folder) = device.end();
    assert!(log.contains("does not answer"), "{log}");
    // Each has one answer.
    let events = lines(&folder.path().join("answers.jsonl"));
    let ids: std::collections::HashSet<_> = events.iter().map(|event| &event["id"]).collect();
    assert_eq!(ids.len(), events.len());
}

#[test]
fn a_cloud_that_falls_silent_is_left_while_its_connections_stay() {
    for transport in ["h2", "h3"] {
        let certificates = CertificateFolder::valid();
        let addresses = [free_address(), free_address()];
        let clouds = addresses.map(|address| cloud(address, &certificates));
        let config = config(addresses, &certificates, "").replace(
            "health_every_ms",
            &format!("transport = \"{transport}\"\nhealth_every_ms"),
        );
        let device = Device::start(&config);
        let images = images(8);
        until_answered_by(&device, addresses[0], &images[0]);
        clouds[0].freeze();
        let ask_soon = |image: &[u8]| {
            let answer = ask(&device, image);
            assert_eq!(answer["reason"], "offloaded", "{answer}");
            // Far below the deadline, and far above the second that it is left within.
            assert!(answer["total_ms"].as_f64().unwrap() < 10_000.0, "{answer}");
            answer
        };
        // On a busy machine a moment goes by until all of its threads have stopped.
        let second = format!("https://{}", addresses[1]);
        until("an answer of the other cloud", || {
            (ask_soon(&images[0])["peer"] == second.as_str()).then_some(())
        });
        for image in &images {
            assert_answered_by(addresses[1], &ask_soon(image));
        }
        assert_eq!(endpoint(&device, addresses[0])["presence"], "down");
        clouds[0].thaw();
        until_answered_by(&device, addresses[0], &images[0]);
        let (log, _) = device.end();
        assert!(log.contains("does not answer"), "{log}");
    }
}

/// A path to a cloud, which takes so long each way, and over which nothing comes through while it is frozen.
fn far(to: SocketAddr, each_way: Duration) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let is_frozen = Arc::new(AtomicBool::new(false));
    let frozen = is_frozen.clone();
    // Ends with the test's process.
    thread::spawn(move || {
        for device in listener.incoming() {
            let (device, cloud) = (device.unwrap(), TcpStream::connect(to).unwrap());
            for (from, to) in [(&device, &cloud), (&cloud, &device)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                to.set_nodelay(true).unwrap();
                let (sent, under_way) = mpsc::channel::<(Instant, Vec<u8>)>();
                let frozen = frozen.clone();
                thread::spawn(move || {
                    for (at, bytes) in under_way {
                        thread::sleep((at + each_way).saturating_duration_since(Instant::now()));
                        while frozen.load(Ordering::Relaxed) {
                            thread::sleep(Duration::from_millis(5));
                        }
                        if to.write_all(&bytes).is_err() {
                            break;
                        }
                    }
                });
                thread::spawn(move || {
                    let mut buffer = [0; 16384];
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        if sent
                            .send((Instant::now(), buffer[..read].to_vec()))
                            .is_err()
                        {
                            break;
                        }
                    }
                });
            }
        }
    });
    (address, is_frozen)
}

#[test]
fn a_cloud_that_falls_silent_is_left_within_a_second_at_any_usual_round_trip() {
    /// From the call to the answer of the other cloud, of which a fifth is for a busy machine.
    const WITHIN: Duration = Duration::from_millis(1200);
    let certificates = CertificateFolder::valid();
    let addresses = [free_address(), free_address()];
    let _clouds = addresses.map(|address| cloud(address, &certificates));
    let image = &images(1)[0];
    for each_way in [0, 75].map(Duration::from_millis) {
        let (first, is_frozen) = far(addresses[0], each_way);
        let config = config([first, addresses[1]], &certificates, "");
        let config = config.replace("health_every_ms", "transport = \"h2\"\nhealth_every_ms");
        let device = Device::start(&config);
        // After one call and after some; the best of three counts.
        let mut took = Vec::new();
        while took.len() < 3 && took.last().is_none_or(|last| *last > WITHIN) {
            until_answered_by(&device, first, image);
            is_frozen.store(true, Ordering::Relaxed);
            let asked = Instant::now();
            assert_answered_by(addresses[1], &ask(&device, image));
            took.push(asked.elapsed());
            is_frozen.store(false, Ordering::Relaxed);
        }
        println!("{each_way:?} each way: {took:?}");
        assert!(
            took.iter().any(|took| *took <= WITHIN),
            "{each_way:?}: {took:?}"
        );
        device.end();
    }
}

#[test]
fn a_cloud_that_is_there_without_the_network_is_not_gone_back_to() {
    let certificates = CertificateFolder::valid();
    let addresses = [free_address(), free_address()];
    let models = repository().join("models");
    let other = format!(
        "address = \"{}\"\nmodels = {models:?}\nnetworks = [\"cifar10-alexnet\"]\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n",
        addresses[0],
    );
    let mut first = CloudService::start_from(&certificates, &other, |_| {});
    let _second = cloud(addresses[1], &certificates);
    let device = Device::start(&config(addresses, &certificates, ""));
    let image = &images(1)[0];
    until_answered_by(&device, addresses[1], image);
    // Ten questions, three times as long as it would have to be there.
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(1) {
        assert_answered_by(addresses[1], &ask(&device, image));
        assert_eq!(endpoint(&device, addresses[0])["presence"], "down");
    }
    let failovers = "outpost_edge_cloud_failovers_total{site=\"cloud\"}";
    assert_eq!(device.metric(failovers), Some(1.0));
    first.kill();
    let _first = cloud(addresses[0], &certificates);
    until_answered_by(&device, addresses[0], image);
    let (log, _) = device.end();
    let left: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("another is asked"))
        .collect();
    assert_eq!(left.len(), 1, "{log}");
    assert!(left[0].contains("rejected") && !left[0].contains("does not answer"));
}

#[test]
fn images_that_found_no_cloud_are_answered_by_the_first_that_comes() {
    let certificates = CertificateFolder::valid();
    let addresses = [free_address(), free_address()];
    let config = config(addresses, &certificates, "delivery = \"eventually\"");
    let device = Device::start(&config);
    let images = images(6);
    for image in &images {
        let answer = ask(&device, image);
        assert_eq!(
            (&answer["site"], &answer["final"]),
            (&"device".into(), &false.into())
        );
    }
    let _cloud = cloud(addresses[1], &certificates);
    let answers = device.folder.path().join("answers.jsonl");
    let finals = until("all corrections", || {
        let mut events = lines(&answers);
        events.retain(|event| event["final"] == true);
        (events.len() == images.len()).then_some(events)
    });
    for event in finals {
        assert_eq!(event["kind"], "correction", "{event}");
        assert_answered_by(addresses[1], &event);
    }
}

#[test]
fn several_clouds_are_given_as_flags() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let away = format!("https://{}", free_address());
    let answers = EdgeAgent::classify()
        .cloud(&away, &certificates)
        .args(["--cloud", &cloud.url(), "--mode", "cloud-only"])
        .args(some_photos(3))
        .run();
    assert_eq!(answers.records.len(), 3);
    for record in &answers.records {
        assert_answered_by(cloud.address(), record);
    }
}

#[test]
fn endpoints_that_are_at_fault_are_named() {
    let refused = |more: &str| {
        let cloud = "[api]\naddress = \"127.0.0.1:0\"\n[cloud]\nurl = \"https://a.example\"";
        let folder = tempfile::tempdir().unwrap();
        let (code, said) = Device::refused(&folder, &format!("{cloud}\n{more}"));
        assert_eq!(code, 1, "{said}");
        said
    };
    let said = refused("[[cloud.others]]\nurl = \"https://a.example\"");
    assert!(said.contains("twice"), "{said}");
    let said = refused("health_every_ms = 0");
    assert!(said.contains("health_every_ms"), "{said}");
    let said = refused("[[cloud.others]]\nurl = \"https://b.example/path\"");
    assert!(
        said.contains("b.example") && said.contains("path"),
        "{said}"
    );
}

/// A model folder whose network of the name is another one.
fn impostor(folder: &std::path::Path) -> PathBuf {
    let models = repository().join("models");
    let network = folder.join("cifar10-resnet");
    fs::create_dir(&network).unwrap();
    let manifest = fs::read_to_string(models.join("cifar10-alexnet/model.toml")).unwrap();
    let labels = models.join("cifar10/labels.txt");
    let manifest = manifest
        .replace("name = \"cifar10-alexnet\"", "name = \"cifar10-resnet\"")
        .replace("../cifar10/labels.txt", labels.to_str().unwrap());
    fs::write(network.join("model.toml"), manifest).unwrap();
    let weights = "cifar10-alexnet.onnx";
    fs::copy(
        models.join("cifar10-alexnet").join(weights),
        network.join(weights),
    )
    .unwrap();
    folder.to_owned()
}

fn digest(network: &str) -> String {
    let manifest = repository().join("models").join(network).join("model.toml");
    let text = fs::read_to_string(manifest).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("sha256 = "));
    line.unwrap().trim_matches('"').to_owned()
}

#[test]
fn a_cloud_that_serves_another_network_by_the_name_is_not_believed() {
    let certificates = CertificateFolder::valid();
    let addresses = [free_address(), free_address()];
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "address = \"{}\"\nmodels = {:?}\nnetworks = [\"cifar10-resnet\"]\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n",
        addresses[0],
        impostor(folder.path()),
    );
    let _impostor = CloudService::start_from(&certificates, &text, |_| {});
    let device = Device::start(&config(addresses, &certificates, ""));
    let image = &images(1)[0];
    let answer = ask(&device, image);
    assert_eq!(answer["site"], "device", "{answer}");
    let _cloud = cloud(addresses[1], &certificates);
    until_answered_by(&device, addresses[1], image);
    let (log, _) = device.end();
    for part in [digest("cifar10-resnet"), digest("cifar10-alexnet")] {
        assert!(log.contains(&part), "{log}");
    }
    assert!(log.contains("another network"), "{log}");
}

/// What came through a relay.
#[derive(Default)]
struct Counts {
    bytes: AtomicUsize,
    /// Of the one who connected: one for each question of a device that asks for nothing else.
    pieces: AtomicUsize,
}

/// Passes on what comes, in both directions, and counts it.
fn relay(to: SocketAddr) -> (SocketAddr, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counts = Arc::new(Counts::default());
    let counted = counts.clone();
    // Ends with the test's process.
    thread::spawn(move || {
        for device in listener.incoming() {
            let (device, cloud) = (device.unwrap(), TcpStream::connect(to).unwrap());
            let ways = [(&device, &cloud, 1), (&cloud, &device, 0)];
            for (from, to, piece) in ways {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let counts = counted.clone();
                thread::spawn(move || {
                    let mut buffer = [0; 16384];
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        counts.bytes.fetch_add(read, Ordering::Relaxed);
                        counts.pieces.fetch_add(piece, Ordering::Relaxed);
                        if to.write_all(&buffer[..read]).is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    (address, counts)
}

#[test]
fn a_question_whether_an_endpoint_is_there_costs_few_bytes() {
    let certificates = CertificateFolder::valid();
    let addresses = [free_address(), free_address()];
    let _clouds = addresses.map(|address| cloud(address, &certificates));
    let (relayed, counts) = relay(addresses[1]);
    let config = config([addresses[0], relayed], &certificates, "");
    let config = config.replace("health_every_ms", "transport = \"h2\"\nhealth_every_ms");
    let device = Device::start(&config);
    let read = || {
        let pieces = counts.pieces.load(Ordering::Relaxed);
        (pieces, counts.bytes.load(Ordering::Relaxed))
    };
    // Beyond the handshakes.
    let before = until("the first questions", || {
        Some(read()).filter(|now| now.0 > 20)
    });
    let after = until("more", || Some(read()).filter(|now| now.0 > before.0 + 50));
    let each = (after.1 - before.1) / (after.0 - before.0);
    println!("{each} bytes a question, both ways, TLS included");
    assert!((50..400).contains(&each), "{each}");
    device.end();
}
