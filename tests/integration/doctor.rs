//! `edge-agent doctor`: what is well, what is not, and what to do.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use outpost_tests::{
    CertificateFolder, CloudService, edge_config, free_address, program, repository,
};
use outpost_transport::development_certificates::Validity;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::security::issue;

/// Examines a configuration; gives the exit code and the findings.
fn examine(folder: &Path, config: &str) -> (i32, Vec<Value>) {
    let path = folder.join("edge-agent.toml");
    fs::write(&path, config).unwrap();
    let output = Command::new(program("edge-agent"))
        .args(["doctor", "--format", "json", "--config"])
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let findings = said.lines().map(|line| {
        let finding: Value = serde_json::from_str(line).unwrap();
        // Whatever is not well says what to do.
        assert_eq!(
            finding["verdict"] == "good",
            finding["advice"].is_null(),
            "{finding}"
        );
        finding
    });
    let findings: Vec<Value> = findings.collect();
    assert!(!findings.is_empty(), "{log}");
    (output.status.code().unwrap(), findings)
}

/// The verdict about a thing, and what was found.
fn about<'a>(findings: &'a [Value], area: &str, subject: &str) -> (&'a str, &'a str) {
    let text = |finding: &'a Value, field: &str| finding[field].as_str().unwrap();
    let found = findings.iter().find(|finding| {
        text(finding, "area") == area && text(finding, "subject").starts_with(subject)
    });
    let found = found.unwrap_or_else(|| panic!("nothing about {area} {subject}: {findings:#?}"));
    (text(found, "verdict"), text(found, "found"))
}

fn cloud_of(url: &str, certificates: &CertificateFolder) -> String {
    format!(
        "[cloud]\nurl = {url:?}\ncertificate_authority = {:?}\n",
        certificates.authority()
    )
}

fn learned() -> String {
    let models = repository().join("models");
    let file = |name: &str| -> PathBuf { models.join(name) };
    format!(
        "models = {models:?}\ncascade = {:?}\npolicy = {:?}\n",
        file("cascades/cifar10-alexnet-resnet.toml"),
        file("policies/cifar10-alexnet-resnet.json"),
    )
}

#[test]
fn a_device_that_is_well_has_nothing_that_failed() {
    let certificates = CertificateFolder::with_validity(Validity::days(30));
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("incoming")).unwrap();
    let models = repository().join("models");
    let cloud = CloudService::start_with(
        &certificates,
        &format!("models = {models:?}\nnetworks = [\"cifar10-resnet\"]\n"),
    );
    let config = learned()
        + "delivery = \"eventually\"\n"
        + &cloud_of(&cloud.url(), &certificates)
        + "[[folders]]\npath = \"incoming\"\n[outputs.file]\npath = \"answers.jsonl\"\n[api]\naddress = \"127.0.0.1:0\"\n";
    let (code, findings) = examine(folder.path(), &config);
    let failed = findings
        .iter()
        .filter(|finding| finding["verdict"] == "failed");
    assert_eq!((code, failed.count()), (0, 0), "{findings:#?}");
    for (area, subject, says) in [
        ("configuration", "fields", "hold"),
        ("configuration", "cascade", "2 nodes"),
        ("runtime", "tract", "version"),
        ("policy", "", "fits the cascade"),
        ("policy", "speed of cifar10-alexnet", "times as long"),
        (
            "model",
            "cifar10-alexnet",
            "weights are those of the manifest",
        ),
        ("model", "cifar10-resnet", "runs elsewhere"),
        ("credential", "cloud.certificate_authority", "29 days left"),
        ("place", "folder", "can be written"),
        ("place", "queue", "free"),
        ("place", "output", "free"),
        ("device", "start", "go together"),
        ("cloud", "certificate", "localhost"),
        ("cloud", "reached over HTTP/2", "round trip"),
        ("cloud", "reached over HTTP/3", "round trip"),
        ("device", "clock, by the cloud", "within a minute"),
        ("cloud", "access", "without credentials"),
        (
            "cloud",
            "model cifar10-resnet",
            "with the weights of the manifest here",
        ),
    ] {
        let (_, found) = about(&findings, area, subject);
        assert!(found.contains(says), "{area} {subject}: {found}");
    }
    assert!(!folder.path().join("queue.redb").exists());
    assert_eq!(
        fs::read_dir(folder.path().join("incoming"))
            .unwrap()
            .count(),
        0
    );
    // A table for people says the same.
    let output = Command::new(program("edge-agent"))
        .args(["doctor", "--config"])
        .arg(folder.path().join("edge-agent.toml"))
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("0 failed") && table.contains("HTTP/3"),
        "{table}"
    );
}

