//! `lab fleet validate`: the real `cloud-service` on loopback with 1, 2, 4, … devices, beside the simulator with the very
//! same images at the same times.
//!
//! The service is real, and so are its clients, one connection a device; images are sent as a policy decides on a trace. What is
//! not real is the devices' own networks: 64 devices do not fit in one machine, so that their time is waited for. Runs are cut
//! into stretches. In every other one the service tells how long things take under that load: batches by size, decoding, the rest
//! of a call. This is all that the simulator is told; the stretches between, of other images at other times, are compared. As they
//! take turns, a machine that becomes slower or faster does so for both.

mod real;
mod record;

use std::{
    collections::HashMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use outpost_cascade::{Cascade, Site};
use outpost_exit_policy::Goal;
use outpost_transport::development_certificates::GenerateError;

use super::{
    FleetError,
    arrivals::{Arrival, Arrivals},
    batching::Rules,
    links::{Bytes, DeviceLink},
    plan::{ArrivalKind, ArrivalPlan, BytesPlan, Processor, TracePlan},
    service::ServiceTimes,
    simulation::{How, Scenario, Server, Window, simulate},
    statistics::{mean, percentile},
    workload::{Kind, Policy, Taking, Workload},
};
use crate::{
    host,
    learn::load_cascade,
    programs::ProgramError,
    table::{percent, row, table},
};
use real::{Called, Real, Sent, Served, Timings};
pub use record::{Compared, Point, Record, not_validated};

/// Seconds of a stretch: many calls, and short beside what else becomes of a machine.
const STRETCH_SECONDS: f64 = 2.0;
/// A run has so many stretches at least: shorter ones where it is shorter.
const LEAST_STRETCHES: f64 = 8.0;
/// A size of batches that comes up less often in them is one that was measured without load, too.
const OFTEN: usize = 20;
/// Simulations of each run, with other draws of the times of batches; their mean is what is compared.
const REPLICATIONS: u64 = 10;
/// How near the simulator must come.
const TOLERANCE: f64 = 0.10;
/// A device is busy for no more of its time: 64 devices at random times would else be a few.
const MOST_BUSY_DEVICE: f64 = 0.5;
/// Fewest images of a run that tell a p99.
const LEAST_SENT: usize = 200;

/// What `lab fleet validate` is asked.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct ValidateArgs {
    /// A trace of `lab trace`.
    #[arg(long, value_name = "FILE.parquet")]
    pub trace: PathBuf,
    /// The folder of its images.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// The cascade.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "models/cascades/lite0-lite2.toml"
    )]
    pub cascade: PathBuf,
    /// A policy bundle learned for it.
    #[arg(
        long,
        value_name = "FILE.json",
        default_value = "models/policies/lite0-lite2.json"
    )]
    pub policy: PathBuf,
    /// The operating point that decides what is sent.
    #[arg(long, value_name = "GOAL", default_value = "loss=1")]
    pub operating_point: Goal,
    /// Numbers of devices, one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64])]
    pub devices: Vec<u32>,
    /// Share of its time that the service is to be busy, where the devices can send so much.
    #[arg(long, default_value_t = 0.6)]
    pub load: f64,
    /// Images that each number of devices sends; a run takes as long as that does.
    #[arg(long, default_value_t = 2000)]
    pub sent: usize,
    /// Batches of each size to measure first, without load.
    #[arg(long, default_value_t = 40)]
    pub batches: usize,
    /// The service's `batching.max_batch`.
    #[arg(long, default_value_t = 4)]
    pub max_batch: usize,
    /// The service's `batching.max_delay_ms`.
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    pub max_delay: f64,
    /// The service's `batching.instances`.
    #[arg(long, default_value_t = 1)]
    pub instances: u32,
    /// Milliseconds from taking up an image to its answer.
    #[arg(long, default_value_t = 2000.0, value_name = "MS")]
    pub deadline: f64,
    /// How many times slower a device is than the machine of the trace.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub device_scale: f64,
    /// Draws when images come, and which.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The model folder.
    #[arg(long, default_value = "models", env = "OUTPOST_MODELS")]
    pub models: PathBuf,
    /// The cloud program; by default the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub cloud_service: Option<PathBuf>,
    /// Where what was found goes, for `lab fleet simulate --validation`.
    #[arg(long, value_name = "FILE.json", default_value = "validation.json")]
    pub out: PathBuf,
    /// Also write the measured times of batches, for the plan of a fleet.
    #[arg(long, value_name = "FILE.csv")]
    pub service_times: Option<PathBuf>,
}

