//! `lab load`: calls a server of the Open Inference Protocol and tells throughput, latencies and refusals.
//!
//! Without `--rate` each caller calls again as soon as it is answered (a closed loop), which finds the throughput.
//! With `--rate` calls begin at random times at that mean rate, whether or not earlier ones were answered (an open
//! loop), which finds how latencies grow with load.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use outpost_proto::{
    ContentsKind, Tensor, TensorData, TensorError,
    inference::{ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient},
    tensor,
};
use outpost_runtime::{ModelFolder, OpenError};
use outpost_transport::{
    BearerToken, Channel, ClientConfig, ConfigError, ConnectError, TokenError, Transport, Trust,
};
use tokio::{task::JoinSet, time::sleep_until};
use tonic::{Code, Request};

use crate::{
    percentile::nearest_rank,
    table::{row, table},
};

/// What `lab load` is asked.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// The server: https://host:port, or http://host:port in the clear.
    #[arg(long)]
    pub url: String,
    /// The network to ask, by its name in the model folder and at the server.
    #[arg(long)]
    pub network: String,
    /// Certificate authority to trust, PEM; the public ones where it is absent.
    #[arg(long, env = "OUTPOST_CA")]
    pub ca: Option<PathBuf>,
    /// File with the token by which the server knows its caller.
    #[arg(long, env = "OUTPOST_TOKEN_FILE", value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// h2, h3 or auto.
    #[arg(long, default_value = "auto")]
    pub transport: Transport,
    /// Send this encoded image; without it, the network's input as FP32.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Images in a call.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub batch: u16,
    /// Callers at a time; several numbers are measured one after the other.
    #[arg(long, default_values_t = [1, 4, 16, 64], value_delimiter = ',')]
    pub callers: Vec<u16>,
    /// Connections that the callers share.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub connections: u16,
    /// Calls a second, over all callers, at random times; as many as are answered, where it is absent.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds to measure each number of callers, after a second of warm-up.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Milliseconds that a call may take.
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    pub deadline: u64,
    /// Also write the rows to this file, as CSV.
    #[arg(long, value_name = "FILE.csv")]
    pub csv: Option<PathBuf>,
    /// The model folder.
    #[arg(long, default_value = "models", env = "OUTPOST_MODELS")]
    pub models: PathBuf,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A number that makes no measurement.
    #[error("{0}")]
    Argument(&'static str),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The network's manifest is at fault.
    #[error(transparent)]
    Network(#[from] OpenError),
    /// The request cannot be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The address or the authority is at fault.
    #[error(transparent)]
    Channel(#[from] ConfigError),
    /// The token is at fault.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The server is not reached.
    #[error("cannot connect to {url}")]
    Connect {
        /// The server.
        url: String,
        /// Why.
        source: ConnectError,
    },
    /// The first call was refused, so that there is nothing to measure.
    #[error("the server refuses the first call: {0}")]
    Refused(Box<tonic::Status>),
    /// The rows cannot be written.
    #[error("cannot write the rows")]
    Write(#[from] io::Error),
    /// The CSV file cannot be written.
    #[error("cannot write {}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// Why.
        source: csv::Error,
    },
    /// The system gives no threads.
    #[error("cannot start the callers")]
    Runtime(#[source] io::Error),
}

/// What came of one number of callers.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    callers: u16,
    seconds: f64,
    /// Milliseconds of each answered call.
    latencies: Vec<f64>,
    /// Calls that were not answered, by their status.
    failures: BTreeMap<&'static str, usize>,
}

/// Measures, and prints a table.
///
/// # Errors
/// A [`LoadError`] that names what is at fault.
pub fn run(args: &LoadArgs, out: &mut dyn Write) -> Result<(), LoadError> {
    let is_length = |seconds: f64| seconds.is_finite() && (0.1..=86_400.0).contains(&seconds);
    if !is_length(args.seconds) {
        return Err(LoadError::Argument("--seconds must be from 0.1 to 86400"));
    }
    if args
        .rate
        .is_some_and(|rate| !rate.is_finite() || rate <= 0.0)
    {
        return Err(LoadError::Argument("--rate must be above 0"));
    }
    if args.callers.contains(&0) {
        return Err(LoadError::Argument("--callers must be above 0"));
    }
    let request = request(args)?;
    let mut config = ClientConfig {
        transport: args.transport,
        ..ClientConfig::new(&args.url)
    };
    if let Some(path) = &args.ca {
        let pem = std::fs::read(path).map_err(|source| LoadError::Read {
            path: path.clone(),
            source,
        })?;
        config.trust = Trust::Authority(pem);
    }
    config.token = args.token.as_deref().map(BearerToken::load).transpose()?;
    let channels = (0..args.connections)
        .map(|_| Channel::new(config.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Runtime::new().map_err(LoadError::Runtime)?;
    let outcomes = runtime.block_on(measure_all(args, &channels, &request))?;
    if let Some(path) = &args.csv {
        write_csv(&outcomes, args.batch, path).map_err(|source| LoadError::Csv {
            path: path.clone(),
            source,
        })?;
    }
    print(&outcomes, args.batch, out)?;
    Ok(())
}

fn request(args: &LoadArgs) -> Result<ModelInferRequest, LoadError> {
    let folder = ModelFolder::new(&args.models);
    let manifest = folder.manifest(&args.network)?;
    let images = usize::from(args.batch);
    let (shape, data, kind) = match &args.image {
        Some(path) => {
            let image = std::fs::read(path).map_err(|source| LoadError::Read {
                path: path.clone(),
                source,
            })?;
            let data = TensorData::Bytes(vec![image.into(); images]);
            (vec![images], data, ContentsKind::Typed)
        }
        None => {
            let size = manifest.input.size as usize;
            let shape = vec![images, 3, size, size];
            let values = (0..shape.iter().product()).map(|i: usize| (i % 17) as f32 / 17.0);
            (shape, TensorData::Fp32(values.collect()), ContentsKind::Raw)
        }
    };
    let input = Tensor::new(&manifest.input.tensor, shape, data)?;
    Ok(tensor::infer_request(&manifest.name, "", [input], kind))
}

async fn measure_all(
    args: &LoadArgs,
    channels: &[Channel],
    request: &ModelInferRequest,
) -> Result<Vec<Outcome>, LoadError> {
    for channel in channels {
        channel
            .connect()
            .await
            .map_err(|source| LoadError::Connect {
                url: args.url.clone(),
                source,
            })?;
    }
    let load = Load {
        channels: channels.to_vec(),
        request: request.clone(),
        deadline: Duration::from_millis(args.deadline),
        rate: args.rate,
    };
    load.call(0)
        .await
        .map_err(|status| LoadError::Refused(Box::new(status)))?;
    let template = "{prefix} {bar:30} {pos}/{len} s";
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    let mut outcomes = Vec::new();
    for &callers in &args.callers {
        let progress = ProgressBar::new(args.seconds.ceil() as u64 + 1)
            .with_style(style.clone())
            .with_prefix(format!("{callers} callers"));
        load.measure(callers, Duration::from_secs(1)).await;
        progress.inc(1);
        let ticking = progress.clone();
        let tick = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                ticking.inc(1);
            }
        });
        let length = Duration::from_secs_f64(args.seconds);
        outcomes.push(load.measure(callers, length).await);
        tick.abort();
        progress.finish_and_clear();
    }
    Ok(outcomes)
}

/// The calls to make.
#[derive(Clone)]
struct Load {
    channels: Vec<Channel>,
    request: ModelInferRequest,
    deadline: Duration,
    rate: Option<f64>,
}

impl Load {
    async fn call(&self, caller: usize) -> Result<(), tonic::Status> {
        let channel = self.channels[caller % self.channels.len()].clone();
        let limit = channel.max_message_bytes();
        let mut client = GrpcInferenceServiceClient::new(channel)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        // Tensors and images are shared by reference; only the request's head is copied.
        let mut request = Request::new(self.request.clone());
        request.set_timeout(self.deadline);
        client.model_infer(request).await.map(|_| ())
    }

    async fn measure(&self, callers: u16, length: Duration) -> Outcome {
        let started = Instant::now();
        let end = tokio::time::Instant::now() + length;
        let mut running = JoinSet::new();
        for caller in 0..callers {
            let load = self.clone();
            let apart = self.rate.map(|rate| f64::from(callers) / rate);
            running.spawn(async move {
                match apart {
                    None => load.closed_loop(caller, end).await,
                    Some(apart) => load.open_loop(caller, apart, end).await,
                }
            });
        }
        let mut outcome = Outcome {
            callers,
            seconds: 0.0,
            latencies: Vec::new(),
            failures: BTreeMap::new(),
        };
        while let Some(calls) = running.join_next().await {
            for call in calls.expect("callers do not panic") {
                match call {
                    Ok(latency) => outcome.latencies.push(latency.as_secs_f64() * 1e3),
                    Err(code) => *outcome.failures.entry(name(code)).or_default() += 1,
                }
            }
        }
        // The last calls count with their time.
        outcome.seconds = started.elapsed().as_secs_f64();
        outcome
    }

    async fn closed_loop(
        &self,
        caller: u16,
        end: tokio::time::Instant,
    ) -> Vec<Result<Duration, Code>> {
        let mut calls = Vec::new();
        while tokio::time::Instant::now() < end {
            calls.push(self.timed(caller).await);
        }
        calls
    }

    /// Calls at exponential distances of `apart` seconds in the mean; a late answer delays no call.
    async fn open_loop(
        &self,
        caller: u16,
        apart: f64,
        end: tokio::time::Instant,
    ) -> Vec<Result<Duration, Code>> {
        let mut random = Rng::with_seed(caller.into());
        let mut running = JoinSet::new();
        let mut calls = Vec::new();
        let mut next = tokio::time::Instant::now();
        loop {
            let distance = -(1.0 - random.f64()).ln() * apart;
            next += Duration::from_secs_f64(distance);
            if next >= end {
                break;
            }
            sleep_until(next).await;
            let load = self.clone();
            running.spawn(async move { load.timed(caller).await });
            while let Some(call) = running.try_join_next() {
                calls.push(call.expect("calls do not panic"));
            }
        }
        calls.extend(running.join_all().await);
        calls
    }

    async fn timed(&self, caller: u16) -> Result<Duration, Code> {
        let started = Instant::now();
        let called = self.call(caller.into()).await;
        called
            .map(|()| started.elapsed())
            .map_err(|status| status.code())
    }
}

/// gRPC's own name of a code.
fn name(code: Code) -> &'static str {
    match code {
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::Cancelled => "CANCELLED",
        Code::Internal => "INTERNAL",
        _ => "OTHER",
    }
}

