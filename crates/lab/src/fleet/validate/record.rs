//! What a validation found, kept as a file: in what range the simulator came near enough, and how near.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{ValidateError, file};
use crate::fleet::{
    plan::{LinkPlan, Plan, Quantity},
    sizing::Sized,
    workload::{Kind, Policy},
};

/// Version of the format.
pub(super) const SCHEMA: u32 = 1;
/// The link of a validation.
pub(super) const LOOPBACK: &str = "loopback";

/// What was run, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of the format.
    pub schema: u32,
    /// Of the simulator.
    pub program_version: String,
    /// The processor.
    pub machine: String,
    /// Its cores.
    pub cores: usize,
    /// What kind of processor computed.
    pub processor: String,
    /// The link.
    pub link: String,
    /// How images came.
    pub arrivals: String,
    /// The network that was served.
    pub network: String,
    /// SHA-256 over the names and labels of the images.
    pub images_sha256: String,
    /// SHA-256 of the policy bundle.
    pub policy_sha256: String,
    /// Which operating point.
    pub operating_point: String,
    /// Share of its time that the service was to be busy.
    pub load: f64,
    /// Images that were sent in a run.
    pub sent: usize,
    /// As in the service's configuration.
    pub max_batch: usize,
    /// As in the service's configuration.
    pub max_delay_ms: f64,
    /// As in the service's configuration.
    pub instances: u32,
    /// Milliseconds from taking up an image to its answer.
    pub deadline_ms: f64,
    /// How many times slower devices were than the machine of the trace.
    pub device_scale: f64,
    /// The seed.
    pub seed: u64,
    /// How near the simulator must come, as a share of what is real.
    pub tolerance: f64,
    /// Mean milliseconds of batches of 1, 2, … images.
    pub batch_ms: Vec<f64>,
    /// Milliseconds to decode an image.
    pub decode_ms: f64,
    /// Milliseconds of the rest of a call.
    pub call_ms: f64,
    /// By number of devices.
    pub points: Vec<Point>,
}

/// One number of devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The number.
    pub devices: u32,
    /// Images a second of each.
    pub images_per_second_of_device: f64,
    /// By how much a batch of one image took longer in the second half of the run than in the first, as a share: what else the
    /// machine had to do. None where there was none.
    pub drift: Option<f64>,
    /// Images that counted.
    pub images: usize,
    /// Of these, those that were sent.
    pub sent: usize,
    /// The figures.
    pub compared: Vec<Compared>,
}

/// A figure of the real run and of the simulator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Its name.
    pub figure: String,
    /// What was measured.
    pub real: f64,
    /// What was simulated.
    pub simulated: f64,
    /// Whether they are near enough.
    pub is_within: bool,
}

impl Compared {
    /// By how much the simulator is above, as a share of what is real.
    pub fn apart(&self) -> f64 {
        self.simulated / self.real - 1.0
    }
}