/// Why nothing was validated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValidateError {
    /// A number that makes no run.
    #[error("{0}")]
    Argument(&'static str),
    /// The trace, the policy or the cascade is at fault.
    #[error(transparent)]
    Fleet(Box<FleetError>),
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No certificates.
    #[error("cannot make certificates")]
    Certificates(#[from] GenerateError),
    /// The service does not run as it should.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The service cannot be called.
    #[error("cannot call the service")]
    Call(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was found before is not to be read.
    #[error("{} is nothing that `lab fleet validate` has left: make it again", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The table cannot be printed.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

impl From<FleetError> for ValidateError {
    fn from(error: FleetError) -> Self {
        Self::Fleet(Box::new(error))
    }
}

fn file(path: &Path) -> impl Fn(io::Error) -> ValidateError {
    let path = path.to_owned();
    move |source| ValidateError::File {
        path: path.clone(),
        source,
    }
}

/// An image of a run: when it comes, and what becomes of it on the device.
#[derive(Debug, Clone, Copy)]
struct Scheduled {
    arrival: Arrival,
    /// When the device sends it; none where it answers itself.
    sends_at: Option<f64>,
}

/// What so many devices do.
struct Run {
    devices: u32,
    /// Images a second of each.
    per_second: f64,
    schedule: Vec<Scheduled>,
}

impl Run {
    /// How long it takes.
    fn seconds(&self) -> f64 {
        self.schedule.last().map_or(0.0, |last| last.arrival.at.0)
    }
}

fn milliseconds(seconds: f64) -> u64 {
    (1e3 * seconds) as u64
}

/// A figure of a run.
type Figure<'a> = &'a dyn Fn(&Served) -> f64;

/// What is run, and by what rules.
struct Validation<'a> {
    args: &'a ValidateArgs,
    policy: &'a Policy,
    rules: Rules,
}

/// Runs `lab fleet validate`.
///
/// # Errors
/// A [`ValidateError`] that names what is at fault.
pub fn run(args: &ValidateArgs, out: &mut dyn Write) -> Result<(), ValidateError> {
    check(args)?;
    let cascade = load_cascade(&args.cascade).map_err(FleetError::from)?;
    let trace = TracePlan {
        file: args.trace.clone(),
        cascade: args.cascade.clone(),
        policy: args.policy.clone(),
        operating_points: vec![args.operating_point.clone()],
    };
    let taking = Taking {
        time_scale: args.device_scale,
        bytes: None,
        seed: args.seed,
    };
    let workload = Workload::load(&trace, taking)?;
    let policies = &workload.policies;
    let policy = policies.iter().find(|policy| policy.kind == Kind::Learned);
    let policy = policy.expect("the plan has an operating point");
    if policy.offload_rate <= 0.0 {
        return Err(ValidateError::Argument(
            "the policy sends nothing: give another --operating-point",
        ));
    }
    let images = images(args, &workload)?;
    let rules = Rules {
        max_batch: args.max_batch,
        max_delay: args.max_delay / 1e3,
        preferred: Vec::new(),
        max_queue: real::MAX_QUEUE,
        instances: args.instances,
    };
    let validation = Validation {
        args,
        policy,
        rules,
    };
    let mut real = Real::start(args, &network_of(&cascade), images)?;
    let bar = ProgressBar::new_spinner().with_message("the service alone");
    bar.enable_steady_tick(Duration::from_millis(500));
    let alone = real.alone(args.max_batch, args.batches)?;
    let runs: Vec<Run> = args
        .devices
        .iter()
        .map(|&devices| validation.run(&alone, devices))
        .collect();
    let style = "{wide_bar:.cyan/dim} {elapsed}, {eta} left  {msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
    bar.set_length(runs.iter().map(|run| milliseconds(run.seconds())).sum());
    let mut all = Timings::default();
    let mut points = Vec::new();
    for run in &runs {
        let (devices, schedule) = (run.devices, &run.schedule);
        bar.set_message(format!("{devices} devices"));
        let begun = bar.position();
        let at = |seconds| bar.set_position(begun + milliseconds(seconds));
        let (served, called) = real.serve(devices, schedule, at)?;
        at(run.seconds());
        let (turns, half) = (Turns::of(run.seconds()), 0.5 * run.seconds());
        let of = |counts: &dyn Fn(&Called) -> bool| Timings::of(&called, args.instances, counts);
        let told = of(&|call| !turns.is_compared(call.taken));
        let (before, after) = (
            of(&|call| call.taken < half),
            of(&|call| call.taken >= half),
        );
        let drift = after.batch_seconds(1) / before.batch_seconds(1) - 1.0;
        let told = told.with_rare(&alone, OFTEN);
        let simulated = validation.simulated(schedule, devices, &told);
        points.push(Point {
            devices,
            images_per_second_of_device: run.per_second,
            drift: drift.is_finite().then_some(drift),
            ..point(turns, schedule, &served, &simulated)
        });
        all = all.and(&told);
    }
    bar.finish_and_clear();
    real.end()?;
    if let Some(path) = &args.service_times {
        write_times(path, &all)?;
    }
    let record = Record {
        schema: record::SCHEMA,
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: host::cpu_model().unwrap_or_default(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        processor: Processor::Cpu.as_str().to_owned(),
        link: record::LOOPBACK.to_owned(),
        arrivals: ArrivalKind::Poisson.as_str().to_owned(),
        network: workload.network.clone(),
        images_sha256: workload.images.clone(),
        policy_sha256: workload.bundle.clone(),
        operating_point: policy.operating_point.clone(),
        load: args.load,
        sent: args.sent,
        max_batch: args.max_batch,
        max_delay_ms: args.max_delay,
        instances: args.instances,
        deadline_ms: args.deadline,
        device_scale: args.device_scale,
        seed: args.seed,
        tolerance: TOLERANCE,
        batch_ms: (1..=args.max_batch)
            .map(|images| 1e3 * all.batch_seconds(images))
            .collect(),
        decode_ms: 1e3 * all.decode_seconds(),
        call_ms: 1e3 * all.call_seconds(),
        points,
    };
    record.write(&args.out)?;
    print(&record, out)?;
    writeln!(out, "{}", args.out.display())?;
    Ok(())
}

fn check(args: &ValidateArgs) -> Result<(), ValidateError> {
    let fails = |what| Err(ValidateError::Argument(what));
    if args.devices.is_empty()
        || args
            .devices
            .iter()
            .any(|devices| !(1..=256).contains(devices))
    {
        // A connection each; the service takes 256 of one address.
        return fails("--devices must be from 1 to 256");
    }
    if !(args.load > 0.0 && args.load < 1.0) {
        return fails("--load must be above 0 and below 1");
    }
    if !(LEAST_SENT..=1_000_000).contains(&args.sent) {
        return fails("--sent must be from 200 to 1000000: fewer tell no p99");
    }
    if !(1..=64).contains(&args.max_batch) || args.batches == 0 {
        return fails("--max-batch must be from 1 to 64, and --batches above 0");
    }
    if !(args.deadline > 0.0 && args.deadline.is_finite()) {
        return fails("--deadline must be above 0");
    }
    if !(args.device_scale > 0.0 && args.device_scale.is_finite()) {
        return fails("--device-scale must be above 0");
    }
    if !(0.0..=10_000.0).contains(&args.max_delay) || !(1..=64).contains(&args.instances) {
        return fails("--max-delay must be from 0 to 10000, and --instances from 1 to 64");
    }
    Ok(())
}

/// Bytes over loopback take no time.
fn bytes() -> BytesPlan {
    BytesPlan {
        image: None,
        request: 0,
        reply: 0,
        packet: 1400,
        packet_overhead: 0,
    }
}

fn arrivals(per_second: f64) -> ArrivalPlan {
    ArrivalPlan {
        kind: ArrivalKind::Poisson,
        per_device_hour: 3600.0 * per_second,
        peak_over_mean: 1.0,
        burst_images: None,
        burst_apart_ms: None,
    }
}

fn network_of(cascade: &Cascade) -> String {
    let cloud = cascade.nodes().find(|(_, node)| node.site() == Site::Cloud);
    cloud.map_or(String::new(), |(_, node)| node.network().to_owned())
}

/// The files of the trace, in its order.
fn images(args: &ValidateArgs, workload: &Workload) -> Result<Vec<Vec<u8>>, ValidateError> {
    let mut read: HashMap<&str, Vec<u8>> = HashMap::new();
    let files = workload.files.iter();
    files
        .map(|name| {
            if let Some(known) = read.get(name.as_str()) {
                return Ok(known.clone());
            }
            let path = args.images.join(name);
            let bytes = fs::read(&path).map_err(file(&path))?;
            read.insert(name, bytes.clone());
            Ok(bytes)
        })
        .collect()
}

impl Validation<'_> {
    fn run(&self, alone: &Timings, devices: u32) -> Run {
        let per_second = self.rate(alone, devices);
        Run {
            devices,
            per_second,
            schedule: self.schedule(devices, per_second),
        }
    }

    /// Images a second of a device: as many as keep the service busy as wanted, and the device no busier than half of its time.
    fn rate(&self, timings: &Timings, devices: u32) -> f64 {
        let networks = f64::from(self.args.instances) / timings.batch_seconds(1);
        let decoders = f64::from(real::DECODERS) / timings.decode_seconds();
        let wanted = self.args.load * networks.min(decoders) / self.policy.offload_rate;
        (wanted / f64::from(devices)).min(MOST_BUSY_DEVICE / self.policy.device_seconds)
    }

    /// The images of a run, until enough are sent: the same for the real service and the simulated one.
    fn schedule(&self, devices: u32, per_second: f64) -> Vec<Scheduled> {
        let images = self.policy.ways.ways.len() as u32;
        let arrivals = Arrivals::new(&arrivals(per_second), devices, images, self.args.seed);
        let mut free_at = vec![0.0_f64; devices as usize];
        let scheduled = arrivals.map(|arrival| {
            let way = self.policy.ways.of(&arrival);
            let free_at = &mut free_at[arrival.device as usize];
            *free_at = free_at.max(arrival.at.0) + way.local_seconds;
            Scheduled {
                arrival,
                sends_at: way.is_sent.then_some(*free_at),
            }
        });
        let mut sent = 0;
        scheduled
            .take_while(|one| {
                let is_wanted = sent < self.args.sent;
                sent += usize::from(one.sends_at.is_some());
                is_wanted
            })
            .collect()
    }

    /// What came of the images that were to be sent, in their order: simulated several times.
    fn simulated(&self, schedule: &[Scheduled], devices: u32, timings: &Timings) -> Vec<Served> {
        let link = DeviceLink {
            round_trip: 0.0,
            uplink: f32::INFINITY,
            downlink: f32::INFINITY,
            loss: 0.0,
        };
        let links = vec![link; devices as usize];
        let service = ServiceTimes::of(timings.batches.iter().copied());
        (0..REPLICATIONS)
            .map(|replication| {
                let scenario = Scenario {
                    ways: &self.policy.ways,
                    links: &links,
                    bytes: &Bytes::new(bytes()),
                    servers: 1,
                    server: Server {
                        rules: &self.rules,
                        service: &service,
                        decoders: real::DECODERS,
                        decode_seconds: timings.decode_seconds(),
                        call_seconds: timings.call_seconds(),
                    },
                    deadline: self.args.deadline / 1e3,
                    late: 0.0,
                    seed: self.args.seed.wrapping_add(1 + replication),
                };
                let window = Window {
                    warm_up: 0,
                    images: schedule.len() as u64,
                };
                let arrivals = schedule.iter().map(|one| one.arrival);
                let measured = simulate(&scenario, arrivals, window);
                let seen = measured.seen().zip(schedule);
                let sent = seen.filter(|(seen, _)| seen.was_to_be_sent);
                let sent = sent.map(|(seen, one)| Sent {
                    taken: one.arrival.at.0,
                    seconds: seen.latency.into(),
                    is_answered: seen.how == How::Cloud,
                });
                Served(sent.collect())
            })
            .collect()
    }
}

/// The stretches of a run, which in turns tell how long things take and are compared.
#[derive(Debug, Clone, Copy)]
struct Turns {
    /// Seconds of the run, and of a stretch.
    run: f64,
    stretch: f64,
}

impl Turns {
    fn of(run: f64) -> Self {
        Self {
            run,
            stretch: STRETCH_SECONDS.min(run / LEAST_STRETCHES),
        }
    }

    /// Whether an image that was taken up so many seconds after the beginning is compared, or tells.
    fn is_compared(self, taken: f64) -> bool {
        (taken / self.stretch) as u64 % 2 == 1
    }

    /// Seconds of the run that are compared.
    fn compared_seconds(self) -> f64 {
        let pairs = (self.run / (2.0 * self.stretch)).floor();
        let rest = self.run - pairs * 2.0 * self.stretch;
        pairs * self.stretch + (rest - self.stretch).max(0.0)
    }
}

/// The figures of a run beside those of its simulations.
fn point(turns: Turns, schedule: &[Scheduled], served: &Served, simulated: &[Served]) -> Point {
    let compared = |served: &Served| {
        let sent = served.0.iter().copied();
        Served(sent.filter(|sent| turns.is_compared(sent.taken)).collect())
    };
    let served = compared(served);
    let simulated: Vec<Served> = simulated.iter().map(compared).collect();
    let counted = schedule.iter().map(|one| one.arrival.at.0);
    let counted = counted.filter(|&taken| turns.is_compared(taken)).count();
    let all = counted as f64;
    let seconds = turns.compared_seconds();
    let figures: [(&str, Figure<'_>); 6] = [
        ("cloud's answers a second", &|s| {
            s.answered().count() as f64 / seconds
        }),
        ("share answered by the cloud", &|s| {
            s.answered().count() as f64 / all
        }),
        ("mean ms", &|s| 1e3 * s.mean()),
        ("p50 ms", &|s| 1e3 * s.percentile(50)),
        ("p95 ms", &|s| 1e3 * s.percentile(95)),
        ("p99 ms", &|s| 1e3 * s.percentile(99)),
    ];
    let compared = figures.iter().map(|(name, of)| {
        let real = of(&served);
        let simulated = mean(simulated.iter().map(of)).unwrap_or(f64::NAN);
        Compared {
            figure: (*name).to_owned(),
            real,
            simulated,
            is_within: (simulated / real - 1.0).abs() <= TOLERANCE,
        }
    });
    Point {
        devices: 0,
        images_per_second_of_device: 0.0,
        drift: None,
        images: counted,
        sent: served.0.len(),
        compared: compared.collect(),
    }
}

impl Served {
    fn answered(&self) -> impl Iterator<Item = &Sent> {
        self.0.iter().filter(|sent| sent.is_answered)
    }

    /// Mean seconds of the images that were to be sent.
    fn mean(&self) -> f64 {
        mean(self.0.iter().map(|sent| sent.seconds)).unwrap_or(f64::NAN)
    }

    fn percentile(&self, percent: u32) -> f64 {
        percentile(self.0.iter().map(|sent| sent.seconds), percent).unwrap_or(f64::NAN)
    }
}

fn write_times(path: &Path, timings: &Timings) -> Result<(), ValidateError> {
    let mut text = format!(
        "# {}, measured by `lab fleet validate`: decoding {:.2} ms, the rest of a call {:.2} ms.\nbatch,ms\n",
        host::cpu_model().unwrap_or_default(),
        1e3 * timings.decode_seconds(),
        1e3 * timings.call_seconds(),
    );
    for (images, seconds) in &timings.batches {
        text += &format!("{images},{:.3}\n", 1e3 * seconds);
    }
    fs::write(path, text).map_err(file(path))
}

fn print(record: &Record, out: &mut dyn Write) -> io::Result<()> {
    let batches: Vec<String> = record
        .batch_ms
        .iter()
        .map(|ms| format!("{ms:.1}"))
        .collect();
    writeln!(
        out,
        "{}: batches of 1 to {} in {} ms, decoding {:.1} ms, the rest of a call {:.1} ms",
        record.network,
        record.max_batch,
        batches.join(", "),
        record.decode_ms,
        record.call_ms
    )?;
    let mut rows = table(&[
        "devices",
        "sent",
        "drift",
        "figure",
        "real",
        "simulated",
        "apart",
        "within 10 %",
    ]);
    for point in &record.points {
        for (place, compared) in point.compared.iter().enumerate() {
            let first = |text: String| if place == 0 { text } else { String::new() };
            rows.add_row(row(
                first(point.devices.to_string()),
                [
                    first(point.sent.to_string()),
                    first(
                        point
                            .drift
                            .map_or("–".to_owned(), |drift| format!("{:+.1} %", 100.0 * drift)),
                    ),
                    compared.figure.clone(),
                    format!("{:.3}", compared.real),
                    format!("{:.3}", compared.simulated),
                    percent(compared.apart()),
                    if compared.is_within { "yes" } else { "NO" }.to_owned(),
                ],
            ));
        }
    }
    writeln!(
        out,
        "{rows}\ndrift: by how much a batch of one image took longer in the second half of a run than in the first; where that is more \
         than a few per cent, the machine had something else to do, and the tail tells of that"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_told_and_compared_in_turns() {
        let turns = Turns::of(100.0);
        let compared = [0.0, 1.9, 2.0, 3.9, 4.1, 6.1].map(|taken| turns.is_compared(taken));
        assert_eq!(compared, [false, false, true, true, false, true]);
        let seconds = [16.0, 17.0, 18.0, 19.5, 20.0].map(|run| Turns::of(run).compared_seconds());
        assert_eq!(seconds, [8.0, 8.0, 8.0, 9.5, 10.0]);
        // A short run has both, too.
        let turns = Turns::of(1.0);
        let compared = [0.0, 0.13, 0.3, 0.9].map(|taken| turns.is_compared(taken));
        assert_eq!(compared, [false, true, false, true]);
        assert_eq!(turns.compared_seconds(), 0.5);
    }
}
