//! What serving costs at saturation: images a second through the service, over both transports, beside the
//! same network in a bare loop on as many threads: `cargo bench -p outpost-cloud-service`.
//!
//! Callers, service and loop share the machine's cores, so that a ratio counts the callers' work too: TLS on
//! both sides, and tensors of 4 bytes a value. Each round measures all three; ratios are medians of rounds.

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ndarray::Array4;
use outpost_cloud_service::{Config, Server, Tls};
use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::grpc_inference_service_client::GrpcInferenceServiceClient, tensor,
};
use outpost_runtime::{Classifier, ModelFolder, TractRuntime};
use outpost_transport::{
    Channel, ClientConfig, Transport, Trust,
    development_certificates::{Certificates, ExistingFiles, Subjects, Validity},
};
use tokio::task::JoinSet;

const NETWORKS: [&str; 2] = ["efficientnet-lite2", "squeezenet1.0"];
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(3);
/// Callers for each thread of the network: its next image waits when one is done.
const CALLERS_PER_THREAD: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::issue(&Subjects::host("127.0.0.1"), Validity::days(1))?;
    let files = certificates.write(folder.path(), ExistingFiles::Keep)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let config = Config {
        address: ([127, 0, 0, 1], 0).into(),
        models: models.clone(),
        networks: NETWORKS.map(str::to_owned).to_vec(),
        tls: Some(Tls::new(files.chain, files.key)),
        ..Config::default()
    };
    let threads = config.batching.instances;
    let server = runtime.block_on(Server::start(config))?;
    let address = server.local_addr();
    runtime.spawn(server.serve(std::future::pending()));

    println!("| network | bare loop, images/s | HTTP/2 of it | HTTP/3 of it | HTTP/3 of HTTP/2 |");
    println!("| --- | --- | --- | --- | --- |");
    for network in NETWORKS {
        let classifier = ModelFolder::new(&models).open(network, &TractRuntime)?;
        let channel = |transport| {
            Channel::new(ClientConfig {
                transport,
                trust: Trust::Authority(certificates.authority_pem.clone().into()),
                ..ClientConfig::new(format!("https://{address}"))
            })
        };
        let channels = [channel(Transport::H2)?, channel(Transport::H3)?];
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let bare = bare_loop(&classifier, threads);
            let mut served = [0.0; 2];
            for (served, channel) in served.iter_mut().zip(&channels) {
                *served = runtime.block_on(calls(channel, &classifier, threads))?;
            }
            rounds.push(Round {
                bare,
                http2: served[0],
                http3: served[1],
            });
        }
        let median = |of: fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "| {network} | {:.1} | {:.3} | {:.3} | {:.3} |",
            median(|round| round.bare),
            median(|round| round.http2 / round.bare),
            median(|round| round.http3 / round.bare),
            median(|round| round.http3 / round.http2),
        );
    }
    runtime.shutdown_background();
    Ok(())
}

/// Images a second.
struct Round {
    bare: f64,
    http2: f64,
    http3: f64,
}

fn image(classifier: &Classifier) -> Array4<f32> {
    let size = classifier.manifest().input.size as usize;
    Array4::from_shape_fn((1, 3, size, size), |(_, c, y, x)| {
        ((c + 3 * y + 7 * x) % 17) as f32 / 17.0
    })
}

/// Images a second without a service.
fn bare_loop(classifier: &Classifier, threads: usize) -> f64 {
    let image = image(classifier);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let scores = classifier.network().infer(image.view());
                    scores.expect("the image has the network's shape");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(ROUND);
        stop.store(true, Ordering::Relaxed);
    });
    done.into_inner() as f64 / started.elapsed().as_secs_f64()
}

/// Images a second through the service.
async fn calls(
    channel: &Channel,
    classifier: &Classifier,
    threads: usize,
) -> Result<f64, Box<dyn Error>> {
    let image = image(classifier);
    let manifest = classifier.manifest();
    let shape = image.shape().to_vec();
    let (values, _) = image.into_raw_vec_and_offset();
    let input = Tensor::new(&manifest.input.tensor, shape, TensorData::Fp32(values))?;
    let request = tensor::infer_request(&manifest.name, "", [input], ContentsKind::Raw);
    channel.connect().await?;
    let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS_PER_THREAD * threads {
        let mut client = GrpcInferenceServiceClient::new(channel.clone());
        let (request, stop, done) = (request.clone(), stop.clone(), done.clone());
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.model_infer(request.clone()).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), tonic::Status>(())
        });
    }
    tokio::time::sleep(ROUND).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}