impl Outcome {
    fn images_per_second(&self, batch: u16) -> f64 {
        self.latencies.len() as f64 * f64::from(batch) / self.seconds
    }

    fn percentile(&self, percent: u32) -> Option<f64> {
        nearest_rank(&mut self.latencies.clone(), percent)
    }

    fn failed(&self) -> usize {
        self.failures.values().sum()
    }
}

fn print(outcomes: &[Outcome], batch: u16, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = table(&[
        "callers",
        "images/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "most ms",
        "answered",
        "not answered",
    ]);
    let time = |time: Option<f64>| time.map_or("–".to_owned(), |time| format!("{time:.1}"));
    for outcome in outcomes {
        let failures: Vec<String> = outcome
            .failures
            .iter()
            .map(|(code, count)| format!("{count} {code}"))
            .collect();
        let not_answered = match &failures[..] {
            [] => "0".to_owned(),
            failures => failures.join(", "),
        };
        rows.add_row(row(
            outcome.callers.to_string(),
            [
                format!("{:.1}", outcome.images_per_second(batch)),
                time(outcome.percentile(50)),
                time(outcome.percentile(95)),
                time(outcome.percentile(99)),
                time(outcome.percentile(100)),
                outcome.latencies.len().to_string(),
                not_answered,
            ],
        ));
    }
    writeln!(out, "{rows}")
}

