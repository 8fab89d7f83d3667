//! The simulation beside what is known in closed form, and what must hold of any run.

use super::*;
use crate::fleet::{
    batching::Rules,
    plan::{ArrivalKind, ArrivalPlan, BytesPlan},
    service::ServiceTimes,
    statistics::{estimate, mean},
};

/// Exponential times of batches, whatever their size.
struct Exponential(f64);

impl Service for Exponential {
    fn seconds(&self, _images: usize, rng: &mut Rng) -> f64 {
        -(1.0 - rng.f64()).ln() * self.0
    }
}

/// A fleet with which to begin.
struct Fleet {
    ways: Ways,
    links: Vec<DeviceLink>,
    bytes: Bytes,
    rules: Rules,
    servers: u32,
    decode_seconds: f64,
    deadline: f64,
    late: f64,
    seed: u64,
}

impl Fleet {
    /// Devices that send all at once, over links that take no time, to one server that runs one image at a time.
    fn new(devices: usize) -> Self {
        let way = Way {
            local_seconds: 0.0,
            is_sent: true,
            here: Some(true),
        };
        Self {
            ways: Ways {
                ways: vec![[way; 2]],
                share: 0.0,
                cloud: vec![true],
                bytes: vec![9_600],
            },
            links: vec![
                DeviceLink {
                    round_trip: 0.0,
                    uplink: f32::INFINITY,
                    downlink: f32::INFINITY,
                    loss: 0.0,
                };
                devices
            ],
            bytes: Bytes::new(BytesPlan {
                image: None,
                request: 400,
                reply: 4_000,
                packet: 1_000,
                packet_overhead: 0,
            }),
            rules: Rules {
                max_batch: 1,
                max_delay: 0.0,
                preferred: Vec::new(),
                max_queue: 1_000_000,
                instances: 1,
            },
            servers: 1,
            decode_seconds: 0.0,
            deadline: 1e6,
            late: 0.0,
            seed: 1,
        }
    }

    fn run(&self, service: &dyn Service, per_second: f64, images: u64) -> Measured {
        let scenario = Scenario {
            ways: &self.ways,
            links: &self.links,
            bytes: &self.bytes,
            servers: self.servers,
            server: Server {
                rules: &self.rules,
                service,
                decoders: 4,
                decode_seconds: self.decode_seconds,
                call_seconds: 0.0,
            },
            deadline: self.deadline,
            late: self.late,
            seed: self.seed,
        };
        let plan = ArrivalPlan {
            kind: ArrivalKind::Poisson,
            per_device_hour: 3600.0 * per_second / self.links.len() as f64,
            peak_over_mean: 1.0,
            burst_images: None,
            burst_apart_ms: None,
        };
        let window = Window {
            warm_up: images / 10,
            images,
        };
        let arrivals = arrivals_of(&plan, &scenario);
        simulate(&scenario, arrivals, window)
    }
}

/// Checks that a mean latency is `expected`, by its own interval made twice as wide: five runs in a hundred would else fail.
fn holds(measured: &Measured, expected: f64) {
    let seen: Vec<Seen> = measured.seen().copied().collect();
    let mean = estimate(&seen, |seen| {
        mean(seen.iter().map(|s| f64::from(s.latency)))
    })
    .unwrap();
    let half = mean.high - mean.low;
    assert!(half / mean.value < 0.15, "{mean:?} is too wide to tell");
    let is_near = (mean.value - half..=mean.value + half).contains(&expected);
    assert!(is_near, "{mean:?}, expected {expected}");
}

#[test]
fn one_server_of_constant_times_waits_as_pollaczek_and_khinchine_say() {
    // M/D/1: the mean wait is ρ s / (2 (1 − ρ)).
    let service = ServiceTimes::of([(1, 0.010)]);
    for utilisation in [0.3, 0.6, 0.8] {
        let measured = Fleet::new(50).run(&service, utilisation / 0.010, 200_000);
        holds(
            &measured,
            0.010 + utilisation * 0.010 / (2.0 * (1.0 - utilisation)),
        );
        assert!((measured.utilisation(1) / utilisation - 1.0).abs() < 0.02);
    }
}

#[test]
fn one_server_of_exponential_times_waits_as_erlang_says() {
    // M/M/1: the mean stay is s / (1 − ρ).
    for utilisation in [0.5, 0.8] {
        let measured = Fleet::new(50).run(&Exponential(0.010), utilisation / 0.010, 300_000);
        holds(&measured, 0.010 / (1.0 - utilisation));
    }
}

#[test]
fn two_instances_wait_as_erlangs_c_says() {
    // M/M/2: the mean stay is s / (1 − ρ²).
    let mut fleet = Fleet::new(50);
    fleet.rules.instances = 2;
    let measured = fleet.run(&Exponential(0.010), 2.0 * 0.7 / 0.010, 300_000);
    holds(&measured, 0.010 / (1.0 - 0.7 * 0.7));
}

