//! Links and peers that fail: every image gets the device's answer, with the cause.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    thread,
};

use outpost_tests::{
    Answers, CertificateFolder, CloudService, EdgeAgent, repository, some_cifar, some_photos,
};
use outpost_transport::development_certificates::Validity;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::run::{Device, json};

fn fell_back(answers: &Answers, cause: &str) {
    assert_eq!(answers.code, 0, "{}", answers.log);
    assert!(!answers.records.is_empty());
    for record in &answers.records {
        assert_eq!(
            record["reason"],
            format!("fallback:{cause}"),
            "{record}\n{}",
            answers.log
        );
        assert_eq!(record["site"], "device");
        assert_eq!(record["network"], "squeezenet1.0");
        assert!(record["class_id"].is_u64());
    }
}

fn offload_to(url: &str, certificates: &CertificateFolder) -> EdgeAgent {
    EdgeAgent::classify()
        .cloud(url, certificates)
        .args(["--mode", "cloud-only"])
        .args(some_photos(1))
}

/// A port of loopback where nothing listens.
fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// TCP and UDP sockets on one port.
fn both_sockets() -> (TcpListener, UdpSocket, SocketAddr) {
    for _ in 0..50 {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        if let Ok(udp) = UdpSocket::bind(address) {
            return (tcp, udp, address);
        }
    }
    panic!("no port is free for both TCP and UDP");
}

#[test]
fn a_closed_port_falls_back_over_every_transport() {
    let certificates = CertificateFolder::valid();
    let url = format!("https://{}", closed_port());
    for transport in ["h2", "h3", "auto"] {
        let agent = offload_to(&url, &certificates).args(["--transport", transport]);
        fell_back(&agent.run(), "unreachable");
    }
}

#[test]
fn without_a_cloud_the_device_answers_alone() {
    let answers = EdgeAgent::classify()
        .args(["--mode", "cloud-only"])
        .args(some_photos(1))
        .run();
    fell_back(&answers, "no-cloud");
}

#[test]
fn a_black_hole_costs_a_few_images_the_deadline_and_then_the_circuit_is_open() {
    let certificates = CertificateFolder::valid();
    // Both are bound and never answer; the kernel accepts the TCP connection.
    let (_tcp, _udp, address) = both_sockets();
    let answers = EdgeAgent::classify()
        .cloud(&format!("https://{address}"), &certificates)
        .args(["--mode", "cloud-only", "--deadline", "900"])
        .args(some_photos(30))
        .run();
    assert_eq!(answers.records.len(), 30);
    let count = |cause: &str| {
        let reason = format!("fallback:{cause}");
        answers
            .records
            .iter()
            .filter(|r| r["reason"] == *reason)
            .count()
    };
    assert!(count("deadline") >= 3, "{}", answers.log);
    assert!(count("circuit-open") >= 10, "{}", answers.log);
    assert_eq!(
        count("deadline") + count("circuit-open") + count("unreachable"),
        30
    );
}

#[test]
fn an_unknown_certificate_authority_is_refused() {
    let cloud = CloudService::start(&CertificateFolder::valid());
    let others = CertificateFolder::valid();
    for transport in ["h2", "h3", "auto"] {
        let agent = offload_to(&cloud.url(), &others).args(["--transport", transport]);
        let answers = agent.run();
        fell_back(&answers, "certificate");
        assert!(answers.log.contains("certificate"), "{}", answers.log);
    }
}

#[test]
fn an_expired_certificate_is_refused() {
    let now = OffsetDateTime::now_utc();
    let expired = CertificateFolder::with_validity(Validity {
        not_before: now - Duration::days(2),
        not_after: now - Duration::days(1),
    });
    let cloud = CloudService::start(&expired);
    for transport in ["h2", "h3"] {
        let answers = offload_to(&cloud.url(), &expired)
            .args(["--transport", transport])
            .run();
        fell_back(&answers, "certificate");
        assert!(answers.log.contains("expired"), "{}", answers.log);
    }
}

