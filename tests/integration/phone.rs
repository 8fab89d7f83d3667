//! The page that a device serves to phones in its network: what it gives, whom it asks, and what keeps it from being served.
//! tests/integration/page.rs opens it in a browser.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use outpost_tests::{CertificateFolder, Process, free_address, program, repository};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use ureq::{
    Agent, Body,
    http::Response,
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::{
    operations::{reconfigure, refused, state},
    run::{Device, json, until},
};

const CLOUD: &str = "[cloud]\nurl = \"https://cloud.example:8443\"\n";
const API: &str = "[api]\naddress = \"127.0.0.1:0\"\n";

/// A configuration with a page whose files are in `web`.
fn with_page(address: SocketAddr, web: &Path, fields: &str) -> String {
    format!("{API}{CLOUD}[page]\naddress = \"{address}\"\nfolder = {web:?}\n{fields}\n")
}

/// The page as it is in the sources: all but the WebAssembly.
fn web() -> PathBuf {
    repository().join("crates/web-agent/www")
}

fn get(address: SocketAddr, path: &str) -> Response<Body> {
    let config = Agent::config_builder().http_status_as_error(false).build();
    let agent: Agent = config.into();
    agent.get(format!("http://{address}{path}")).call().unwrap()
}

fn description(address: SocketAddr) -> Value {
    json(get(address, "/page/agent.json"))
}

#[test]
fn a_phone_gets_the_page_the_devices_networks_and_whom_to_ask() {
    let address = free_address();
    let device = Device::start(&with_page(address, &web(), ""));
    let mut index = get(address, "/");
    assert_eq!(index.status(), 200);
    let policy = index.headers()["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("connect-src 'self' https://cloud.example:8443;"),
        "{policy}"
    );
    assert_eq!(
        index.headers()["cross-origin-embedder-policy"],
        "require-corp"
    );
    assert!(index.body_mut().read_to_string().unwrap().contains("<html"));

    let said = description(address);
    assert_eq!(said["cloud"], "https://cloud.example:8443");
    assert_eq!(said["cascade"]["name"], "cifar10-alexnet-resnet");
    assert_eq!(said["goal"], "loss=1");
    let files = said["files"].as_array().unwrap();
    for file in files {
        let sha256 = file["sha256"].as_str().unwrap();
        let bytes = get(address, &format!("/page/files/{sha256}"))
            .body_mut()
            .read_to_vec()
            .unwrap();
        assert_eq!(Some(bytes.len() as u64), file["bytes"].as_u64(), "{file}");
        let found: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(found, sha256);
    }
    let weights = |file: &&Value| file["path"].as_str().unwrap().ends_with(".onnx");
    assert_eq!(files.iter().filter(weights).count(), 1, "{files:?}");
    // Nothing of the device's own API is there, and nothing of its disk.
    for path in [
        "/v1/state",
        "/metrics",
        "/page/token",
        "/../edge-agent.toml",
        "/edge-agent.toml",
    ] {
        assert_eq!(get(address, path).status(), 404, "{path}");
    }
    let counted = |status| {
        let line = format!("outpost_edge_page_requests_total{{status=\"{status}\"}}");
        device.metric(&line)
    };
    assert_eq!(counted(200), Some(files.len() as f64 + 2.0));
    assert_eq!(counted(404), Some(5.0));
    device.end();
}

#[test]
fn what_takes_effect_on_the_device_does_so_on_the_page() {
    let address = free_address();
    let config = |first: &str, web: &Path| {
        format!(
            "{first}\nreload_seconds = 3600\n{}",
            with_page(address, web, "")
        )
    };
    let device = Device::start(&config("deadline_ms = 20000", &web()));
    assert_eq!(description(address)["deadline_ms"], 20000);
    let changed = config("deadline_ms = 15000\noperating_point = \"loss=3\"", &web());
    reconfigure(&device, &changed);
    until("another deadline", || {
        (description(address)["deadline_ms"] == 15000).then_some(())
    });
    assert_eq!(description(address)["goal"], "loss=3");
    // A page that is not there changes nothing, on the device neither.
    let broken = config("deadline_ms = 14000", Path::new("none"));
    reconfigure(&device, &broken);
    assert!(refused(&device).contains("page.folder"));
    assert_eq!(state(&device)["deadline_ms"], 15000);
    assert_eq!(description(address)["deadline_ms"], 15000);
    // What waits for a restart after a reload to this.
    let restart_for = |text: &str| {
        let before = state(&device)["reload"]["at"].clone();
        reconfigure(&device, text);
        until("a reload", || {
            let reload = &state(&device)["reload"];
            (reload["result"] == "applied" && reload["at"] != before)
                .then(|| reload["restart_for"].clone())
        })
    };
    // Another address does.
    let moved = changed.replace(&address.to_string(), "127.0.0.1:1");
    let waits = restart_for(&moved.replace("15000", "13000"));
    assert_eq!(waits, serde_json::json!(["page.address"]));
    assert_eq!(state(&device)["deadline_ms"], 13000);
    // So does TLS where there was none.
    let certificates = CertificateFolder::valid();
    let (chain, key) = (certificates.chain(), certificates.key());
    let secured = format!("{changed}certificate = {chain:?}\nkey = {key:?}\n");
    let waits = restart_for(&secured.replace("15000", "12000"));
    assert_eq!(waits, serde_json::json!(["page.certificate"]));
    assert_eq!(state(&device)["deadline_ms"], 12000);
    reconfigure(&device, &moved.replace("15000", "13000"));
    until("the deadline of before", || {
        (description(address)["deadline_ms"] == 13000).then_some(())
    });
    assert_eq!(description(address)["deadline_ms"], 13000);
    device.end();
}