#[test]
fn devices_wait_for_themselves_as_queues_of_their_own() {
    // A device is an M/D/1 of its own, however many there are.
    let mut fleet = Fleet::new(20);
    let way = &mut fleet.ways.ways[0][0];
    (way.is_sent, way.local_seconds) = (false, 0.1);
    let utilisation = 0.5;
    let service = ServiceTimes::of([(1, 0.010)]);
    let measured = fleet.run(&service, 20.0 * utilisation / 0.1, 200_000);
    holds(
        &measured,
        0.1 + utilisation * 0.1 / (2.0 * (1.0 - utilisation)),
    );
    assert_eq!(measured.count(How::Device), 200_000);
}

#[test]
fn calls_at_the_servers_are_their_rate_times_their_stay() {
    // Little's law, with batches, delays and decoding.
    let mut fleet = Fleet::new(50);
    fleet.rules.max_batch = 8;
    fleet.rules.max_delay = 0.005;
    fleet.decode_seconds = 0.003;
    fleet.servers = 3;
    let service = ServiceTimes::of([(1, 0.008), (8, 0.020)]);
    let measured = fleet.run(&service, 700.0, 100_000);
    assert!(measured.mean_batch().unwrap() > 1.5);
    let by_law = measured.leaving_per_second() * measured.mean_stay();
    let apart = measured.mean_at_servers() / by_law - 1.0;
    assert!(apart.abs() < 0.01, "{apart}");
}

#[test]
fn every_image_has_one_end_also_where_servers_are_overwhelmed() {
    let service = ServiceTimes::of([(1, 0.010), (4, 0.020)]);
    for (load, late, here) in [
        (0.5, 0.0, true),
        (3.0, 0.0, true),
        (3.0, 0.5, false),
        (20.0, 0.2, true),
    ] {
        let mut fleet = Fleet::new(40);
        fleet.rules.max_batch = 4;
        fleet.rules.max_queue = 32;
        fleet.deadline = 0.100;
        fleet.late = late;
        let [sent, stays] = &mut fleet.ways.ways[0];
        sent.here = here.then_some(true);
        (stays.is_sent, stays.local_seconds) = (false, 0.002);
        fleet.ways.share = 0.25;
        let measured = fleet.run(&service, load * 200.0 / 0.75, 20_000);
        let fallbacks = [How::Deadline, How::Overloaded, How::CircuitOpen]
            .map(|how| measured.count(how))
            .iter()
            .sum::<u64>();
        let (device, cloud) = (measured.count(How::Device), measured.count(How::Cloud));
        let unanswered = measured.count(How::Unanswered);
        assert_eq!(device + cloud + fallbacks + unanswered, 20_000);
        assert!((4_500..5_500).contains(&device), "{device}");
        match load > 1.0 {
            false => assert!(cloud > 14_000, "{cloud}"),
            true if here => assert!(fallbacks > 5_000 && unanswered == 0, "{fallbacks}"),
            true => assert!(unanswered > 5_000 && fallbacks == 0, "{unanswered}"),
        }
        assert_eq!(measured.corrected() > 0, late > 0.0, "{load}");
        let latest = measured.seen().map(|seen| seen.latency).fold(0.0, f32::max);
        assert!(latest <= 0.100 + 0.002 * 8.0, "{latest}");
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let mut fleet = Fleet::new(30);
        (fleet.seed, fleet.rules.max_batch, fleet.deadline) = (seed, 4, 0.08);
        fleet.links[7].loss = 0.2;
        fleet.links[7].round_trip = 0.02;
        let service = ServiceTimes::of([(1, 0.010), (1, 0.012), (4, 0.030)]);
        let measured = fleet.run(&service, 120.0, 5_000);
        measured.seen().copied().collect::<Vec<Seen>>()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn a_slow_link_takes_its_time_and_its_bytes_come_in() {
    let mut fleet = Fleet::new(100);
    for link in &mut fleet.links {
        *link = DeviceLink {
            round_trip: 0.040,
            uplink: 1e5,
            downlink: 1e6,
            loss: 0.0,
        };
    }
    let service = ServiceTimes::of([(1, 0.001)]);
    let measured = fleet.run(&service, 10.0, 5_000);
    let fastest = measured
        .seen()
        .map(|seen| seen.latency)
        .fold(f32::MAX, f32::min);
    // 10,000 bytes up, 4,000 down, there and back, and a millisecond of the network.
    let expected = 0.100 + 0.004 + 0.040 + 0.001;
    assert!((f64::from(fastest) - expected).abs() < 1e-4, "{fastest}");
    let rate = measured.ingress_bytes_per_second() / 1e5;
    assert!((rate - 1.0).abs() < 0.05, "{rate}");
}

#[test]
fn a_circuit_opens_after_deadlines_and_devices_answer_at_once() {
    let mut fleet = Fleet::new(1);
    fleet.deadline = 0.05;
    fleet.rules.max_queue = 1000;
    let service = ServiceTimes::of([(1, 10.0)]);
    let measured = fleet.run(&service, 20.0, 2_000);
    assert!(measured.count(How::CircuitOpen) > 1_800);
    assert!(measured.count(How::Deadline) >= 3);
}
