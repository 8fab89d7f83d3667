//! Images that go out before a handshake is done: the device that closed its connection sends the next one so, and none is lost
//! where the service passed it over.

use std::{fs, net::SocketAddr, thread, time::Duration};

use outpost_tests::{CertificateFolder, CloudService, repository, some_cifar};
use serde_json::Value;

use crate::{
    overload::get,
    run::{Device, json},
};

fn cloud(address: &str, certificates: &CertificateFolder) -> (CloudService, SocketAddr) {
    let models = repository().join("models");
    let config = format!(
        "address = \"{address}\"\noperations_address = \"127.0.0.1:0\"\nearly_data = true\nmodels = {models:?}\n\
         networks = [\"cifar10-resnet\"]\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n"
    );
    CloudService::start_from(certificates, &config, |_| {}).with_operations()
}

/// Sends an image, and another once the connection of the one before is closed.
fn ask(device: &Device) -> Value {
    thread::sleep(Duration::from_millis(1500));
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    json(device.post("/v1/classify", "image/jpeg", &image))
}

#[test]
fn a_device_that_was_there_before_sends_its_image_with_the_handshake() {
    let certificates = CertificateFolder::valid();
    let (mut cloud, operations) = cloud("127.0.0.1:0", &certificates);
    let url = cloud.url();
    let device = Device::start(&format!(
        "mode = \"cloud-only\"\ndeadline_ms = 10000\ncorrect_within_ms = 0\n\
         [cloud]\nurl = \"{url}\"\ntransport = \"h3\"\nclose_idle_seconds = 1\ncertificate_authority = {:?}\n\
         [api]\naddress = \"127.0.0.1:0\"\n",
        certificates.authority(),
    ));
    let labels = format!("site=\"cloud\",endpoint=\"{url}\"");
    let count = |name: &str, label: &str| {
        let line = format!("outpost_edge_{name}_total{{{labels},{label}}}");
        device.metric(&line).unwrap()
    };
    for _ in 0..4 {
        assert_eq!(ask(&device)["reason"], "offloaded");
    }
    assert_eq!(count("handshakes", "kind=\"full\""), 1.0);
    // Three, where no connection was kept for a moment longer than it should be.
    let accepted = count("early_data", "outcome=\"accepted\"");
    assert!(accepted >= 1.0, "{accepted}");
    assert_eq!(count("handshakes", "kind=\"resumed\""), accepted);
    assert_eq!(count("early_data", "outcome=\"rejected\""), 0.0);
    let text = get(operations, "/metrics").1;
    let early = text
        .lines()
        .find_map(|line| line.strip_prefix("outpost_cloud_early_data_requests_total "));
    // Those that it came to before the handshake was done, which on a busy machine may be none.
    let early: f64 = early.unwrap().parse().unwrap();
    assert!((0.0..=accepted).contains(&early), "{early} of {accepted}");

    // Another that knows none of the sessions: the image is sent again, and answered.
    let address = cloud.address().to_string();
    cloud.kill();
    let (_cloud, _) = self::cloud(&address, &certificates);
    assert_eq!(ask(&device)["reason"], "offloaded");
    assert_eq!(count("early_data", "outcome=\"rejected\""), 1.0);
    device.end();
}
