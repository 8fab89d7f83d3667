//! What leaves the device, and how much of it.

use std::fs;

use outpost_tests::{CertificateFolder, CloudService, EdgeAgent, edge_config, some_photos};

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
