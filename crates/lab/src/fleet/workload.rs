//! What becomes of the images of a trace under each policy that is compared: decided by the functions of the bundle, as
//! `lab evaluate` and the live engine decide.

use std::fs;

use outpost_cascade::Site;
use outpost_exit_policy::{Choice, Function, Problem, bootstrap};

use super::{
    FleetError,
    plan::TracePlan,
    simulation::{Way, Ways},
};
use crate::{
    bundle::{BundleFileError, read_bundle},
    learn::load_cascade,
    percentile::nearest_rank,
    topology::{CostModel, Topology},
    trace::Trace,
};

/// Draws of the bootstrap.
const RESAMPLES: usize = 2000;

/// Whose decisions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every image is sent by a device without a network.
    CloudOnly,
    /// No image is sent.
    DeviceOnly,
    /// A learned policy decides.
    Learned,
}

impl Kind {
    /// A word for tables and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CloudOnly => "cloud-only",
            Self::DeviceOnly => "device-only",
            Self::Learned => "learned",
        }
    }
}

/// A policy on the images of the trace.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name in tables.
    pub name: String,
    /// Whose decisions count.
    pub kind: Kind,
    /// The operating point that was asked for, and those that it came to; empty where there is none.
    pub operating_point: String,
    /// What becomes of the images.
    pub ways: Ways,
    /// Share of right answers where every image that is sent is answered.
    pub accuracy: f64,
    /// Points that it loses against the cloud alone, on these images.
    pub points_lost: f64,
    /// Their 95 % interval, by bootstrap over the images.
    pub lost_interval: (f64, f64),
    /// Share of the images that are to be sent.
    pub offload_rate: f64,
    /// Mean seconds that an image keeps a device.
    pub device_seconds: f64,
}

/// The images of a plan and its policies.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The network of the cloud.
    pub network: String,
    /// Share that it gets right.
    pub cloud_accuracy: f64,
    /// SHA-256 over the names and labels of the images.
    pub images: String,
    /// The processor of the trace.
    pub processor: String,
    /// SHA-256 of the policy bundle's file.
    pub bundle: String,
    /// File names, in the order of the trace.
    pub files: Vec<String>,
    /// The cloud alone, the device alone, and the operating points of the plan.
    pub policies: Vec<Policy>,
}

/// How devices take and send images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taking {
    /// How many times slower a device is than the machine of the trace.
    pub time_scale: f64,
    /// Bytes of an image that is sent; those of the trace's files, where it is absent.
    pub bytes: Option<u32>,
    /// Draws the images of bootstraps.
    pub seed: u64,
}

impl Workload {
    /// Reads a trace, a cascade and a bundle, and takes every image through every policy.
    ///
    /// # Errors
    /// [`FleetError`] that names the file at fault.
    pub fn load(plan: &TracePlan, taking: Taking) -> Result<Self, FleetError> {
        let cascade = load_cascade(&plan.cascade)?;
        let trace = Trace::load(&plan.file)?;
        let bundle = read_bundle(&plan.policy)?;
        let topology = Topology::of_cascade(&cascade, &trace)?;
        let digest = |network: &str| {
            let mut nodes = trace.spec.nodes.iter();
            let node = nodes.find(|node| node.network == network);
            node.map(|node| node.digest.clone()).unwrap_or_default()
        };
        let unfit = |source| BundleFileError::Bundle {
            path: plan.policy.clone(),
            source,
        };
        cascade.check_fits(&bundle, digest).map_err(unfit)?;
        for (node, traced) in bundle.nodes().iter().zip(topology.traced()) {
            if node.feature_width > 0
                && trace.spec.nodes[traced].feature_width != node.feature_width
            {
                return Err(FleetError::Features(node.name.clone()));
            }
        }
        let mut clouds = Vec::new();
        for (id, node) in cascade.nodes() {
            match node.site() {
                Site::Device => {}
                Site::Cloud if node.jumps().is_empty() => clouds.push(id),
                _ => return Err(FleetError::Sites(node.name().to_owned())),
            }
        }
        let &[cloud] = &clouds[..] else {
            return Err(FleetError::Clouds(clouds.len()));
        };
        if cascade.node(cascade.entry()).site() != Site::Device {
            return Err(FleetError::Sites(
                cascade.node(cascade.entry()).name().to_owned(),
            ));
        }
        let model = CostModel {
            link: None,
            scales: vec![(Site::Device, taking.time_scale)],
        };
        let instance = topology.on(&trace, &model)?;
        let problem = instance.problem()?;
        let of = OfTrace {
            taking,
            trace: &trace,
            problem: &problem,
            cloud: cloud.index(),
        };
        let mut policies = vec![of.cloud_only(), of.device_only()];
        for goal in &plan.operating_points {
            policies.push(of.learned(goal.to_string(), bundle.choose(goal)?));
        }
        let bundle = fs::read(&plan.policy).map_err(super::file(&plan.policy))?;
        Ok(Self {
            network: cascade.node(cloud).network().to_owned(),
            cloud_accuracy: policies[0].accuracy,
            images: trace.spec.images.clone(),
            processor: trace.spec.processor.clone(),
            bundle: outpost_runtime::sha256_hex(&bundle),
            files: trace.rows.files,
            policies,
        })
    }
}

