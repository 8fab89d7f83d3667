//! `[power]`: a device that spares its battery, as the system's power supplies say.

use std::{fs, os::unix::fs::symlink, path::Path};

use outpost_tests::{CertificateFolder, CloudService, repository, some_cifar};
use serde_json::Value;

use crate::run::{Device, json, until};

/// What the system tells of a laptop's supplies from now on, at once.
fn plug(folder: &Path, online: &str, status: &str, capacity: &str) {
    let supplies = tempfile::tempdir_in(folder).unwrap().keep();
    let supply = |name: &str, says: &[(&str, &str)]| {
        fs::create_dir(supplies.join(name)).unwrap();
        for (file, text) in says {
            fs::write(supplies.join(name).join(file), format!("{text}\n")).unwrap();
        }
    };
    supply("AC", &[("type", "Mains"), ("online", online)]);
    let battery = [
        ("type", "Battery"),
        ("status", status),
        ("capacity", capacity),
    ];
    supply("BAT0", &battery);
    symlink(&supplies, folder.join("next")).unwrap();
    fs::rename(folder.join("next"), folder.join("supplies")).unwrap();
}

fn device(cloud: &CloudService, certificates: &CertificateFolder, extra: &str) -> Device {
    let folder = tempfile::tempdir().unwrap();
    plug(folder.path(), "1", "Charging", "50");
    let config = format!(
        "operating_point = \"offload=20%\"\nfollow_link = false\nmode = \"cloud-only\"\ndeadline_ms = 20000\n{extra}\n[cloud]\n\
         url = \"{}\"\ncertificate_authority = {:?}\n[api]\naddress = \"127.0.0.1:0\"\n",
        cloud.url(),
        certificates.authority(),
    );
    Device::start_in(folder, &config)
}

fn cloud(certificates: &CertificateFolder) -> CloudService {
    let models = repository().join("models");
    let config = format!("models = {models:?}\nnetworks = [\"cifar10-resnet\"]");
    CloudService::start_with(certificates, &config)
}

fn reason(device: &Device) -> String {
    let image = fs::read(&some_cifar(1)[0]).unwrap();
    let answer = json(device.post("/v1/classify", "image/jpeg", &image));
    answer["reason"].as_str().unwrap().to_owned()
}

fn power(device: &Device) -> Value {
    json(device.get("/v1/state"))["power"].clone()
}

fn becomes(device: &Device, class: &str) -> Value {
    until(class, || {
        Some(power(device)).filter(|power| power["class"] == class)
    })
}

#[test]
fn offloads_end_with_their_energy_while_the_device_runs_from_its_battery() {
    let certificates = CertificateFolder::valid();
    let cloud = cloud(&certificates);
    let device = device(
        &cloud,
        &certificates,
        "[power]\nclass = \"auto\"\nsupplies = \"supplies\"\nlook_seconds = 1\n\
         [power.offload]\njoules_per_megabyte = 1000000\nradio_watts = 0.0\nradio_tail_seconds = 0.0\n\
         [power.battery]\njoules_per_hour = 1\noperating_point = \"offload=5%\"\n[power.saver]\noffloads_per_hour = 1\n",
    );
    let folder = device.folder.path().to_owned();
    let goal = |device: &Device| json(device.get("/v1/state"))["policy"]["goal"].clone();
    let before = goal(&device);
    let on_mains = power(&device);
    assert_eq!(on_mains["class"], "mains");
    assert_eq!(
        (&on_mains["charge"], &on_mains["joules_left"]),
        (&50.into(), &Value::Null)
    );
    assert_eq!(reason(&device), "offloaded");
    assert!(power(&device)["joules_spent"].as_f64().unwrap() > 100.0);
    // A byte takes a joule: not one image is sent.
    plug(&folder, "0", "Discharging", "50");
    becomes(&device, "battery");
    until("the bound", || {
        (power(&device)["joules_left"] == 1.0).then_some(())
    });
    assert_eq!(reason(&device), "fallback:budget");
    until("the operating point", || {
        (goal(&device) != before).then_some(())
    });
    until("the metric", || {
        let metric = device.metric("outpost_edge_power_class{class=\"battery\"}");
        (metric == Some(1.0)).then_some(())
    });
    // Nearly empty: one offload an hour, whatever it takes.
    plug(&folder, "0", "Discharging", "5");
    becomes(&device, "saver");
    until("the operating point as before", || {
        (goal(&device) == before).then_some(())
    });
    assert_eq!(reason(&device), "offloaded");
    assert_eq!(reason(&device), "fallback:budget");
    // A reload changes nothing of it.
    device.process.hang_up();
    until("the reload", || {
        device.counted("outpost_edge_reloads_total{result=\"applied\"}")
    });
    assert_eq!(reason(&device), "fallback:budget");
    // What cannot be read is as before.
    fs::rename(folder.join("supplies"), folder.join("away")).unwrap();
    fs::rename(folder.join("away"), folder.join("supplies")).unwrap();
    plug(&folder, "1", "Charging", "6");
    becomes(&device, "mains");
    let changes = "outpost_edge_power_class_changes_total";
    until("the change", || {
        (device.metric(changes) == Some(3.0)).then_some(())
    });
    assert_eq!(reason(&device), "offloaded");
    assert_eq!(device.metric("outpost_edge_battery_charge{}"), Some(0.06));
    let (log, _folder) = device.end();
    assert!(log.contains("the device runs from something else"), "{log}");
}

#[test]
fn a_class_that_is_configured_holds_and_what_it_lacks_is_named() {
    let certificates = CertificateFolder::valid();
    let cloud = cloud(&certificates);
    let device = device(
        &cloud,
        &certificates,
        "[power]\nclass = \"saver\"\n[power.saver]\noffloads_per_hour = 1\n",
    );
    let state = power(&device);
    assert_eq!(
        (&state["class"], &state["charge"]),
        (&"saver".into(), &Value::Null)
    );
    assert_eq!(reason(&device), "offloaded");
    assert_eq!(reason(&device), "fallback:budget");
    device.end();
    let folder = tempfile::tempdir().unwrap();
    for (extra, says) in [
        (
            "[power.battery]\njoules_per_hour = 9\n",
            "`power.battery.joules_per_hour` needs `[power.offload]`",
        ),
        ("[power]\nclass = \"sun\"\n", "unknown variant `sun`"),
        (
            "[power]\nsaver_below = 101\n",
            "`power.saver_below` is above 100",
        ),
        ("[power]\nlook_seconds = 0\n", "`power.look_seconds` is 0"),
        (
            "[power.offload]\njoules_per_megabyte = 1.0\n",
            "missing field `radio_watts`",
        ),
        (
            "[power.offload]\njoules_per_megabyte = -1.0\nradio_watts = 1.0\nradio_tail_seconds = 1.0\n",
            "`power.offload.joules_per_megabyte` is -1",
        ),
    ] {
        let (code, said) = Device::refused(
            &folder,
            &format!("{extra}[api]\naddress = \"127.0.0.1:0\"\n"),
        );
        assert_eq!(code, 1);
        assert!(said.contains(says), "{said}");
    }
}
