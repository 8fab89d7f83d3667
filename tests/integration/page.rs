//! The pages of a device in a real browser: that of edge-agent, and that which is the device itself. Their scripts are in
//! tests/page.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use outpost_tests::{CertificateFolder, CloudService, Process, program, repository};

/// Node.js's packages of tests/page, from `OUTPOST_PLAYWRIGHT`, and Chromium, from `OUTPOST_CHROMIUM`.
struct Browser {
    packages: PathBuf,
    chromium: String,
    /// One browser at a time: each takes a machine's processors.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl Browser {
    /// The one to test with; none where there is none, which is said.
    fn find() -> Option<Self> {
        let (Ok(packages), Ok(chromium)) =
            (env::var("OUTPOST_PLAYWRIGHT"), env::var("OUTPOST_CHROMIUM"))
        else {
            assert!(
                env::var_os("OUTPOST_REQUIRE_PAGE").is_none(),
                "Playwright or Chromium is missing: set OUTPOST_PLAYWRIGHT and OUTPOST_CHROMIUM"
            );
            eprintln!("SKIPPED: no OUTPOST_PLAYWRIGHT and OUTPOST_CHROMIUM");
            return None;
        };
        Some(Self {
            packages: packages.into(),
            chromium,
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// Where screenshots are kept, to be looked at.
    fn screenshots() -> PathBuf {
        let folder = repository().join("target/page-screenshots");
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Runs a script of tests/page that has tests of its own.
    fn test(&self, script: &str, variables: &[(&str, PathBuf)]) {
        let ran = Command::new("node")
            .arg("--test")
            .arg(repository().join("tests/page").join(script))
            .envs(variables.iter().cloned())
            .env("OUTPOST_PLAYWRIGHT", &self.packages)
            .env("OUTPOST_CHROMIUM", &self.chromium)
            .env("SCREENSHOTS", Self::screenshots())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{said}");
        // What was measured.
        println!("{said}");
    }
}

#[test]
fn the_page_that_is_a_device_answers_and_says_what_goes_wrong() {
    if let Some(browser) = Browser::find() {
        browser.test("web-agent-page.mjs", &[]);
    }
}

/// Needs `OUTPOST_WEB`, too: the folder that scripts/build-web makes.
#[test]
fn the_page_that_is_a_device_runs_its_networks_and_asks_the_cloud() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let Some(web) = env::var_os("OUTPOST_WEB") else {
        assert!(
            env::var_os("OUTPOST_REQUIRE_WEB").is_none(),
            "the agent in WebAssembly is missing: run scripts/build-web and set OUTPOST_WEB"
        );
        eprintln!("SKIPPED: no OUTPOST_WEB");
        return;
    };
    let variables = [
        ("OUTPOST_WEB", repository().join(web)),
        ("OUTPOST_CLOUD_SERVICE", program("cloud-service")),
        ("OUTPOST_EDGE_AGENT", program("edge-agent")),
    ];
    browser.test("web-agent.mjs", &variables);
}

#[test]
fn the_devices_page_answers_pictures_and_the_camera_and_moves_the_operating_point() {
    let Some(browser) = Browser::find() else {
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
    let screenshots = Browser::screenshots();
    let ran = Command::new("node")
        .arg(repository().join("tests/page/device.mjs"))
        .args([&url, &token])
        .arg(repository().join("models/samples/cifar10/test-airplane-0059.jpg"))
        .arg(&screenshots)
        .arg(&config)
        .env("OUTPOST_PLAYWRIGHT", &browser.packages)
        .env("OUTPOST_CHROMIUM", &browser.chromium)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    device.terminate();
    let (is_well, log) = device.wait();
    assert!(is_well && !log.contains(&token), "{log}");
}
