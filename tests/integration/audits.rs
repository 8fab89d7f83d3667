//! Audits: the cloud is asked afterwards about answers that the device gave by itself.

use std::{collections::HashMap, fs, net::TcpListener};

use outpost_tests::{CertificateFolder, CloudService, repository, some_cifar};
use serde_json::Value;

use crate::run::{Device, json, lines, until};

fn cloud(certificates: &CertificateFolder) -> CloudService {
    let models = repository().join("models");
    let config = format!("models = {models:?}\nnetworks = [\"cifar10-resnet\"]");
    CloudService::start_with(certificates, &config)
}

fn config(cloud: &str, certificates: &CertificateFolder, audit: &str) -> String {
    format!(
        "operating_point = \"offload=20%\"\nfollow_link = false\ndeadline_ms = 20000\n{audit}\n[cloud]\nurl = \"{cloud}\"\n\
         certificate_authority = {:?}\n[api]\naddress = \"127.0.0.1:0\"\n[outputs.file]\npath = \"answers.jsonl\"\n",
        certificates.authority(),
    )
}

fn ask_all(device: &Device, count: usize) -> Vec<Value> {
    let ask = |path: &std::path::PathBuf| {
        let image = fs::read(path).unwrap();
        json(device.post("/v1/classify", "image/jpeg", &image))
    };
    some_cifar(count).iter().map(ask).collect()
}

fn of(device: &Device, result: &str) -> f64 {
    let metric = format!("outpost_edge_audits_total{{result=\"{result}\"}}");
    device.metric(&metric).unwrap_or(0.0)
}

#[test]
fn every_answer_of_the_device_that_is_drawn_has_one_last_word_of_the_cloud() {
    let certificates = CertificateFolder::valid();
    let cloud = cloud(&certificates);
    let audit = "[audit]\nshare = 1.0\nexpected = 0.9\nfalse_alarm_after = 1000000";
    let device = Device::start(&config(&cloud.url(), &certificates, audit));
    let answers = ask_all(&device, 60);
    let is_own = |answer: &&Value| answer["reason"] == "confident";
    let own = answers.iter().filter(is_own).count();
    assert!(own > 20, "{own}");
    let path = device.folder.path().join("answers.jsonl");
    let events = until("all last words", || {
        let events = lines(&path);
        let finals = events.iter().filter(|event| event["final"] == true);
        (finals.count() == answers.len()).then_some(events)
    });
    let mut said: HashMap<String, Vec<&Value>> = HashMap::new();
    for event in &events {
        let id = event["id"].as_str().unwrap().to_owned();
        said.entry(id).or_default().push(event);
    }
    assert_eq!(said.len(), answers.len());
    let (mut audited, mut contradicted) = (0, 0);
    for events in said.values() {
        let finals = events.iter().filter(|event| event["final"] == true);
        assert_eq!(finals.count(), 1, "{events:#?}");
        let [first, last] = events[..] else { continue };
        audited += 1;
        assert_eq!(first["reason"], "confident", "{first}");
        let is_other = last["site"] == "cloud";
        contradicted += usize::from(is_other);
        let kind = if is_other {
            "correction"
        } else {
            "confirmation"
        };
        assert_eq!(last["kind"], kind, "{last}");
        assert_eq!(first["class_id"] != last["class_id"], is_other, "{last}");
    }
    // As many at a time as there are places: others are as if not drawn.
    assert!(audited > 10 && audited <= own, "{audited} of {own}");
    assert_eq!(of(&device, "contradicts"), contradicted as f64);
    assert_eq!(of(&device, "agrees"), (audited - contradicted) as f64);
    let audit = &json(device.get("/v1/state"))["audit"];
    assert_eq!(audit["audits"], audited, "{audit}");
    let agreement = 1.0 - contradicted as f64 / audited as f64;
    let said = audit["agreement"].as_f64().unwrap();
    assert!((said - agreement).abs() < 1e-9, "{audit}");
    assert_eq!(audit["expected"], 0.9, "{audit}");
    let (low, high) = (&audit["interval"][0], &audit["interval"][1]);
    assert!(low.as_f64().unwrap() <= said && said <= high.as_f64().unwrap());
    for (end, name) in [(low, "low"), (high, "high")] {
        let told = device.metric(&format!("outpost_edge_audit_agreement_{name}{{}} "));
        assert!(
            (told.unwrap() - end.as_f64().unwrap()).abs() < 1e-9,
            "{audit}"
        );
    }
    device.end();
}

