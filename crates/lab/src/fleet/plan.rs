//! The plan of a fleet: a TOML file, read and checked once.

use std::{
    fs,
    path::{Path, PathBuf},
};

use outpost_exit_policy::Goal;
use serde::Deserialize;

use super::FleetError;

/// Most devices of a plan: each keeps some 40 bytes.
const MOST_DEVICES: u32 = 10_000_000;
/// Least images of a run: twenty parts of fewer tell no percentile.
const LEAST_IMAGES: u64 = 2_000;

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

/// Why a plan is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is no TOML, lacks a field or has one too many.
    #[error("it does not parse")]
    Parse(#[from] toml::de::Error),
    /// A number is out of its range.
    #[error("`{field}` is {value}: give {wanted}")]
    Number {
        /// The field.
        field: String,
        /// What it is.
        value: f64,
        /// What it may be.
        wanted: &'static str,
    },
    /// A list has nothing in it.
    #[error("`{0}` is empty: give one at least")]
    Empty(&'static str),
    /// A field that goes with the kind of arrivals is missing, or is there without it.
    #[error("`arrivals.{field}` goes with `kind = \"bursts\"`: {what}")]
    Bursts {
        /// The field.
        field: &'static str,
        /// What to do.
        what: &'static str,
    },
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

    fn check(&self) -> Result<(), PlanError> {
        if self.devices.is_empty() {
            return Err(PlanError::Empty("devices"));
        }
        if self.trace.operating_points.is_empty() {
            return Err(PlanError::Empty("trace.operating_points"));
        }
        if self.link.is_empty() {
            return Err(PlanError::Empty("link"));
        }
        for &devices in &self.devices {
            within("devices", devices, 1.0, MOST_DEVICES)?;
        }
        self.check_arrivals()?;
        positive("device.time_scale", self.device.time_scale)?;
        positive("device.deadline_ms", self.device.deadline_ms)?;
        amount("device.correct_within_ms", self.device.correct_within_ms)?;
        for link in &self.link {
            link.check()?;
        }
        self.server.check()?;
        within("bytes.packet", self.bytes.packet, 1.0, u32::MAX)?;
        if let Some(image) = self.bytes.image {
            within("bytes.image", image, 1.0, u32::MAX)?;
        }
        amount("prices.server_hour", self.prices.server_hour)?;
        amount("prices.ingress_gb", self.prices.ingress_gb)?;
        positive("target.within_ms", self.target.within_ms)?;
        if !(self.target.share > 0.0 && self.target.share < 1.0) {
            let wanted = "more than 0 and less than 1";
            return Err(number("target.share", self.target.share, wanted));
        }
        let SimulationPlan {
            images,
            seconds,
            precision,
            most_images,
        } = self.simulation;
        amount("simulation.seconds", seconds)?;
        if images < LEAST_IMAGES {
            let wanted = "2000 or more";
            return Err(number("simulation.images", images as f64, wanted));
        }
        if most_images < images {
            let wanted = "no less than `simulation.images`";
            return Err(number("simulation.most_images", most_images as f64, wanted));
        }
        positive("simulation.precision", precision)
    }

    fn check_arrivals(&self) -> Result<(), PlanError> {
        let arrivals = &self.arrivals;
        positive("arrivals.per_device_hour", arrivals.per_device_hour)?;
        if !(arrivals.peak_over_mean.is_finite() && arrivals.peak_over_mean >= 1.0) {
            let wanted = "1 or more";
            let value = arrivals.peak_over_mean;
            return Err(number("arrivals.peak_over_mean", value, wanted));
        }
        let bursts = |field, what| Err(PlanError::Bursts { field, what });
        let is_bursts = arrivals.kind == ArrivalKind::Bursts;
        match (is_bursts, arrivals.burst_images) {
            (true, None) => return bursts("burst_images", "give the images of a burst"),
            (false, Some(_)) => return bursts("burst_images", "leave it out"),
            (true, Some(images)) => within("arrivals.burst_images", images, 1.0, 100_000_u32)?,
            (false, None) => {}
        }
        match (is_bursts, arrivals.burst_apart_ms) {
            (true, None) => bursts("burst_apart_ms", "give the time between two images of one"),
            (false, Some(_)) => bursts("burst_apart_ms", "leave it out"),
            (true, Some(apart)) => amount("arrivals.burst_apart_ms", apart),
            (false, None) => Ok(()),
        }
    }
}

impl LinkPlan {
    fn check(&self) -> Result<(), PlanError> {
        let field = |field: &str| format!("{field} of the link {:?}", self.name);
        positive(&field("weight"), self.weight)?;
        for (name, quantity) in [
            ("uplink_mbps", self.uplink_mbps),
            ("downlink_mbps", self.downlink_mbps),
        ] {
            quantity.check(&field(name), positive)?;
        }
        self.round_trip_ms.check(&field("round_trip_ms"), amount)?;
        if !(0.0..=0.5).contains(&self.loss) {
            let wanted = "a share from 0 to 0.5";
            return Err(number(&field("loss"), self.loss, wanted));
        }
        Ok(())
    }
}

impl Quantity {
    fn check(
        self,
        field: &str,
        valid: impl Fn(&str, f64) -> Result<(), PlanError>,
    ) -> Result<(), PlanError> {
        match self {
            Self::Same(value) => valid(field, value),
            Self::LogNormal(LogNormal { median, p95 }) => {
                positive(field, median)?;
                if !(p95.is_finite() && p95 >= median) {
                    return Err(number(field, p95, "a p95 that is no less than the median"));
                }
                Ok(())
            }
        }
    }
}

impl ServerPlan {
    fn check(&self) -> Result<(), PlanError> {
        if let Some(count) = self.count {
            within("server.count", count, 1.0, 1_000_000_u32)?;
        }
        within("server.decoders", self.decoders, 1.0, 1024_u32)?;
        within("server.instances", self.instances, 1.0, 1024_u32)?;
        amount("server.decode_ms", self.decode_ms)?;
        amount("server.call_ms", self.call_ms)?;
        // The bounds of cloud-service's own configuration.
        within("server.max_batch", self.max_batch as u32, 1.0, 1024_u32)?;
        within(
            "server.max_queue",
            self.max_queue as u32,
            1.0,
            1_000_000_u32,
        )?;
        if !(0.0..=10_000.0).contains(&self.max_delay_ms) {
            let wanted = "milliseconds, 0 to 10000";
            return Err(number("server.max_delay_ms", self.max_delay_ms, wanted));
        }
        let fits = |size: &&usize| !(1..=self.max_batch).contains(*size);
        if let Some(&size) = self.preferred.iter().find(fits) {
            let wanted = "sizes from 1 to `max_batch`";
            return Err(number("server.preferred", size as f64, wanted));
        }
        Ok(())
    }
}

fn number(field: &str, value: f64, wanted: &'static str) -> PlanError {
    PlanError::Number {
        field: field.to_owned(),
        value,
        wanted,
    }
}

fn positive(field: &str, value: f64) -> Result<(), PlanError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(number(field, value, "a number above 0")),
    }
}

fn amount(field: &str, value: f64) -> Result<(), PlanError> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(number(field, value, "0 or more")),
    }
}

fn within(field: &str, value: u32, least: f64, most: u32) -> Result<(), PlanError> {
    let value = f64::from(value);
    match value >= least && value <= f64::from(most) {
        true => Ok(()),
        false => Err(number(
            field,
            value,
            "1 or more, and no more than is sensible",
        )),
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
