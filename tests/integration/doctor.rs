//! `edge-agent doctor`: what is well, what is not, and what to do.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
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

/// Somebody who is not root.
const NOBODY: u32 = 65_534;

/// Examines a configuration; gives the exit code and the findings.
fn examine(folder: &Path, config: &str) -> (i32, Vec<Value>) {
    examine_as(&mut Command::new(program("edge-agent")), folder, config)
}

fn examine_as(doctor: &mut Command, folder: &Path, config: &str) -> (i32, Vec<Value>) {
    let path = folder.join("edge-agent.toml");
    fs::write(&path, config).unwrap();
    let output = doctor
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

fn finding<'a>(findings: &'a [Value], area: &str, subject: &str) -> &'a Value {
    let found = findings.iter().find(|finding| {
        finding["area"] == area && finding["subject"].as_str().unwrap().starts_with(subject)
    });
    found.unwrap_or_else(|| panic!("nothing about {area} {subject}: {findings:#?}"))
}

/// The verdict about a thing, and what was found.
fn about<'a>(findings: &'a [Value], area: &str, subject: &str) -> (&'a str, &'a str) {
    let found = finding(findings, area, subject);
    let text = |field: &str| found[field].as_str().unwrap();
    (text("verdict"), text("found"))
}

/// What to do about a thing.
fn advice<'a>(findings: &'a [Value], area: &str, subject: &str) -> &'a str {
    let advice = finding(findings, area, subject)["advice"].as_str();
    advice.unwrap_or_default()
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
        ("configuration", "deadline_ms", "of 1000 ms"),
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
fn what_keeps_run_from_starting_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::create_dir(file("folder")).unwrap();
    fs::write(file("text"), "of another program").unwrap();
    fs::write(file("good.token"), "0123456789abcdef\n").unwrap();
    let of_queue = |path: &str| {
        edge_config("delivery = \"eventually\"")
            + &format!("[cloud]\nurl = \"https://127.0.0.1:9\"\n[queue]\npath = {path:?}\n")
    };
    let of = |tables: &str| edge_config("") + tables;
    for (config, area, subject, says, to_do) in [
        (
            of_queue("text"),
            "place",
            "queue",
            "",
            "no queue of this version",
        ),
        (
            of_queue("folder"),
            "place",
            "queue",
            "directory",
            "a folder has its name",
        ),
        (
            of("[outputs.file]\npath = \"folder\"\n"),
            "place",
            "output",
            "no regular file",
            "outputs.file.path",
        ),
        (
            of("[outputs.webhook]\nurl = \"https://a\"\ntoken = \"missing.token\"\n"),
            "credential",
            "outputs.webhook",
            "missing.token",
            "put the file there",
        ),
        (
            of("[outputs.webhook]\nurl = \"https://a\"\ncertificate_authority = \"text\"\n"),
            "credential",
            "outputs.webhook",
            "certificate_authority",
            "from whoever runs the server",
        ),
        (
            of("[outputs.webhook]\nurl = \"http://a\"\ntoken = \"good.token\"\n"),
            "credential",
            "outputs.webhook",
            "in the clear",
            "correct the field",
        ),
        (
            of(
                "[outputs.mqtt]\nhost = \"a\"\ntopic = \"b\"\nusername = \"c\"\npassword = \"missing.password\"\n",
            ),
            "credential",
            "outputs.mqtt",
            "missing.password",
            "put the file there",
        ),
        (
            of("[outputs.mqtt]\nhost = \"a\"\ntopic = \"b\"\ncertificate_authority = \"text\"\n"),
            "credential",
            "outputs.mqtt",
            "text",
            "from whoever runs the server",
        ),
        (
            of(
                "[[urls]]\nname = \"door\"\nurl = \"https://a\"\nusername = \"b\"\npassword = \"missing.password\"\n",
            ),
            "credential",
            "urls door",
            "missing.password",
            "put the file there",
        ),
        (
            of("[[urls]]\nurl = \"https://a\"\ncertificate_authority = \"missing.pem\"\n"),
            "credential",
            "urls url",
            "missing.pem",
            "put the file there",
        ),
        (
            of("[traces]\nendpoint = \"nowhere\"\n"),
            "configuration",
            "traces",
            "nowhere",
            "[traces]",
        ),
    ] {
        let (code, findings) = examine(folder.path(), &config);
        let (verdict, found) = about(&findings, area, subject);
        assert_eq!((code, verdict), (1, "failed"), "{found}");
        assert!(found.contains(says), "{found}");
        let advice = advice(&findings, area, subject);
        assert!(advice.contains(to_do), "{advice}");
    }
    assert_eq!(
        fs::read_to_string(file("text")).unwrap(),
        "of another program"
    );

    // And what is well is found to be.
    let certificates = CertificateFolder::with_validity(Validity::days(30));
    let authority = certificates.authority();
    let config = of(&format!(
        "[outputs.webhook]\nurl = \"https://a\"\ntoken = \"good.token\"\ncertificate_authority = {authority:?}\n\
         [[urls]]\nurl = \"https://a\"\nusername = \"b\"\npassword = \"good.token\"\n\
         [outputs.mqtt]\nhost = \"a\"\ntopic = \"b\"\ncertificate_authority = {authority:?}\n"
    ));
    let (code, findings) = examine(folder.path(), &config);
    assert_eq!(code, 0, "{findings:#?}");
    for subject in [
        "outputs.webhook",
        "outputs.webhook.certificate_authority",
        "outputs.mqtt",
        "outputs.mqtt.certificate_authority",
        "urls url",
    ] {
        let (verdict, found) = about(&findings, "credential", subject);
        assert_eq!(verdict, "good", "{found}");
    }
}

