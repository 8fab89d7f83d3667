//! How long a simulation takes: a million devices that send a fifth of their images to 16 servers, two million images.
//!
//! `cargo bench --workspace --bench fleet`; the target is a minute on one core.

use std::{error::Error, time::Instant};

use outpost_lab::fleet::{
    arrivals::Arrivals,
    batching::Rules,
    links::{Bytes, draw},
    plan::Plan,
    service::ServiceTimes,
    simulation::{How, Scenario, Server, Way, Ways, Window, simulate},
};

const DEVICES: u32 = 1_000_000;
const IMAGES: u64 = 2_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let plan = Plan::parse(include_str!("../plans/photos.toml"))?;
    let started = Instant::now();
    let links = draw(&plan.link, DEVICES, plan.seed);
    println!("links drawn in {:.2} s", started.elapsed().as_secs_f64());
    let way = |is_sent| Way {
        local_seconds: 0.05,
        is_sent,
        here: Some(true),
    };
    let ways = Ways {
        ways: vec![[way(false), way(true)]],
        share: 0.2,
        cloud: vec![true],
        bytes: vec![19_000],
    };
    let rules = Rules {
        max_batch: 4,
        max_delay: 0.0,
        preferred: Vec::new(),
        max_queue: 256,
        instances: 1,
    };
    let service = ServiceTimes::of([(1, 1.218e-3), (4, 1.72e-3)]);
    let scenario = Scenario {
        ways: &ways,
        links: &links,
        bytes: &Bytes::new(plan.bytes.clone()),
        servers: 16,
        server: Server {
            rules: &rules,
            service: &service,
            decoders: 16,
            decode_seconds: 5.1e-3,
            call_seconds: 0.0,
        },
        deadline: 1.0,
        late: 0.0,
        seed: 1,
    };
    let arrivals = Arrivals::new(&plan.arrivals, DEVICES, 1, 1);
    let started = Instant::now();
    let window = Window {
        warm_up: 100_000,
        images: IMAGES,
    };
    let measured = simulate(&scenario, arrivals, window);
    let took = started.elapsed().as_secs_f64();
    println!(
        "{IMAGES} images in {took:.2} s, {:.2} million a second; {} answered by the cloud",
        IMAGES as f64 / took / 1e6,
        measured.count(How::Cloud)
    );
    Ok(())
}