#[test]
fn auto_falls_back_to_http2_where_udp_is_blocked() {
    let certificates = CertificateFolder::valid();
    // Nothing answers UDP on the port of the service: its own socket is on TCP alone, and this one,
    // where it gets the port, swallows every datagram.
    let cloud = CloudService::start_at(
        "127.0.0.1:0".parse().unwrap(),
        &certificates,
        "http3 = false",
    );
    let _silent = UdpSocket::bind(cloud.address());
    let answers = offload_to(&cloud.url(), &certificates).run();
    assert_eq!(answers.records[0]["reason"], "offloaded", "{}", answers.log);
    assert_eq!(answers.records[0]["transport"], "h2");
    let only_http3 = offload_to(&cloud.url(), &certificates)
        .args(["--transport", "h3", "--deadline", "800"])
        .run();
    let reason = only_http3.records[0]["reason"].as_str().unwrap();
    assert!(
        ["fallback:deadline", "fallback:unreachable"].contains(&reason),
        "{reason}"
    );
}

#[test]
fn a_peer_that_speaks_nonsense_costs_its_answer_only() {
    let nonsense = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nonsense.local_addr().unwrap();
    thread::spawn(move || {
        // Ends with the test's process.
        for stream in nonsense.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 64];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"220 this is no gRPC service\r\n");
        }
    });
    let certificates = CertificateFolder::valid();
    for url in [format!("https://{address}"), format!("http://{address}")] {
        let answers = offload_to(&url, &certificates)
            .args(["--transport", "h2", "--deadline", "3000"])
            .run();
        let record = &answers.records[0];
        assert_eq!(record["site"], "device", "{record}");
        let reason = record["reason"].as_str().unwrap();
        let causes = [
            "certificate",
            "unreachable",
            "connection-lost",
            "bad-reply",
            "deadline",
        ];
        let cause = reason.strip_prefix("fallback:").unwrap();
        assert!(causes.contains(&cause), "{record}");
    }
}

#[test]
fn a_cloud_without_the_network_says_so() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let folder = tempfile::tempdir().unwrap();
    let cascade = folder.path().join("lite0.toml");
    let text = "name = \"lite0\"\ndescription = \"a network that the service does not have\"\n\
        entry = \"squeezenet1.0\"\n[[node]]\nnetwork = \"squeezenet1.0\"\nsite = \"device\"\n\
        jumps = [\"efficientnet-lite0\"]\npolicy = { kind = \"go-on\" }\n\
        [[node]]\nnetwork = \"efficientnet-lite0\"\nsite = \"cloud\"\n";
    std::fs::write(&cascade, text).unwrap();
    let answers = EdgeAgent::classify()
        .cloud(&cloud.url(), &certificates)
        .args(["--cascade".as_ref(), cascade.as_os_str()])
        .args(some_photos(1))
        .run();
    fell_back(&answers, "rejected");
    assert!(
        answers.log.contains("efficientnet-lite0"),
        "{}",
        answers.log
    );
}

#[test]
fn a_budget_of_bytes_holds_for_all_that_goes_over_the_wire() {
    const BUDGET: u64 = 60_000;
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let config = format!("models = {models:?}\nnetworks = [\"cifar10-resnet\"]");
    let cloud = CloudService::start_with(&certificates, &config);
    let images = some_cifar(100);
    for transport in ["h2", "h3"] {
        let device = Device::start(&format!(
            "mode = \"cloud-only\"\ndeadline_ms = 20000\n[cloud]\nurl = \"{}\"\ntransport = \"{transport}\"\n\
             certificate_authority = {:?}\n[cloud.budget]\nbytes_per_day = {BUDGET}\n[api]\naddress = \"127.0.0.1:0\"\n",
            cloud.url(),
            certificates.authority(),
        ));
        let ask = |image: &[u8]| json(device.post("/v1/classify", "image/jpeg", image));
        let mut sent = 0;
        for image in images.iter().map(|image| std::fs::read(image).unwrap()) {
            let answer = ask(&image);
            match answer["reason"].as_str().unwrap() {
                "offloaded" => sent += answer["bytes_sent"].as_u64().unwrap(),
                reason => {
                    assert_eq!(reason, "fallback:budget", "{answer}");
                    break;
                }
            }
        }
        let peer = json(device.get("/v1/state"))["peers"][0].clone();
        let way = |way: &Value| way["sent"].as_u64().unwrap() + way["received"].as_u64().unwrap();
        let wire = way(&peer["wire"]["h2"]) + way(&peer["wire"]["h3"]);
        println!("{transport}: {wire} bytes on the wire, {sent} of requests");
        // As much as may be, and no more.
        assert!((BUDGET - 6_000..=BUDGET).contains(&wire), "{peer}");
        let left = peer["budgets"][0]["left"].as_f64().unwrap();
        assert!((left - (BUDGET - wire) as f64).abs() < 1_000.0, "{peer}");
        device.end();
    }
}