#[test]
fn files_that_this_user_may_not_write_are_found_and_root_is_told_that_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set(folder.path(), 0o777).unwrap();
    for name in ["queue.redb", "answers.jsonl"] {
        fs::write(file(name), "").unwrap();
        set(&file(name), 0o444).unwrap();
    }
    let config = edge_config("delivery = \"eventually\"")
        + "[cloud]\nurl = \"https://127.0.0.1:9\"\n[outputs.file]\npath = \"answers.jsonl\"\n";
    let is_root = fs::metadata(folder.path()).unwrap().uid() == 0;
    let mut doctor = if is_root {
        // Where anybody may run it.
        fs::copy(program("edge-agent"), file("edge-agent")).unwrap();
        let mut doctor = Command::new(file("edge-agent"));
        doctor.uid(NOBODY).gid(NOBODY);
        doctor
    } else {
        Command::new(program("edge-agent"))
    };
    let (_, findings) = examine_as(&mut doctor, folder.path(), &config);
    for (subject, to_do) in [
        ("queue", "the right to write"),
        ("output", "may read and write"),
    ] {
        let (verdict, found) = about(&findings, "place", subject);
        assert_eq!(verdict, "failed", "{found}");
        assert!(found.contains("denied"), "{found}");
        let advice = advice(&findings, "place", subject);
        assert!(advice.contains(to_do), "{advice}");
    }
    let of_user = |findings: &[Value]| {
        let mut of_user = findings.iter().filter(|found| found["subject"] == "user");
        let finding = of_user.next().cloned();
        assert!(of_user.next().is_none());
        finding
    };
    assert_eq!(of_user(&findings), None);
    if is_root {
        chown(file("answers.jsonl"), Some(NOBODY), None).unwrap();
        let (_, findings) = examine(folder.path(), &config);
        assert_eq!(about(&findings, "place", "output").0, "good");
        let warning = of_user(&findings).unwrap();
        assert_eq!(warning["verdict"], "warning", "{warning}");
        let found = warning["found"].as_str().unwrap();
        assert!(
            found.contains("answers.jsonl belongs to another user"),
            "{found}"
        );

        fs::write(file("root.pem"), "").unwrap();
        set(&file("root.pem"), 0o600).unwrap();
        let url = "[[urls]]\nurl = \"https://a\"\ncertificate_authority = \"root.pem\"\n";
        let (_, findings) = examine(folder.path(), &(edge_config("") + url));
        let warning = of_user(&findings).unwrap();
        let found = warning["found"].as_str().unwrap();
        assert!(found.contains("only root may read"), "{found}");
        assert!(found.ends_with("root.pem"), "{found}");
    }
}

#[test]
fn a_service_that_speaks_tls_is_not_reached_over_http() {
    let certificates = CertificateFolder::valid();
    let cloud = CloudService::start(&certificates);
    let folder = tempfile::tempdir().unwrap();
    let url = cloud.url().replace("https://", "http://");
    let config = edge_config("") + &format!("[cloud]\nurl = {url:?}\n");
    let (code, findings) = examine(folder.path(), &config);
    let (verdict, found) = about(&findings, "cloud", "reached over HTTP/2");
    assert_eq!((code, verdict), (1, "failed"), "{found}");
    let advice = advice(&findings, "cloud", "reached over HTTP/2");
    assert!(advice.contains("write https://"), "{advice}");
    let of_cloud = findings.iter().filter(|found| found["area"] == "cloud");
    assert_eq!(of_cloud.count(), 1, "{findings:#?}");
}

#[test]
fn a_deadline_that_is_too_short_and_weights_that_are_wrong_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (code, findings) = examine(folder.path(), &edge_config("deadline_ms = 1"));
    let (verdict, found) = about(&findings, "configuration", "deadline_ms");
    assert_eq!((code, verdict), (0, "warning"), "{found}");
    assert!(found.contains("no image is answered in time"), "{found}");
    assert!(advice(&findings, "configuration", "deadline_ms").contains("runtime.threads"));

    let models = folder.path().join("models");
    for name in ["squeezenet1.0", "efficientnet-lite2"] {
        fs::create_dir_all(models.join(name)).unwrap();
        let manifest = format!("{name}/model.toml");
        fs::copy(
            repository().join("models").join(&manifest),
            models.join(&manifest),
        )
        .unwrap();
    }
    let labels = "imagenet-labels.txt";
    fs::copy(
        repository().join("models").join(labels),
        models.join(labels),
    )
    .unwrap();
    fs::write(models.join("squeezenet1.0/squeezenet1.0.onnx"), "broken").unwrap();
    let cascade = repository().join("models/cascades/squeezenet-lite2.toml");
    let config = format!("models = {models:?}\ncascade = {cascade:?}\n");
    let (code, findings) = examine(folder.path(), &config);
    let (verdict, found) = about(&findings, "model", "squeezenet1.0");
    assert_eq!((code, verdict), (1, "failed"), "{found}");
    let advice = advice(&findings, "model", "squeezenet1.0");
    assert!(
        !advice.contains("lab fetch") && advice.contains("back from where"),
        "{advice}"
    );
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