#[test]
fn over_tls_the_page_has_the_certificate_of_the_api_and_takes_up_another() {
    let certificates = CertificateFolder::valid();
    let address = free_address();
    let text = with_page(address, &web(), "").replace(
        API,
        &format!(
            "{API}certificate = {:?}\nkey = {:?}\n",
            certificates.chain(),
            certificates.key()
        ),
    );
    let mut device = Device::start(&text);
    device.trust(&certificates);
    let status = || {
        let authority = fs::read(certificates.authority()).unwrap();
        let roots = RootCerts::Specific(vec![Certificate::from_pem(&authority).unwrap()].into());
        let config = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        let agent: Agent = config.into();
        let url = format!("https://localhost:{}/page/agent.json", address.port());
        agent.get(url).call().ok().map(|answer| answer.status())
    };
    assert_eq!(status(), Some(200.try_into().unwrap()));
    certificates.renew();
    device.process.hang_up();
    until("the new certificate", || status().map(|_| ()));
    device.end();
}

#[test]
fn a_page_that_cannot_be_served_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free_address();
    for (text, word) in [
        (with_page(address, Path::new("none"), ""), "page.folder"),
        (
            with_page(taken.local_addr().unwrap(), &web(), ""),
            "page.address",
        ),
        (with_page(address, &web(), "colour = 1"), "colour"),
        (
            with_page(address, &web(), "cloud = \"https://cloud.example/app\""),
            "https://HOST",
        ),
        (
            with_page(
                address,
                &web(),
                "certificate = \"none.pem\"\nkey = \"none.key\"",
            ),
            "none.pem",
        ),
        (
            with_page("0.0.0.0:0".parse().unwrap(), &web(), ""),
            "page.certificate",
        ),
        (
            with_page(address, &web(), "").replace(CLOUD, ""),
            "page.cloud",
        ),
        (
            with_page(address, &web(), "[privacy]\nnever_offload = [\"cat\"]"),
            "never_offload",
        ),
    ] {
        let (code, said) = Device::refused(&folder, &text);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

#[test]
fn a_page_alone_is_enough_to_run_for() {
    let address = free_address();
    let folder = tempfile::tempdir().unwrap();
    let text = with_page(address, &web(), "").replace(API, "");
    let mut command = Command::new(program("edge-agent"));
    let config = Device::configure(&folder, &text);
    let mut process = Process::start(command.args(["run", "--config"]).arg(config));
    assert_eq!(process.address(), format!("{address}/"));
    assert_eq!(get(address, "/page/agent.json").status(), 200);
    process.terminate();
    let (is_well, log) = process.wait();
    assert!(is_well, "{log}");
}

#[test]
fn the_doctor_looks_at_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let examine = |text: &str| {
        let output = Command::new(program("edge-agent"))
            .args(["doctor", "--format", "json", "--config"])
            .arg(Device::configure(&folder, text))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let findings = said
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut of_page = findings.filter(|finding| finding["area"] == "page");
        of_page.next()
    };
    let whole = examine(&with_page(address, &web(), "")).unwrap();
    assert_eq!(whole["verdict"], "good", "{whole}");
    let broken = examine(&with_page(address, Path::new("none"), "")).unwrap();
    assert_eq!(broken["verdict"], "failed", "{broken}");
    assert!(
        broken["found"].as_str().unwrap().contains("page.folder"),
        "{broken}"
    );
    assert_eq!(examine(API), None);
}

#[test]
fn without_its_files_the_page_says_how_to_get_them() {
    let address = free_address();
    let text = format!("{API}{CLOUD}[page]\naddress = \"{address}\"\n");
    let device = Device::start(&text);
    let mut index = get(address, "/");
    let status = index.status();
    let said = index.body_mut().read_to_string().unwrap();
    // A program that was built with them has them.
    match status.as_u16() {
        200 => assert!(said.contains("<html"), "{said}"),
        _ => assert!(
            status == 404 && said.contains("scripts/build-web"),
            "{said}"
        ),
    }
    device.end();
}
