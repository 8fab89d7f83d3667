//! The plan of a fleet: a TOML file, read and checked once.

mod check;

use std::{
    fs,
    path::{Path, PathBuf},
};

use outpost_exit_policy::Goal;
use serde::Deserialize;

use super::FleetError;
pub use check::PlanError;

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Numbers of devices, each simulated by itself.
    pub devices: Vec<u32>,
    /// Draws all that is random. Equal seeds give equal results.
    #[serde(default)]
    pub seed: u64,
    /// When images come.
    pub arrivals: ArrivalPlan,
    /// What the networks say about them.
    pub trace: TracePlan,
    /// The devices.
    pub device: DevicePlan,
    /// Links between a device and the servers, by weight.
    pub link: Vec<LinkPlan>,
    /// A server.
    pub server: ServerPlan,
    /// What a call weighs beside its image.
    pub bytes: BytesPlan,
    /// What things cost.
    pub prices: PricePlan,
    /// What a fleet of servers must reach.
    pub target: TargetPlan,
    /// How long is simulated.
    #[serde(default)]
    pub simulation: SimulationPlan,
}

/// How the images of a device are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArrivalKind {
    /// At random, each device for itself.
    Poisson,
    /// At equal distances; devices begin at random.
    Periodic,
    /// Some in a row, at random times.
    Bursts,
}

impl ArrivalKind {
    /// The word of the plan.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Periodic => "periodic",
            Self::Bursts => "bursts",
        }
    }
}

/// When images come to a device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrivalPlan {
    /// How they are spread.
    pub kind: ArrivalKind,
    /// Images a device and hour, the mean of a day.
    pub per_device_hour: f64,
    /// Rate of the busiest hour over the mean: servers are counted for that hour, and paid for all day. Default 1.
    #[serde(default = "one")]
    pub peak_over_mean: f64,
    /// Images of a burst, with `kind = "bursts"`.
    #[serde(default)]
    pub burst_images: Option<u32>,
    /// Milliseconds between the images of a burst, with `kind = "bursts"`.
    #[serde(default)]
    pub burst_apart_ms: Option<f64>,
}

/// What the networks say about images.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracePlan {
    /// A trace of `lab trace`, of images that the policy was not learned from.
    pub file: PathBuf,
    /// The cascade: networks on the device, one in the cloud.
    pub cascade: PathBuf,
    /// A policy bundle learned for it.
    pub policy: PathBuf,
    /// Operating points to compare with the cloud alone and the device alone. Default `loss=0` and `loss=1`.
    #[serde(default = "default_points")]
    pub operating_points: Vec<Goal>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePlan {
    /// How many times slower it is than the machine of the trace. Default 1.
    #[serde(default = "one")]
    pub time_scale: f64,
    /// Milliseconds from taking up an image to its answer, as `deadline_ms` of the edge-agent.
    pub deadline_ms: f64,
    /// Milliseconds after that in which the cloud goes on with what it was asked, as `correct_within_ms`. Default 0.
    #[serde(default)]
    pub correct_within_ms: f64,
}

/// A link, and how many devices have one like it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPlan {
    /// What it is called.
    pub name: String,
    /// Share of the devices, in proportion to the other weights. Default 1.
    #[serde(default = "one")]
    pub weight: f64,
    /// Milliseconds there and back, without queueing of our own bytes.
    pub round_trip_ms: Quantity,
    /// Rate towards the servers, in Mbit/s.
    pub uplink_mbps: Quantity,
    /// Rate from the servers, in Mbit/s.
    pub downlink_mbps: Quantity,
    /// Share of the packets that are lost, each by itself. Default 0.
    #[serde(default)]
    pub loss: f64,
}

/// A number, or a distribution that every device draws its own from once.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// The same for all.
    Same(f64),
    /// Log-normal, by its median and the value that 95 % do not exceed.
    LogNormal(LogNormal),
}

/// A log-normal distribution.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogNormal {
    /// Half of the devices have less.
    pub median: f64,
    /// 95 % of the devices have less.
    pub p95: f64,
}

/// A server: one `cloud-service` on one GPU, or on one machine without.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerPlan {
    /// What it is.
    pub name: String,
    /// What kind of processor computes.
    pub processor: Processor,
    /// How many there are; as many as are needed, where it is absent.
    #[serde(default)]
    pub count: Option<u32>,
    /// Measured times of batches: a CSV file with the columns `batch` and `ms`, several rows of one size being samples.
    pub service_times: PathBuf,
    /// Requests whose images are decoded at a time, as `limits.decoders`.
    pub decoders: u32,
    /// Milliseconds to decode an image and make it the network's input.
    pub decode_ms: f64,
    /// Milliseconds of a call that are neither the link's nor decoding, waiting or the network: TLS, HTTP, gRPC.
    pub call_ms: f64,
    /// As `batching.max_batch`.
    pub max_batch: usize,
    /// As `batching.max_delay_ms`. Default 0.
    #[serde(default)]
    pub max_delay_ms: f64,
    /// As `batching.preferred`. Default none.
    #[serde(default)]
    pub preferred: Vec<usize>,
    /// As `batching.max_queue`.
    pub max_queue: usize,
    /// As `batching.instances`. The times of batches must be those of so many at a time.
    pub instances: u32,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// Cores.
    Cpu,
    /// A GPU.
    Gpu,
}