impl Record {
    /// Reads what a validation has left.
    ///
    /// # Errors
    /// [`ValidateError`] that names the file.
    pub fn load(path: &Path) -> Result<Self, ValidateError> {
        let json = fs::read(path).map_err(file(path))?;
        serde_json::from_slice(&json).map_err(|source| ValidateError::Record {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`ValidateError::File`], which names the file.
    pub fn write(&self, path: &Path) -> Result<(), ValidateError> {
        let json = serde_json::to_string_pretty(self).expect("names and numbers are JSON");
        fs::write(path, json + "\n").map_err(file(path))
    }

    /// The most devices up to which every figure was near enough; none where it was not with the fewest.
    pub fn most_devices(&self) -> Option<u32> {
        let mut points: Vec<&Point> = self.points.iter().collect();
        points.sort_by_key(|point| point.devices);
        let is_near = |point: &&&Point| point.compared.iter().all(|one| one.is_within);
        let near = points.iter().take_while(is_near);
        near.last().map(|point| point.devices)
    }
}

/// Why the simulator was not validated for a fleet; empty where it was.
pub fn not_validated(
    record: Option<&Record>,
    plan: &Plan,
    sized: &Sized,
    policy: &Policy,
) -> Vec<String> {
    let Some(record) = record else {
        return vec!["any of it (give --validation)".to_owned()];
    };
    let mut reasons = Vec::new();
    let mut unless = |is_covered: bool, what: String| {
        if !is_covered {
            reasons.push(what);
        }
    };
    match record.most_devices() {
        Some(most) => unless(sized.devices <= most, format!("beyond {most} devices")),
        None => unless(
            false,
            "any number of devices (its validation failed)".to_owned(),
        ),
    }
    unless(
        policy.kind != Kind::DeviceOnly,
        "the devices' own networks, whose time was waited for".to_owned(),
    );
    if policy.offload_rate <= 0.0 {
        return reasons;
    }
    let processor = plan.server.processor.as_str();
    unless(
        processor == record.processor,
        format!("with a {}", processor.to_uppercase()),
    );
    unless(
        plan.link.iter().all(is_loopback),
        format!("with links other than {}", record.link),
    );
    unless(
        sized.run.servers <= 1,
        "with more than one server".to_owned(),
    );
    unless(
        plan.arrivals.kind.as_str() == record.arrivals,
        format!("with arrivals other than {}", record.arrivals),
    );
    unless(
        plan.server.max_batch <= record.max_batch,
        format!("with batches of more than {}", record.max_batch),
    );
    unless(
        plan.server.instances <= record.instances,
        format!("with more than {} batches at a time", record.instances),
    );
    unless(
        sized.run.utilisation <= 1.1 * record.load,
        format!(
            "with servers that are busy for more than {:.0} % of their time",
            100.0 * record.load
        ),
    );
    unless(
        sized.run.shares.fallback + sized.run.shares.unanswered <= 0.01,
        "where more than 1 % of the images find no cloud in time".to_owned(),
    );
    reasons
}

/// Whether a link is no slower than one within a machine.
fn is_loopback(link: &LinkPlan) -> bool {
    let is = |quantity: Quantity, holds: &dyn Fn(f64) -> bool| match quantity {
        Quantity::Same(value) => holds(value),
        Quantity::LogNormal(_) => false,
    };
    link.loss == 0.0
        && is(link.round_trip_ms, &|ms| ms <= 0.1)
        && is(link.uplink_mbps, &|rate| rate >= 10_000.0)
        && is(link.downlink_mbps, &|rate| rate >= 10_000.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn point(devices: u32, is_within: bool) -> Point {
        Point {
            devices,
            images_per_second_of_device: 1.0,
            drift: Some(0.01),
            images: 1000,
            sent: 500,
            compared: vec![Compared {
                figure: "p99 ms".to_owned(),
                real: 100.0,
                simulated: if is_within { 105.0 } else { 120.0 },
                is_within,
            }],
        }
    }

    pub(in crate::fleet) fn record(points: Vec<Point>) -> Record {
        Record {
            schema: SCHEMA,
            program_version: "0".to_owned(),
            machine: String::new(),
            cores: 2,
            processor: "cpu".to_owned(),
            link: LOOPBACK.to_owned(),
            arrivals: "poisson".to_owned(),
            network: "n".to_owned(),
            images_sha256: String::new(),
            policy_sha256: String::new(),
            operating_point: "p01".to_owned(),
            load: 0.6,
            sent: 1000,
            max_batch: 4,
            max_delay_ms: 0.0,
            instances: 1,
            deadline_ms: 1000.0,
            device_scale: 1.0,
            seed: 0,
            tolerance: 0.1,
            batch_ms: vec![20.0],
            decode_ms: 1.0,
            call_ms: 1.0,
            points,
        }
    }

    #[test]
    fn a_record_vouches_up_to_where_every_figure_was_near() {
        let most = |points| record(points).most_devices();
        assert_eq!(most(vec![point(4, true), point(1, true)]), Some(4));
        let with_hole = vec![point(1, true), point(2, false), point(4, true)];
        assert_eq!(most(with_hole), Some(1));
        assert_eq!(most(vec![point(1, false)]), None);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.json");
        let written = record(vec![point(1, true)]);
        written.write(&path).unwrap();
        assert_eq!(Record::load(&path).unwrap(), written);
        fs::write(&path, "{}").unwrap();
        let refused = Record::load(&path).unwrap_err().to_string();
        assert!(refused.contains("make it again"), "{refused}");
    }
}
