//! As what images are sent: as they were read, encoded anew, or as the link has it.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use outpost_tests::{
    Answers, CertificateFolder, CloudService, EdgeAgent, edge_config, repository, some_photos,
};
use serde_json::{Value, json};

fn classify(cloud: &CloudService, certificates: &CertificateFolder, arguments: &[&str]) -> Answers {
    let answers = EdgeAgent::classify()
        .cloud(&cloud.url(), certificates)
        .args(["--mode", "cloud-only"])
        .args(arguments)
        .args(some_photos(8))
        .run();
    assert_eq!(answers.code, 0, "{}", answers.log);
    answers
}

fn bytes(answers: &Answers) -> u64 {
    let sent = answers.records.iter().map(|r| r["bytes_sent"].as_u64());
    sent.map(Option::unwrap).sum()
}

#[test]
fn every_encoding_gets_the_classes_of_the_original_with_fewer_bytes() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let original = classify(&cloud, &certificates, &[]);
    let is_as_read = |record: &Value| record["encoding"] == "original";
    assert!(original.records.iter().all(is_as_read));
    let mut least = bytes(&original);
    let avif = cfg!(feature = "avif").then_some("avif@57");
    for encoding in ["jpeg@95", "webp@90"].into_iter().chain(avif) {
        let answers = classify(&cloud, &certificates, &["--encoding", encoding]);
        let records = answers.records.iter().zip(&original.records);
        for (record, expected) in records.clone() {
            assert_eq!(record["reason"], "offloaded", "{record}");
            assert!(record["encode_ms"].as_f64().unwrap() > 0.0, "{record}");
            // One that is smaller as it was read is sent so.
            let as_read = expected["bytes_sent"].as_u64().unwrap();
            match record["encoding"].as_str().unwrap() {
                "original" => assert_eq!(record["bytes_sent"], expected["bytes_sent"]),
                sent_as => {
                    assert_eq!(sent_as, encoding);
                    assert!(record["bytes_sent"].as_u64().unwrap() < as_read);
                }
            }
        }
        let same = records.filter(|(a, b)| a["class_id"] == b["class_id"]);
        assert!(same.count() >= 7, "{encoding}");
        let sent = bytes(&answers);
        assert!(sent < least, "{encoding}: {sent} of {least}");
        least = sent;
    }
}

#[test]
fn encodings_that_cannot_be_are_refused_before_the_first_image() {
    let certificates = CertificateFolder::valid();
    let path = certificates.file("edge-agent.toml");
    let refused = |cloud: &str, arguments: &[&str]| {
        let text = format!("[cloud]\nurl = \"https://localhost:1\"\n{cloud}\n");
        fs::write(&path, edge_config(&text)).unwrap();
        let answers = EdgeAgent::classify()
            .args(["--config".as_ref(), path.as_os_str()])
            .args(arguments)
            .args(some_photos(1))
            .run();
        assert_ne!(answers.code, 0, "{cloud}");
        answers.log
    };
    let folder = certificates.file("");
    let missing = format!(
        "encoding = \"auto\"\nencoders = {:?}",
        folder.join("none.json")
    );
    for (cloud, expected) in [
        ("encoding = \"jpeg@0\"", "jpeg@QUALITY"),
        (
            "encoding = \"jpeg@90\"\nkeep_metadata = true",
            "keep_metadata",
        ),
        ("encoding = \"jpeg@90\"\npayload = \"tensor\"", "payload"),
        (
            "encoding = \"auto\"\nmax_accuracy_loss = -1",
            "max_accuracy_loss",
        ),
        (
            "encoding = \"auto\"\nmax_accuracy_loss = nan",
            "max_accuracy_loss",
        ),
        (&missing, "none.json"),
    ] {
        let log = refused(cloud, &[]);
        assert!(log.contains(expected), "{cloud}: {log}");
    }
    let log = refused("", &["--encoding", "gif@50"]);
    assert!(log.contains("jpeg@QUALITY"), "{log}");
    if !cfg!(feature = "avif") {
        let log = refused("", &["--encoding", "avif@57"]);
        assert!(log.contains("--features avif"), "{log}");
    }
}