impl Processor {
    /// The word of the plan.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

/// What a call weighs beside its image.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BytesPlan {
    /// Bytes of an image that is sent; those of the trace's files, where it is absent.
    #[serde(default)]
    pub image: Option<u32>,
    /// Bytes of a request beside the image: the message, headers, TLS.
    pub request: u32,
    /// Bytes of a reply.
    pub reply: u32,
    /// Bytes of these that a packet carries.
    pub packet: u32,
    /// Bytes of a packet beside them.
    pub packet_overhead: u32,
}

/// What things cost, in one currency.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PricePlan {
    /// Its name, such as `USD`.
    pub currency: String,
    /// Of a server for an hour.
    pub server_hour: f64,
    /// Of a gigabyte (10⁹ bytes) that comes in.
    pub ingress_gb: f64,
}

/// What a fleet of servers must reach.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetPlan {
    /// Milliseconds from taking up an image to the cloud's answer.
    pub within_ms: f64,
    /// Share of the images that are to be sent for which that holds. Default 0.99.
    #[serde(default = "default_share")]
    pub share: f64,
}

/// How long is simulated.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulationPlan {
    /// Images that are looked at in a run at least, after those that fill the fleet. Default 100,000.
    pub images: u64,
    /// Seconds of the fleet's time that a run takes at least, whatever their images: a queue that is nearly full takes its
    /// time to fill. Default 30.
    pub seconds: f64,
    /// A run takes twice as many until the 95 % interval of its p99 is so narrow, to either side. Default 0.05.
    pub precision: f64,
    /// No run is doubled beyond so many. Default 1,600,000.
    pub most_images: u64,
}

impl Default for SimulationPlan {
    fn default() -> Self {
        Self {
            images: 100_000,
            seconds: 30.0,
            precision: 0.05,
            most_images: 1_600_000,
        }
    }
}

fn one() -> f64 {
    1.0
}

fn default_share() -> f64 {
    0.99
}

fn default_points() -> Vec<Goal> {
    vec![Goal::MaxLoss(0.0), Goal::MaxLoss(1.0)]
}

impl Plan {
    /// Reads and checks a plan; paths in it are relative to its file.
    ///
    /// # Errors
    /// [`FleetError::Plan`], which names the file and the field.
    pub fn load(path: &Path) -> Result<(Self, String), FleetError> {
        let text = fs::read_to_string(path).map_err(super::file(path))?;
        let mut plan = Self::parse(&text).map_err(|source| FleetError::Plan {
            path: path.to_owned(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for file in [
            &mut plan.trace.file,
            &mut plan.trace.cascade,
            &mut plan.trace.policy,
            &mut plan.server.service_times,
        ] {
            *file = folder.join(&*file);
        }
        Ok((plan, text))
    }

    /// Parses and checks a plan.
    ///
    /// # Errors
    /// [`PlanError`], which names the field.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let plan: Self = toml::from_str(text)?;
        plan.check()?;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../plans/photos.toml");

    fn refused(from: &str, to: &str) -> String {
        assert!(EXAMPLE.contains(from), "{from}");
        let error = Plan::parse(&EXAMPLE.replacen(from, to, 1)).unwrap_err();
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }

    #[test]
    fn the_example_is_a_plan() {
        let plan = Plan::parse(EXAMPLE).unwrap();
        assert_eq!(plan.devices.last(), Some(&1_000_000));
        assert!(plan.link.len() > 1);
    }

    #[test]
    fn what_makes_no_plan_is_refused_by_the_name_of_the_field() {
        for (from, to, said) in [
            (
                "per_device_hour = 60.0",
                "per_device_hour = -1.0",
                "arrivals.per_device_hour",
            ),
            (
                "per_device_hour = 60.0",
                "per_device_hour = 60.0\nsurprise = 1",
                "surprise",
            ),
            ("kind = \"poisson\"", "kind = \"bursts\"", "burst_images"),
            ("kind = \"poisson\"", "kind = \"tides\"", "tides"),
            ("devices = [10", "devices = [0", "devices"),
            ("server_hour = ", "surprise_hour = ", "surprise_hour"),
            (
                "deadline_ms = 1000.0",
                "deadline_ms = nan",
                "device.deadline_ms",
            ),
            ("share = 0.99", "share = 1.0", "target.share"),
            ("loss = 0.01", "loss = 0.9", "loss of the link"),
            ("max_batch = 4", "max_batch = 0", "server.max_batch"),
            (
                "max_batch = 4",
                "max_batch = 4\npreferred = [8]",
                "server.preferred",
            ),
            ("\"loss=1\"", "\"gain=1\"", "no operating point"),
        ] {
            let text = refused(from, to);
            assert!(text.contains(said), "{to}: {text}");
        }
    }

    #[test]
    fn prices_have_no_default() {
        let without = EXAMPLE
            .lines()
            .filter(|line| !line.starts_with("ingress_gb"))
            .collect::<Vec<_>>()
            .join("\n");
        let error = Plan::parse(&without).unwrap_err();
        assert!(matches!(error, PlanError::Parse(_)), "{error}");
    }
}
