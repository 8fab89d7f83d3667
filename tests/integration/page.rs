//! The device's page in a real browser: tests/page.

use std::{env, fs, process::Command};

use outpost_tests::{CertificateFolder, CloudService, Process, program, repository};

/// Needs Node.js, with the packages of tests/page in `OUTPOST_PLAYWRIGHT`, and Chromium, in `OUTPOST_CHROMIUM`.
#[test]
fn the_devices_page_answers_pictures_and_the_camera_and_moves_the_operating_point() {
    let (Ok(packages), Ok(chromium)) =
        (env::var("OUTPOST_PLAYWRIGHT"), env::var("OUTPOST_CHROMIUM"))
    else {
        assert!(
            env::var_os("OUTPOST_REQUIRE_PAGE").is_none(),
            "Playwright or Chromium is missing: set OUTPOST_PLAYWRIGHT and OUTPOST_CHROMIUM"
        );
        eprintln!("SKIPPED: no OUTPOST_PLAYWRIGHT and OUTPOST_CHROMIUM");
        return;
    };
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let networks = format!("models = {models:?}\nnetworks = [\"cifar10-resnet\"]\n");
    let cloud = CloudService::start_with(&certificates, &networks);
    let token = "a token of more than sixteen characters".replace(' ', "-");
    fs::write(certificates.file("api.token"), &token).unwrap();
    let config = certificates.file("edge-agent.toml");
    let text = format!(
        "models = {models:?}\ncascade = {cascade:?}\npolicy = {policy:?}\ndeadline_ms = 20000\nreload_seconds = 1\n\
         [power]\nclass = \"battery\"\n\
         [cloud]\nurl = {cloud:?}\ncertificate_authority = \"ca.pem\"\n\
         [api]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nkey = \"server.key\"\ntoken = \"api.token\"\n",
        cascade = models.join("cascades/cifar10-alexnet-resnet.toml"),
        policy = models.join("policies/cifar10-alexnet-resnet.json"),
        cloud = cloud.url(),
    );
    fs::write(&config, text).unwrap();
    let mut device = Process::start(
        Command::new(program("edge-agent"))
            .args(["run", "--config"])
            .arg(&config),
    );
    let url = format!("https://{}", device.address());
    let screenshots = repository().join("target/page-screenshots");
    fs::create_dir_all(&screenshots).unwrap();
    // Packages are looked for beside the script.
    let script = fs::read(repository().join("tests/page/device.mjs")).unwrap();
    let beside = std::path::Path::new(&packages).join("device.mjs");
    fs::write(&beside, script).unwrap();
    let ran = Command::new("node")
        .arg(beside)
        .args([&url, &token])
        .arg(repository().join("models/samples/cifar10/test-airplane-0059.jpg"))
        .arg(&screenshots)
        .arg(&config)
        .env("CHROMIUM", chromium)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    device.terminate();
    let (is_well, log) = device.wait();
    assert!(is_well && !log.contains(&token), "{log}");
}