/// A profile of two encoders, between which a link of some 250 KB/s decides.
fn profile() -> Value {
    let manifest = repository().join("models/efficientnet-lite2/model.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let digest = manifest.split("sha256 = \"").nth(1).unwrap();
    let digest = digest.split('"').next().unwrap();
    let encoder = |name: &str, bytes: f64, encode_ms: f64| {
        json!({
            "encoder": name, "bytes": bytes, "top1": 0.9, "lost_points": 0.0,
            "lost_points_low": 0.0, "lost_points_high": 0.0, "resize_ms": 0.0,
            "encode_ms": encode_ms,
        })
    };
    json!({
        "schema": 1, "network": "efficientnet-lite2", "digest": digest, "images": 1,
        "processor": "", "original": { "bytes": 40e3, "top1": 0.9 },
        "encoders": [encoder("jpeg@85", 24e3, 10.0), encoder("webp@60", 10e3, 70.0)],
    })
}

/// A path to `server` that carries so many bytes a second towards it.
fn thin_path(server: SocketAddr, bytes_a_second: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else {
                continue;
            };
            let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || carry(client, server, Some(bytes_a_second)));
            thread::spawn(move || carry(back.0, back.1, None));
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream, bytes_a_second: Option<u64>) {
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if let Some(rate) = bytes_a_second {
            thread::sleep(Duration::from_micros(count as u64 * 1_000_000 / rate));
        }
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// As what `photos` are sent, one after the other, with `encoding = "auto"` and these further lines of `[cloud]`.
fn sent_as(
    certificates: &CertificateFolder,
    cloud: SocketAddr,
    lines: &str,
    photos: &[PathBuf],
) -> Vec<String> {
    let config = certificates.file("edge-agent.toml");
    let text = format!(
        "max_in_flight = 1\n[cloud]\nurl = \"https://{cloud}\"\ntransport = \"h2\"\n\
         certificate_authority = {:?}\nencoding = \"auto\"\n{lines}\n",
        certificates.authority(),
    );
    fs::write(&config, edge_config(&text)).unwrap();
    let answers = EdgeAgent::classify()
        .args(["--mode", "cloud-only", "--config"])
        .args([&config])
        .args(photos)
        .run();
    let encoding = |record: &Value| record["encoding"].as_str().map(str::to_owned);
    let sent_as: Option<Vec<String>> = answers.records.iter().map(encoding).collect();
    sent_as.unwrap_or_else(|| panic!("{}", answers.log))
}

#[test]
fn auto_begins_as_for_a_usual_link_and_sends_less_over_a_thin_one() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let encoders = certificates.file("profile.json");
    fs::write(&encoders, profile().to_string()).unwrap();
    let encoders = format!("encoders = {encoders:?}");
    let photos = some_photos(8);
    let thin = thin_path(cloud.address(), 40_000);
    let thin = sent_as(&certificates, thin, &encoders, &photos);
    assert_eq!(thin.first().unwrap(), "jpeg@85", "{thin:?}");
    assert_eq!(thin.last().unwrap(), "webp@60", "{thin:?}");
    let fast = sent_as(&certificates, cloud.address(), &encoders, &photos[..3]);
    assert!(fast.iter().all(|sent_as| sent_as == "jpeg@85"), "{fast:?}");
}

#[test]
fn auto_sees_a_thin_link_where_all_images_have_one_size() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let encoders = certificates.file("profile.json");
    fs::write(&encoders, profile().to_string()).unwrap();
    let encoders = format!("encoders = {encoders:?}");
    let thin = thin_path(cloud.address(), 40_000);
    let one = vec![some_photos(1).remove(0); 4];
    let thin = sent_as(&certificates, thin, &encoders, &one);
    assert_eq!(thin, ["jpeg@85", "webp@60", "webp@60", "webp@60"]);
}

#[test]
fn auto_takes_avif_over_a_thin_link_where_both_programs_have_it() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let thin = thin_path(cloud.address(), 20_000);
    // By the profile that comes with the network.
    let thin = sent_as(&certificates, thin, "", &some_photos(8));
    let expected = if cfg!(feature = "avif") {
        "avif@"
    } else {
        "jpeg@"
    };
    assert!(thin.last().unwrap().starts_with(expected), "{thin:?}");
}
