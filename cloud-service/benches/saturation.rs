//! What serving costs at saturation: images a second through the service, over both transports, beside the
//! same network in a bare loop: `cargo bench --workspace --bench saturation`.
//!
//! Two ways to divide the machine. Apart: the service, and the loop that it is compared with, have one core, and
//! the callers another, as if on a machine of their own. Together: callers and service share all cores, so that a
//! ratio counts the callers' work too. TLS is spoken; a call carries a tensor of 4 bytes a value. Each round measures
//! the loop and both transports; ratios are medians of rounds.

use std::{
    error::Error,
    net::SocketAddr,
    num::NonZero,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use core_affinity::CoreId;
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
use tikv_jemallocator::Jemalloc;
use tokio::task::JoinSet;

/// That of the program.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const NETWORKS: [&str; 2] = ["efficientnet-lite2", "squeezenet1.0"];
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(3);
/// Callers for each core of theirs, each with one call at a time.
const CALLERS_PER_CORE: usize = 2;

type BenchError = Box<dyn Error + Send + Sync>;

/// Who has which core; none is all.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    service: Option<CoreId>,
    callers: Option<CoreId>,
}

fn main() -> Result<(), BenchError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, second, ..] = cores[..] else {
        return Err("callers and service need a core each: this machine has fewer than two".into());
    };
    let layouts = [
        Layout {
            name: "apart",
            service: Some(first),
            callers: Some(second),
        },
        Layout {
            name: "together",
            service: None,
            callers: None,
        },
    ];
    println!(
        "| cores | network | bare loop, images/s | HTTP/2 of it | HTTP/3 of it | HTTP/3 of HTTP/2 |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for layout in layouts {
        measure(layout)?;
    }
    Ok(())
}

fn measure(layout: Layout) -> Result<(), BenchError> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::issue(&Subjects::host("127.0.0.1"), Validity::days(1))?;
    let files = certificates.write(folder.path(), ExistingFiles::Keep)?;
    let address = {
        let (models, tls) = (models.clone(), Tls::new(files.chain, files.key));
        // By default there are as many instances as cores that the service may run on.
        serve(layout.service, || Config {
            address: ([127, 0, 0, 1], 0).into(),
            models,
            networks: NETWORKS.map(str::to_owned).to_vec(),
            tls: Some(tls),
            ..Config::default()
        })?
    };
    for network in NETWORKS {
        let classifier = ModelFolder::new(&models).open(network, &TractRuntime::default())?;
        let client = |transport| ClientConfig {
            transport,
            trust: Trust::Authority(certificates.authority_pem.clone().into()),
            ..ClientConfig::new(format!("https://{address}"))
        };
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(Round {
                bare: on(layout.service, || Ok(bare_loop(&classifier)))?,
                http2: on(layout.callers, || calls(client(Transport::H2), &classifier))?,
                http3: on(layout.callers, || calls(client(Transport::H3), &classifier))?,
            });
        }
        let median = |of: fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "| {} | {network} | {:.1} | {:.3} | {:.3} | {:.3} |",
            layout.name,
            median(|round| round.bare),
            median(|round| round.http2 / round.bare),
            median(|round| round.http3 / round.bare),
            median(|round| round.http3 / round.http2),
        );
    }
    Ok(())
}

/// Leaves the thread, and those that it starts, the core alone.
fn pin(core: Option<CoreId>) -> Result<(), String> {
    match core {
        Some(core) if !core_affinity::set_for_current(core) => Err(format!(
            "this system does not give a thread core {}",
            core.id
        )),
        _ => Ok(()),
    }
}

/// Runs `work` on a thread that has the core alone.
fn on<T: Send>(
    core: Option<CoreId>,
    work: impl FnOnce() -> Result<T, BenchError> + Send,
) -> Result<T, BenchError> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            pin(core)?;
            work()
        });
        worker.join().expect("the work does not panic")
    })
}

/// Starts the service on threads of its own; it goes on until the program ends.
fn serve(
    core: Option<CoreId>,
    config: impl FnOnce() -> Config + Send + 'static,
) -> Result<SocketAddr, BenchError> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let start = || {
            pin(core)?;
            let runtime = tokio::runtime::Runtime::new()?;
            let server = runtime.block_on(Server::start(config()))?;
            Ok((runtime, server))
        };
        match start() {
            Ok((runtime, server)) => {
                let _ = tell.send(Ok(server.local_addr()));
                let _ = runtime.block_on(server.serve(std::future::pending()));
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    });
    told.recv()?
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

/// As many threads as the cores that this one may run on.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Images a second without a service.
fn bare_loop(classifier: &Classifier) -> f64 {
    let image = image(classifier);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads() {
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
fn calls(client: ClientConfig, classifier: &Classifier) -> Result<f64, BenchError> {
    let image = image(classifier);
    let manifest = classifier.manifest();
    let shape = image.shape().to_vec();
    let (values, _) = image.into_raw_vec_and_offset();
    let input = Tensor::new(&manifest.input.tensor, shape, TensorData::Fp32(values))?;
    let request = tensor::infer_request(&manifest.name, "", [input], ContentsKind::Raw);
    tokio::runtime::Runtime::new()?.block_on(async {
        let channel = Channel::new(client)?;
        channel.connect().await?;
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let started = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS_PER_CORE * threads() {
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
    })
}
