//! Experiments that never were: drawn from a simple model of a device, a cloud and a path, for tests of reports alone.

use std::path::PathBuf;

use fastrand::Rng;

use super::super::{
    plan::{Plan, Policy, Run},
    profile::{Condition, Event, Profile, profiles},
    rows::{Found, Origin, Record, Row, Store, Wire},
};

/// Milliseconds of the device's network and of the cloud.
const DEVICE_MS: f64 = 20.0;
const CLOUD_MS: f64 = 8.0;
/// Share of images about which the device is sure.
const SURE: f64 = 0.7;
/// Milliseconds that HTTP/2 needs to find out that the device has another address.
const LOST_FOR_MS: f64 = 1500.0;

/// What is drawn of an image, the same in all runs.
struct Image {
    bytes: u32,
    is_sure: bool,
    device_is_right: bool,
    cloud_is_right: bool,
}

fn image(number: u32) -> Image {
    let mut rng = Rng::with_seed(1000 + u64::from(number));
    let is_sure = rng.f64() < SURE;
    let at_the_device = if is_sure { 0.97 } else { 0.5 };
    Image {
        bytes: rng.u32(8_000..24_000),
        is_sure,
        device_is_right: rng.f64() < at_the_device,
        cloud_is_right: rng.f64() < 0.95,
    }
}

/// Keeps an experiment of the plan in a folder.
pub(super) fn keep(store: &Store, text: &str) {
    let profiles = profiles(None).unwrap();
    let plan = Plan::parse(text, "plan.toml".as_ref(), &profiles).unwrap();
    let origin = Origin {
        version: "0.1.0".to_owned(),
        commit: Some("c0ffee123456".to_owned()),
        machine: Some("A processor".to_owned()),
        cores: 2,
        emulator: "nothing: drawn".to_owned(),
        plan: text.to_owned(),
        folder: PathBuf::from("plans"),
        profiles: None,
    };
    store.claim(&origin).unwrap();
    for run in plan.runs(&profiles) {
        let deadline = plan.cascade(&run.cascade).unwrap().deadline_ms as f64;
        let (record, rows) = drawn(&run, &profiles[&run.profile], &plan, deadline);
        store.keep(&record, &rows).unwrap();
    }
}

/// A run as it might have been.
fn drawn(run: &Run, profile: &Profile, plan: &Plan, deadline: f64) -> (Record, Vec<Row>) {
    let mut rng = Rng::with_seed(run.seed.into());
    let mut order: Vec<u32> = (0..plan.images).collect();
    rng.shuffle(&mut order);
    let mut noise = Rng::with_seed(run.id.bytes().map(u64::from).sum());
    let changing = !profile.changes.is_empty();
    let (mut rows, mut at) = (Vec::<Row>::new(), 0.0);
    for number in 0.. {
        let is_over = match changing {
            true => false,
            false => number >= plan.images,
        };
        if at >= 1e3 * run.seconds || is_over {
            break;
        }
        let place = order[(number % plan.images) as usize];
        let row = row(run, profile, (number, place), at, deadline, &mut noise);
        at = match changing {
            true => at + 200.0,
            false => at + row.latency_ms,
        };
        rows.push(row);
    }
    let requests: u64 = rows.iter().map(|row| u64::from(row.bytes_sent)).sum();
    let path_bytes = Wire {
        sent: requests + requests / 20 + 4000,
        received: 400 * rows.len() as u64 + 6000,
    };
    let changes = profile.changes.iter();
    let record = Record {
        run: run.clone(),
        began: 1.8e9,
        seconds: at / 1e3,
        path: Found {
            round_trip_ms: profile.condition.round_trip_ms + 0.3,
            uplink_bps: profile.condition.uplink_mbps.map(|mbps| 0.97e6 * mbps),
            downlink_bps: profile.condition.downlink_mbps.map(|mbps| 0.97e6 * mbps),
            holds: true,
        },
        changes: changes
            .map(|change| (1e3 * change.at, change.what.to_string()))
            .collect(),
        agent_bytes: Some(Wire {
            sent: path_bytes.sent + path_bytes.sent / 100,
            received: path_bytes.received,
        }),
        path_bytes,
        device_cpu_seconds: 0.022 * rows.len() as f64,
        joules: Some(0.5 * rows.len() as f64),
        unanswered: 0,
    };
    (record, rows)
}