#[test]
fn each_fault_is_found_beside_the_others() {
    // The authority, the server's and the client's certificates have ended.
    let now = OffsetDateTime::now_utc();
    let expired = CertificateFolder::with_validity(Validity {
        not_before: now - Duration::days(3),
        not_after: now - Duration::days(1),
    });
    let models = repository().join("models");
    let cloud = CloudService::start_with(
        &expired,
        &format!("models = {models:?}\nnetworks = [\"cifar10-alexnet\"]\n"),
    );
    let folder = tempfile::tempdir().unwrap();
    let config = learned()
        + &cloud_of(&cloud.url(), &expired)
        + &format!(
            "client_certificate = {:?}\nclient_key = {:?}\ntoken = \"missing.token\"\n[[folders]]\npath = \"missing\"\n",
            expired.file("camera-7.pem"),
            expired.key(),
        );
    let (code, findings) = examine(folder.path(), &config);
    assert_eq!(code, 1);
    for (area, subject, says) in [
        (
            "credential",
            "cloud.certificate_authority",
            "expired 24 hours ago",
        ),
        ("credential", "cloud.client_certificate", "is not the key"),
        ("credential", "cloud.token", "missing.token"),
        ("place", "folder", "No such file"),
        ("device", "start", "cannot use the cloud"),
        ("cloud", "reached", "missing.token"),
    ] {
        let (verdict, found) = about(&findings, area, subject);
        assert_eq!(verdict, "failed", "{found}");
        assert!(found.contains(says), "{area} {subject}: {found}");
    }
    // And what is well is found to be.
    assert_eq!(about(&findings, "model", "cifar10-alexnet").0, "good");

    let config = learned() + &cloud_of(&cloud.url(), &expired);
    let (code, findings) = examine(folder.path(), &config);
    assert_eq!(code, 1);
    for protocol in ["reached over HTTP/2", "reached over HTTP/3"] {
        let (verdict, found) = about(&findings, "cloud", protocol);
        assert_eq!(verdict, "failed");
        assert!(found.contains("expired"), "{found}");
    }
    let (verdict, found) = about(&findings, "cloud", "certificate");
    assert_eq!(verdict, "failed");
    assert!(found.contains("by this machine's clock"), "{found}");
}

