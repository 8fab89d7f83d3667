//! The package for Arm (`scripts/package-device`), unpacked and run by QEMU: the answers and decisions of this machine's
//! program, on pages of 16 KB, as kernels of the Raspberry Pi 5 have them.
//!
//! Needs the package in `OUTPOST_ARM_PACKAGE`, `dpkg-deb`, `qemu-aarch64-static` and the C library for Arm (Debian's
//! libc6-arm64-cross and libgcc-s1-arm64-cross); else the tests say that they are skipped, or fail where
//! `OUTPOST_REQUIRE_ARM` is set.

use std::{
    collections::HashSet,
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use outpost_tests::{
    Answers, CertificateFolder, CloudService, EdgeAgent, Process, program, repository, some_cifar,
    some_photos,
};
use serde_json::Value;
use tempfile::TempDir;
use ureq::http::header;

/// Where Debian's C library for Arm is.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu/lib";
const QEMU: &str = "qemu-aarch64-static";
/// In milliseconds: an emulated network takes some hundred times its time.
const DEADLINE: &str = "1200000";

/// What the package has, unpacked, with the libraries that it depends on.
struct Package {
    root: TempDir,
}

impl Package {
    /// None where something is missing.
    fn unpack() -> Option<Self> {
        let missing = match env::var_os("OUTPOST_ARM_PACKAGE") {
            None => "OUTPOST_ARM_PACKAGE",
            Some(_) if Command::new(QEMU).arg("--version").output().is_err() => QEMU,
            Some(_) if !Path::new(LIBRARIES).join("libc.so.6").is_file() => LIBRARIES,
            Some(package) => return Some(Self::of(&package.into())),
        };
        assert!(
            env::var_os("OUTPOST_REQUIRE_ARM").is_none(),
            "{missing} is missing: install what scripts/package-device --check names, and qemu-user-static"
        );
        eprintln!("SKIPPED: no {missing}");
        None
    }

    fn of(package: &PathBuf) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut unpack = Command::new("dpkg-deb");
        let unpacked = unpack.arg("--extract").arg(package).arg(root.path());
        assert!(unpacked.status().unwrap().success(), "{package:?}");
        symlink(LIBRARIES, root.path().join("lib")).unwrap();
        Self { root }
    }

    /// Its program, in the emulator.
    fn edge_agent(&self) -> Command {
        let mut command = Command::new(QEMU);
        command
            .args(["-p", "16384", "-L"])
            .arg(self.root.path())
            .arg(self.root.path().join("usr/bin/edge-agent"));
        command
    }
    /// Its configuration, with the paths of what is unpacked in place of what would be installed.
    fn configuration(&self) -> PathBuf {
        let root = self.root.path();
        let text = fs::read_to_string(root.join("etc/outpost/edge-agent.toml")).unwrap();
        let models = root.join("usr/share/outpost").display().to_string();
        let unpacked = root.join("edge-agent.toml");
        fs::write(&unpacked, text.replace("/usr/share/outpost", &models)).unwrap();
        unpacked
    }
}

/// Two images of each class of CIFAR-10.
fn twenty() -> Vec<PathBuf> {
    some_cifar(500).into_iter().step_by(25).collect()
}

/// Answers of `program` by a cascade of the repository with its learned policy.
fn learned(program: Command, cascade: &str, cloud: &[String]) -> Answers {
    EdgeAgent::classify_by(program)
        .args(["--deadline", DEADLINE, "--operating-point", "loss=1"])
        .args(["--cascade", &format!("models/cascades/{cascade}.toml")])
        .args(["--policy", &format!("models/policies/{cascade}.json")])
        .args(cloud)
        .args(twenty())
        .run()
}

/// What was said about an image, by whom and why, and how sure it is.
fn decision(record: &Value) -> ([&Value; 6], f64) {
    let fields = ["class_id", "label", "site", "network", "exit", "reason"];
    let confidence = record["confidence"].as_f64();
    (
        fields.map(|field| &record[field]),
        confidence.unwrap_or_else(|| panic!("no answer: {record}")),
    )
}

fn assert_same(arm: &Value, here: &Value) {
    let ((arm_said, arm_sure), (here_said, here_sure)) = (decision(arm), decision(here));
    assert_eq!(arm_said, here_said, "{arm} for {here}");
    // Sums of f32 in another order.
    assert!((arm_sure - here_sure).abs() < 1e-3, "{arm} for {here}");
}