struct OfTrace<'a> {
    taking: Taking,
    trace: &'a Trace,
    problem: &'a Problem<'a>,
    cloud: usize,
}

impl OfTrace<'_> {
    fn cloud_only(&self) -> Policy {
        let seconds = &self.trace.rows.decode_seconds;
        let mut seconds: Vec<f64> = seconds.iter().map(|&seconds| seconds.into()).collect();
        let decoding = nearest_rank(&mut seconds, 50).unwrap_or(0.0);
        let way = Way {
            local_seconds: decoding * self.taking.time_scale,
            is_sent: true,
            here: None,
        };
        let ways = vec![[way; 2]; self.trace.len()];
        self.policy(Kind::CloudOnly, String::new(), ways, 0.0)
    }

    fn device_only(&self) -> Policy {
        let functions = vec![Function::EXIT; self.problem.graph().nodes()];
        let ways = self.ways(&functions).map(|way| [way; 2]).collect();
        self.policy(Kind::DeviceOnly, String::new(), ways, 0.0)
    }

    fn learned(&self, goal: String, choice: Choice<'_>) -> Policy {
        let (other, share) = choice.other.unwrap_or((choice.point, 0.0));
        let ways = self.ways(&choice.point.functions);
        let ways = ways.zip(self.ways(&other.functions));
        let ways = ways.map(|(one, other)| [one, other]).collect();
        let point = format!("{goal} ({choice})");
        self.policy(Kind::Learned, point, ways, share)
    }

    /// The way of every image by these functions.
    fn ways(&self, functions: &[Function]) -> impl Iterator<Item = Way> {
        (0..self.trace.len()).map(move |image| {
            let mut here = None;
            let outcome = self.problem.walk_noting(functions, image, |node, _| {
                if node != self.cloud {
                    here = Some(self.is_right(node, image));
                }
            });
            Way {
                local_seconds: outcome.spent.local_seconds,
                is_sent: outcome.node == self.cloud,
                here,
            }
        })
    }

    fn is_right(&self, node: usize, image: usize) -> bool {
        self.problem.examples().loss(node, image) < 0.5
    }

    fn policy(
        &self,
        kind: Kind,
        operating_point: String,
        ways: Vec<[Way; 2]>,
        share: f64,
    ) -> Policy {
        let images = ways.len();
        let cloud: Vec<bool> = (0..images)
            .map(|image| self.is_right(self.cloud, image))
            .collect();
        let mean_of = |image: usize, of: &dyn Fn(Way) -> f64| {
            let [one, other] = ways[image];
            (1.0 - share) * of(one) + share * of(other)
        };
        let mean = |of: &dyn Fn(usize) -> f64| (0..images).map(of).sum::<f64>() / images as f64;
        let right = |image: usize| {
            mean_of(image, &|way: Way| {
                let is_right = match way.is_sent {
                    true => cloud[image],
                    false => way.here.unwrap_or(false),
                };
                f64::from(u8::from(is_right))
            })
        };
        let lost: Vec<f64> = (0..images)
            .map(|image| 100.0 * (f64::from(u8::from(cloud[image])) - right(image)))
            .collect();
        let interval = bootstrap::interval(images, RESAMPLES, self.taking.seed, |drawn| {
            drawn.iter().map(|&image| lost[image as usize]).sum::<f64>() / drawn.len() as f64
        });
        let traced = &self.trace.rows.payload_bytes;
        let bytes = match self.taking.bytes {
            Some(bytes) => vec![bytes; images],
            None => traced.clone(),
        };
        let name = match kind {
            Kind::Learned => operating_point.clone(),
            _ => kind.as_str().to_owned(),
        };
        Policy {
            name,
            kind,
            operating_point,
            accuracy: mean(&right),
            points_lost: mean(&|image| lost[image]),
            lost_interval: (interval.low, interval.high),
            offload_rate: mean(&|image| mean_of(image, &|way| f64::from(u8::from(way.is_sent)))),
            device_seconds: mean(&|image| mean_of(image, &|way| way.local_seconds)),
            ways: Ways {
                ways,
                share,
                cloud,
                bytes,
            },
        }
    }
}
