//! What a missing cloud costs: the time from the device's answer to the fallback where the cloud's
//! port is closed, and how late the answer is after the deadline where the cloud is a black hole.
//!
//! `cargo bench --workspace --bench fallback`; the targets are 50 ms and 20 ms.

use std::{
    error::Error,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use outpost_cascade::Mode;
use outpost_edge_agent::{Agent, Answered, Config, Image, Record};
use outpost_engine::{CircuitSettings, PeerConfig};
use outpost_transport::Transport;

const DEADLINE_MS: u64 = 400;
const IMAGES: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("medians and maxima of {IMAGES} images, in milliseconds");
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for transport in [Transport::H2, Transport::H3, Transport::Auto] {
        let delays = measure(closed, transport, |answered| {
            answered.total_ms - answered.wait_ms - answered.device_ms
        })
        .await?;
        print("closed port, after the device's answer", transport, &delays);
    }
    let silent_tcp = TcpListener::bind("127.0.0.1:0")?;
    let black_hole = silent_tcp.local_addr()?;
    let _silent_udp = UdpSocket::bind(black_hole)?;
    for transport in [Transport::H2, Transport::H3, Transport::Auto] {
        let delays = measure(black_hole, transport, |answered| {
            answered.total_ms - DEADLINE_MS as f64
        })
        .await?;
        print("black hole, after the deadline", transport, &delays);
    }
    Ok(())
}

async fn measure(
    cloud: SocketAddr,
    transport: Transport,
    delay: impl Fn(&Answered) -> f64,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let agent = Agent::start(&Config {
        models: repository.join("models"),
        cascade: repository.join("models/cascades/squeezenet-lite2.toml"),
        mode: Mode::CloudOnly,
        deadline_ms: DEADLINE_MS,
        cloud: Some(PeerConfig {
            transport,
            ..PeerConfig::new(format!("https://{cloud}"))
        }),
        // Every image tries: the circuit would spare most of them the wait.
        circuit: CircuitSettings {
            failures_to_open: u32::MAX,
            ..CircuitSettings::default()
        },
        ..Config::default()
    })?;
    let photos: Vec<PathBuf> = std::fs::read_dir(repository.join("models/samples/photos"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .take(IMAGES)
        .collect();
    let mut delays = Vec::new();
    for photo in photos {
        match agent.record(Image::file(photo)).await {
            Record::Answered(answered) => delays.push(delay(&answered)),
            Record::Failed { error, .. } => return Err(error.into()),
        }
    }
    delays.sort_by(f64::total_cmp);
    Ok(delays)
}

fn print(what: &str, transport: Transport, delays: &[f64]) {
    println!(
        "{what:<40} {:<5} median {:>7.2}   max {:>7.2}",
        transport.to_string(),
        delays[delays.len() / 2],
        delays[delays.len() - 1],
    );
}