fn write_csv(outcomes: &[Outcome], batch: u16, path: &PathBuf) -> Result<(), csv::Error> {
    let mut file = csv::Writer::from_path(path)?;
    file.write_record([
        "callers",
        "images_per_second",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "answered",
        "not_answered",
    ])?;
    let time = |time: Option<f64>| time.map_or(String::new(), |time| time.to_string());
    for outcome in outcomes {
        file.write_record([
            outcome.callers.to_string(),
            outcome.images_per_second(batch).to_string(),
            time(outcome.percentile(50)),
            time(outcome.percentile(95)),
            time(outcome.percentile(99)),
            outcome.latencies.len().to_string(),
            outcome.failed().to_string(),
        ])?;
    }
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            callers: 4,
            seconds: 2.0,
            latencies: (1..=100).map(f64::from).collect(),
            failures: BTreeMap::from([("RESOURCE_EXHAUSTED", 3)]),
        }
    }

    #[test]
    fn a_row_tells_throughput_percentiles_and_refusals() {
        let mut out = Vec::new();
        print(&[outcome()], 2, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for word in ["100.0", "50.0", "95.0", "99.0", "3 RESOURCE_EXHAUSTED"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn the_rows_are_csv_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("load.csv");
        write_csv(&[outcome()], 1, &path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().nth(1), Some("4,50,50,95,99,100,3"));
    }
}