#[test]
fn answers_whose_audits_a_kill_ends_have_their_last_word_at_the_next_start() {
    let certificates = CertificateFolder::valid();
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let audit =
        "delivery = \"eventually\"\n[circuit]\nfailures_to_open = 1000\n[audit]\nshare = 1.0";
    let url = format!("https://{}", silent.local_addr().unwrap());
    let config = config(&url, &certificates, audit)
        .replace("deadline_ms = 20000", "deadline_ms = 1000")
        .replace("[cloud]\n", "[cloud]\ntransport = \"h2\"\n");
    let device = Device::start(&config);
    let answers = ask_all(&device, 12);
    let own = answers.iter().filter(|one| one["reason"] == "confident");
    // With as many audits under way as may be, what comes next is final at once.
    let audited: Vec<&Value> = own.filter(|one| one["final"] == false).collect();
    assert!(audited.len() > 3, "{audited:?}");
    let device = Device::start_in(device.kill(), &config);
    let path = device.folder.path().join("answers.jsonl");
    let finals = || {
        let events = lines(&path);
        let of = |one: &&Value| {
            let of_it = events.iter().filter(|event| event["id"] == one["id"]);
            of_it.filter(|event| event["final"] == true).count()
        };
        audited.iter().map(of).collect::<Vec<usize>>()
    };
    until("all last words", || {
        finals().iter().all(|&finals| finals > 0).then_some(())
    });
    assert!(finals().iter().all(|&finals| finals == 1), "{:?}", finals());
    device.kill();
}

#[test]
fn an_alarm_is_logged_and_counted_and_private_images_are_not_drawn() {
    let certificates = CertificateFolder::valid();
    let cloud = cloud(&certificates);
    // So impatient that any few audits are an alarm.
    let audit = "[audit]\nshare = 1.0\nexpected = 1.0\ntolerance = 0.0\nfalse_alarm_after = 2";
    let device = Device::start(&config(&cloud.url(), &certificates, audit));
    ask_all(&device, 40);
    until("an alarm", || {
        (device.metric("outpost_edge_audit_drift_alarm ") == Some(1.0)).then_some(())
    });
    let audit = &json(device.get("/v1/state"))["audit"];
    assert_eq!(audit["drift_alarm"], true, "{audit}");
    // The same read again keeps the account; of another policy it says nothing.
    let applied = |times: f64| {
        device.process.hang_up();
        until("a reload", || {
            let applied = device.metric("outpost_edge_reloads_total{result=\"applied\"}");
            (applied == Some(times)).then_some(())
        });
        json(device.get("/v1/state"))["audit"].clone()
    };
    assert_eq!(applied(1.0)["drift_alarm"], true);
    let policy = repository().join("models/policies/cifar10-alexnet-resnet.json");
    let mut other: Value = serde_json::from_slice(&fs::read(&policy).unwrap()).unwrap();
    other["reference"]["accuracy"] = 0.5.into();
    let file = device.folder.path().join("other.json");
    fs::write(&file, other.to_string()).unwrap();
    let path = device.folder.path().join("edge-agent.toml");
    let text = fs::read_to_string(&path).unwrap();
    let is_of = |path: &std::path::Path| format!("policy = {path:?}");
    fs::write(&path, text.replace(&is_of(&policy), &is_of(&file))).unwrap();
    let audit = applied(2.0);
    assert_eq!(
        (&audit["drift_alarm"], &audit["audits"]),
        (&false.into(), &0.into())
    );
    assert_eq!(device.metric("outpost_edge_audit_drift_alarm "), Some(0.0));
    assert_eq!(device.metric("outpost_edge_audit_agreement_low{}"), None);
    let (log, _) = device.end();
    assert_eq!(
        log.matches("less often than was expected").count(),
        1,
        "{log}"
    );

    let classes: Vec<String> = (0..10).map(|class| format!("\"{class}\"")).collect();
    let private = format!(
        "[privacy]\nnever_offload = [{}]\nat_least = 0.01\n[audit]\nshare = 1.0",
        classes.join(", ")
    );
    let device = Device::start(&config(&cloud.url(), &certificates, &private));
    for answer in ask_all(&device, 20) {
        assert_eq!(
            (&answer["site"], &answer["final"]),
            (&"device".into(), &true.into())
        );
    }
    assert_eq!(of(&device, "agrees") + of(&device, "contradicts"), 0.0);
    device.end();
}

#[test]
fn audits_without_a_cloud_or_out_of_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (audit, field) in [
        ("share = 0.1", "audit.share"),
        ("share = 2.0", "audit.share"),
        ("expected = 97.0", "audit.expected"),
        ("tolerance = -1.0", "audit.tolerance"),
        ("false_alarm_after = 0", "audit.false_alarm_after"),
    ] {
        let extra = format!("[api]\naddress = \"127.0.0.1:0\"\n[audit]\n{audit}");
        let (code, said) = Device::refused(&folder, &extra);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(field), "{said}");
    }
}
