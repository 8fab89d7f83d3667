//! What leaves the device, and how much of it.

use std::{
    fs,
    io::{ErrorKind, Read},
    net::TcpListener,
    time::{Duration, Instant},
};

use outpost_tests::{
    CertificateFolder, CloudService, EdgeAgent, edge_config, some_cifar, some_photos,
};

use crate::run::{Device, PATIENCE, json, until};

#[test]
fn an_image_of_a_class_that_must_not_leave_gets_the_devices_answer() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let photos = some_photos(4);
    let classify = |extra: &str| {
        let config = certificates.file("edge-agent.toml");
        fs::write(&config, edge_config(extra)).unwrap();
        EdgeAgent::classify()
            .args(["--mode", "cloud-only", "--config"])
            .args([&config])
            .cloud(&cloud.url(), &certificates)
            .args(&photos)
    };
    let alone = EdgeAgent::classify()
        .args(["--mode", "device-only"])
        .args(&photos)
        .run();
    let private = &alone.records[0]["label"];
    let answers = classify(&format!(
        "[privacy]\nnever_offload = [{private}]\nat_least = 0.05\n"
    ))
    .run();
    assert_eq!(answers.code, 0, "{}", answers.log);
    let first = &answers.records[0];
    assert_eq!(first["reason"], "fallback:private", "{first}");
    assert_eq!(first["site"], "device");
    assert_eq!(first["label"], *private);
    assert_eq!(first["bytes_sent"], 0);
    let offloaded = |record: &&serde_json::Value| record["reason"] == "offloaded";
    assert!(answers.records.iter().filter(offloaded).count() >= 1);
    let refused = classify("[privacy]\nnever_offload = [\"unicorn, pink\"]\n").run();
    assert_eq!(refused.code, 1);
    assert!(refused.log.contains("unicorn, pink"), "{}", refused.log);
}

#[test]
fn a_budget_is_kept_to_and_the_device_answers_the_rest() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let photos = some_photos(5);
    for (budget, sent) in [("offloads_per_hour = 2", 2), ("bytes_per_day = 1000", 0)] {
        let config = certificates.file("edge-agent.toml");
        let extra = format!(
            "[cloud]\nurl = {:?}\ncertificate_authority = {:?}\n[cloud.budget]\n{budget}\n",
            cloud.url(),
            certificates.authority(),
        );
        fs::write(&config, edge_config(&extra)).unwrap();
        let answers = EdgeAgent::classify()
            .args(["--mode", "cloud-only", "--config"])
            .args([&config])
            .args(&photos)
            .run();
        assert_eq!(answers.code, 0, "{}", answers.log);
        let count = |reason: &str| {
            let is_it = |record: &&serde_json::Value| record["reason"] == reason;
            answers.records.iter().filter(is_it).count()
        };
        assert_eq!(count("offloaded"), sent, "{budget}");
        assert_eq!(count("fallback:budget"), 5 - sent, "{budget}");
        let bytes = answers
            .records
            .iter()
            .map(|record| record["bytes_sent"].as_u64().unwrap());
        assert_eq!(bytes.filter(|&bytes| bytes > 0).count(), sent);
    }
}

#[test]
fn a_device_on_its_own_makes_no_connection_and_keeps_none() {
    let cloud = TcpListener::bind("127.0.0.1:0").unwrap();
    cloud.set_nonblocking(true).unwrap();
    let is_left_alone = || {
        cloud
            .accept()
            .is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    };
    let device = Device::start(&format!(
        "mode = \"device-only\"\n[cloud]\nurl = \"https://{}\"\ntransport = \"h2\"\n[api]\naddress = \"127.0.0.1:0\"\n",
        cloud.local_addr().unwrap(),
    ));
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let answer = || json(device.post("/v1/classify", "image/jpeg", &image));
    assert_eq!(answer()["site"], "device");
    assert!(is_left_alone());
    device.put("/v1/state", br#"{"mode": "policy"}"#);
    let (mut connection, _) = until("a connection", || cloud.accept().ok());
    device.put("/v1/state", br#"{"mode": "device-only"}"#);
    // It ends, though nobody has answered over it, long before it would be given up.
    let asked = Instant::now();
    connection.set_nonblocking(false).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sent = Vec::new();
    let end = connection.read_to_end(&mut sent);
    assert!(end.is_ok() || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    assert!(asked.elapsed() < Duration::from_secs(4));
    assert_eq!(answer()["site"], "device");
    assert!(is_left_alone());
    device.end();
}