/// What the path is like at a time.
fn condition_at(profile: &Profile, at: f64) -> Condition {
    let mut condition = profile.condition;
    for change in profile
        .changes
        .iter()
        .filter(|change| 1e3 * change.at <= at)
    {
        condition = profile.after(condition, change.what).unwrap_or(condition);
    }
    condition
}

fn row(
    run: &Run,
    profile: &Profile,
    (number, place): (u32, u32),
    at: f64,
    deadline: f64,
    noise: &mut Rng,
) -> Row {
    let image = image(place);
    let condition = condition_at(profile, at);
    let rate = |condition: &Condition| condition.uplink_mbps.unwrap_or(1e4);
    let link = |condition: &Condition| {
        let h3 = run.transport.as_str() == "h3";
        let lost = if h3 { 20.0 } else { 200.0 } * condition.loss * condition.round_trip_ms;
        condition.round_trip_ms
            + 8.0 * f64::from(image.bytes) / (1e3 * rate(condition))
            + lost / 10.0
    };
    let sends = match &run.policy {
        Policy::DeviceOnly => false,
        Policy::CloudOnly => true,
        Policy::Threshold(share) => f64::from(*share) > 0.9 || !image.is_sure,
        Policy::Fixed(goal) => !image.is_sure && (goal == "loss=1" || place % 4 == 0),
        // Sends less where it takes long.
        Policy::Learned(_) => !image.is_sure && (link(&condition) < 400.0 || place % 4 == 0),
    };
    let device = match run.policy {
        Policy::CloudOnly => 1.0,
        _ => DEVICE_MS,
    };
    let mut latency = device + noise.f64();
    let (mut site, mut reason) = ("device", "confident".to_owned());
    let moved = profile.changes.iter().find(|change| {
        let is_move = matches!(change.what, Event::NewAddress(_));
        is_move && (0.0..LOST_FOR_MS).contains(&(at - 1e3 * change.at + 50.0))
    });
    if sends {
        let mut took = link(&condition) + CLOUD_MS + 2.0 * noise.f64();
        if moved.is_some() && run.transport.as_str() == "h3" {
            took += 60.0;
        }
        let is_lost = moved.is_some() && run.transport.as_str() == "h2";
        if condition.loss >= 1.0 || is_lost || latency + took > deadline {
            latency = deadline + 2.0;
            reason = "fallback:deadline".to_owned();
        } else {
            latency += took;
            site = "cloud";
            reason = "offloaded".to_owned();
        }
    }
    let is_right = match site {
        "cloud" => image.cloud_is_right,
        _ => image.device_is_right,
    };
    let class = Some(if is_right { 3 } else { 4 });
    Row {
        run: run.id.clone(),
        profile: run.profile.clone(),
        cascade: run.cascade.clone(),
        policy: run.policy.to_string(),
        transport: run.transport.as_str().to_owned(),
        payload: run.payload.clone(),
        arrivals: run.arrivals.to_string(),
        concurrency: run.concurrency,
        repeat: run.repeat,
        seed: run.seed,
        number,
        file: format!("{place}.jpg"),
        label: 3,
        class,
        last_class: class,
        site: site.to_owned(),
        reason,
        started_ms: at,
        latency_ms: latency,
        total_ms: Some(latency - 0.2),
        device_ms: Some(device),
        encode_ms: None,
        link_ms: (site == "cloud").then_some(latency - device - CLOUD_MS),
        cloud_ms: (site == "cloud").then_some(CLOUD_MS),
        bytes_sent: if sends { image.bytes } else { 0 },
        used: (site == "cloud").then(|| run.transport.as_str().to_owned()),
    }
}