/// That all answers are the same, and that `answering` networks and exits gave them.
fn assert_all_same(arm: &Answers, here: &Answers, answering: usize) {
    for answers in [arm, here] {
        assert_eq!(
            (answers.code, answers.records.len()),
            (0, twenty().len()),
            "{}",
            answers.log
        );
    }
    let mut nodes = HashSet::new();
    for (arm, here) in arm.records.iter().zip(&here.records) {
        assert_eq!(arm["image"], here["image"]);
        assert_same(arm, here);
        nodes.insert(format!("{}@{}", here["network"], here["exit"]));
    }
    assert!(nodes.len() >= answering, "too few answer: {nodes:?}");
}

#[test]
fn arm_decides_as_this_machine_does_what_to_send_to_the_cloud() {
    let Some(package) = Package::unpack() else {
        return;
    };
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let networks = format!("models = {models:?}\nnetworks = [\"cifar10-resnet\"]\n");
    let cloud = CloudService::start_with(&certificates, &networks);
    let authority = certificates.authority().display().to_string();
    // Each with tract's kernels for another core: of the Raspberry Pi 3 and Zero 2, and of the 4.
    for (transport, core) in [("h2", "a53"), ("h3", "a72")] {
        let cloud = [
            "--cloud",
            &cloud.url(),
            "--ca",
            &authority,
            "--transport",
            transport,
        ];
        let cloud = cloud.map(str::to_owned);
        let answers = |program| learned(program, "cifar10-alexnet-resnet", &cloud);
        let mut agent = package.edge_agent();
        agent.env("TRACT_CPU_AARCH64_KIND", core);
        let (arm, here) = (answers(agent), answers(Command::new(program("edge-agent"))));
        assert_all_same(&arm, &here, 2);
    }
}

#[test]
fn arm_leaves_at_the_exits_at_which_this_machine_leaves() {
    let Some(package) = Package::unpack() else {
        return;
    };
    let answers = |program| learned(program, "cifar10-exits", &[]);
    let (arm, here) = (
        answers(package.edge_agent()),
        answers(Command::new(program("edge-agent"))),
    );
    assert_all_same(&arm, &here, 3);
}

#[test]
#[cfg(feature = "avif")]
fn avif_that_arm_makes_gets_the_class_of_what_this_machine_makes() {
    let Some(package) = Package::unpack() else {
        return;
    };
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let answers = |program| {
        EdgeAgent::classify_by(program)
            .cloud(&cloud.url(), &certificates)
            .args(["--mode", "cloud-only", "--encoding", "avif@57"])
            .args(["--deadline", DEADLINE])
            .args(some_photos(2))
            .run()
    };
    let arm = answers(package.edge_agent());
    let here = answers(Command::new(program("edge-agent")));
    for answers in [&arm, &here] {
        assert_eq!(
            (answers.code, answers.records.len()),
            (0, 2),
            "{}",
            answers.log
        );
    }
    for (arm, here) in arm.records.iter().zip(&here.records) {
        assert_eq!(arm["encoding"], "avif@57", "{arm}");
        // The encoder's own estimates are in floating point, so that its files need not be the same.
        let ((arm_said, _), (here_said, _)) = (decision(arm), decision(here));
        assert_eq!(arm_said, here_said, "{arm} for {here}");
    }
}

#[test]
fn the_package_answers_a_photo_as_it_is_configured() {
    let Some(package) = Package::unpack() else {
        return;
    };
    let mut command = package.edge_agent();
    // The port may be taken here.
    command.args(["run", "--api-address", "127.0.0.1:0"]);
    command.args(["--deadline", DEADLINE, "--config"]);
    command.arg(package.configuration());
    let mut device = Process::start(&mut command);
    let url = format!("http://{}/v1/classify", device.address());
    // One: its 800 million multiply-adds take the emulator a minute.
    let photo = some_photos(1).remove(0);
    let here = EdgeAgent::classify().args([&photo]).run();
    assert_eq!((here.code, here.records.len()), (0, 1), "{}", here.log);
    let request = ureq::post(&url).header(header::CONTENT_TYPE, "image/jpeg");
    let request = request
        .config()
        .timeout_global(Some(Duration::from_secs(1200)))
        .build();
    let answer = request.send(fs::read(photo).unwrap()).unwrap();
    let arm = answer.into_body().read_to_string().unwrap();
    assert_same(&serde_json::from_str(&arm).unwrap(), &here.records[0]);
    device.terminate();
    let (is_well, log) = device.wait();
    assert!(is_well, "{log}");
}