#[test]
fn what_a_service_does_not_serve_or_refuses_is_told() {
    let certificates = CertificateFolder::valid();
    let folder = tempfile::tempdir().unwrap();
    let other = CloudService::start_with(
        &certificates,
        &format!(
            "models = {:?}\nnetworks = [\"cifar10-alexnet\"]\nhttp3 = false\n",
            repository().join("models")
        ),
    );
    let config = learned() + &cloud_of(&other.url(), &certificates);
    let (code, findings) = examine(folder.path(), &config);
    assert_eq!(code, 1);
    let (verdict, found) = about(&findings, "cloud", "model cifar10-resnet");
    assert!(
        verdict == "failed" && found.contains("cifar10-resnet"),
        "{found}"
    );
    // A day is little.
    assert_eq!(about(&findings, "cloud", "certificate").0, "warning");
    assert_eq!(about(&findings, "cloud", "reached over HTTP/2").0, "good");
    assert_eq!(
        about(&findings, "cloud", "reached over HTTP/3").0,
        "warning"
    );

    // Other weights under the same name.
    let models = folder.path().join("models");
    let from = repository().join("models/cifar10-resnet");
    fs::create_dir_all(models.join("cifar10-resnet")).unwrap();
    for file in fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(
                file.path(),
                models.join("cifar10-resnet").join(file.file_name()),
            )
            .unwrap();
        }
    }
    let same = CloudService::start_with(
        &certificates,
        &format!(
            "models = {:?}\nnetworks = [\"cifar10-resnet\"]\n",
            repository().join("models")
        ),
    );
    let manifest = models.join("cifar10-resnet/model.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let digest = text
        .lines()
        .find(|line| line.starts_with("sha256"))
        .unwrap();
    let text = text.replace(digest, &format!("sha256 = \"{}\"", "0".repeat(64)));
    // Its labels are where they were.
    let text = text.replace(
        "\"../",
        &format!("\"{}/", repository().join("models").display()),
    );
    fs::write(&manifest, text).unwrap();
    let alexnet = models.join("cifar10-alexnet");
    std::os::unix::fs::symlink(repository().join("models/cifar10-alexnet"), alexnet).unwrap();
    // A learned policy knows the weights that it was learned for; a threshold does not care.
    let file = folder.path().join("cascade.toml");
    let cascade = repository().join("models/cascades/cifar10-alexnet-resnet.toml");
    let cascade = fs::read_to_string(cascade).unwrap().replace(
        "{ kind = \"learned\" }",
        "{ kind = \"threshold\", measure = \"max-probability\", at_least = 0.9, to = \"cifar10-resnet\" }",
    );
    fs::write(&file, cascade).unwrap();
    let config = format!("models = {models:?}\ncascade = {file:?}\n");
    let (code, findings) = examine(
        folder.path(),
        &(config + &cloud_of(&same.url(), &certificates)),
    );
    assert_eq!(code, 1);
    let (verdict, found) = about(&findings, "cloud", "model cifar10-resnet");
    assert!(
        verdict == "failed" && found.contains("other weights"),
        "{found}"
    );
}

#[test]
fn without_a_service_or_a_configuration_it_says_so() {
    let certificates = CertificateFolder::valid();
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("https://{}", free_address());
    let config = edge_config("") + &cloud_of(&nobody, &certificates);
    let (code, findings) = examine(folder.path(), &config);
    assert_eq!(code, 1);
    for protocol in ["reached over HTTP/2", "reached over HTTP/3"] {
        let (verdict, found) = about(&findings, "cloud", protocol);
        assert_eq!(verdict, "failed", "{found}");
    }
    let (code, findings) = examine(folder.path(), "nonsense = 1\n");
    assert_eq!((code, findings.len()), (1, 1));
    assert!(
        about(&findings, "configuration", "fields")
            .1
            .contains("nonsense")
    );
}

#[test]
fn a_token_that_the_service_does_not_know_and_an_address_that_is_taken_are_told() {
    let certificates = CertificateFolder::valid();
    let identities = issue(&certificates, "known.token");
    fs::write(certificates.file("identities.toml"), identities).unwrap();
    let models = repository().join("models");
    let text = format!(
        "address = \"127.0.0.1:0\"\nmodels = {models:?}\nnetworks = [\"cifar10-resnet\"]\n[access]\nidentities = \"identities.toml\"\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n"
    );
    let cloud = CloudService::start_from(&certificates, &text, |_| {});
    fs::write(certificates.file("unknown.token"), "0123456789abcdef\n").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let examined = |token: &str| {
        let token = certificates.file(token);
        let cloud = cloud_of(&cloud.url(), &certificates);
        let api = format!("[api]\naddress = \"{address}\"\n");
        examine(
            folder.path(),
            &format!("{}{cloud}token = {token:?}\n{api}", learned()),
        )
    };
    let (code, findings) = examined("unknown.token");
    assert_eq!(code, 1);
    // It is reached all the same.
    assert_eq!(about(&findings, "cloud", "reached over HTTP/2").0, "good");
    for subject in ["access", "model cifar10-resnet"] {
        let (verdict, found) = about(&findings, "cloud", subject);
        assert_eq!(verdict, "failed", "{found}");
        assert!(found.contains("Unauthenticated"), "{found}");
    }
    // It may be this device that listens there.
    let (verdict, found) = about(&findings, "place", &format!("address {address}"));
    assert_eq!(verdict, "warning", "{found}");
    assert!(found.contains("somebody listens there"), "{found}");

    let (_, findings) = examined("known.token");
    let (verdict, found) = about(&findings, "cloud", "access");
    assert_eq!(verdict, "good", "{found}");
    assert!(found.contains("with these credentials"), "{found}");
}
