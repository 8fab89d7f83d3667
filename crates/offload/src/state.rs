//! What is told of what decides: the cascade's nodes, the learned policy and its frontier, and what an offload costs.

use outpost_cascade::{Cascade, Deciding, Site};
use outpost_exit_policy::Bundle;
use serde::Serialize;

/// What runs networks.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Runtime {
    /// `tract` or `onnxruntime`.
    pub name: &'static str,
    /// Its version.
    pub version: String,
}

/// A network of the cascade, or an early exit of one.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Node {
    /// `network`, or `network@exit`.
    pub name: String,
    /// `device`, `fog` or `cloud`.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub site: Site,
}

/// A learned policy.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Policy {
    /// What the operating point is to meet.
    pub goal: String,
    /// Name of the operating point that meets it now, and decides in the mode `policy`.
    pub operating_point: String,
    /// Another that decides about a share of the images, where none meets the goal as well alone.
    pub mixed_with: Option<MixedWith>,
    /// What is expected of them.
    pub expected: Expected,
    /// The largest network alone.
    pub reference: Reference,
    /// Its operating points, the most accurate first.
    pub operating_points: Vec<OperatingPoint>,
}

/// The largest network alone, as expected where the policy was learned.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Reference {
    /// Its node.
    pub node: String,
    /// Share of images that it gets right, 0 to 1.
    pub accuracy: f64,
    /// Its mean milliseconds.
    pub ms: f64,
}

/// An operating point that decides about a share of the images.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MixedWith {
    /// Its name.
    pub operating_point: String,
    /// The share, 0 to 1. Which images, their pixels say.
    pub share: f64,
}

/// An operating point, and what is expected of it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct OperatingPoint {
    /// Its name.
    pub name: String,
    /// What is expected of it.
    #[serde(flatten)]
    pub expected: Expected,
}

/// What is expected, on the link that the policy was learned for.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Expected {
    /// Share of images that are answered right, 0 to 1.
    pub accuracy: f64,
    /// Mean milliseconds.
    pub ms: f64,
    /// Mean bytes sent.
    pub bytes: f64,
    /// Share of images that are sent, 0 to 1.
    pub offload_rate: f64,
    /// Share of the answers to the others that the largest network agrees with, 0 to 1; absent where the policy does not
    /// say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
}

impl From<outpost_exit_policy::Expected> for Expected {
    fn from(expected: outpost_exit_policy::Expected) -> Self {
        Self {
            accuracy: expected.accuracy,
            ms: expected.seconds * 1e3,
            bytes: expected.bytes,
            offload_rate: expected.offload_rate,
            agreement: expected.agreement,
        }
    }
}

/// What an offload costs now, by the latest ones.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Link {
    /// Milliseconds on the link for a message without bytes.
    pub round_trip_ms: f64,
    /// Bytes a second; absent where sizes did not differ enough to tell.
    pub uplink: Option<f64>,
    /// Milliseconds at the peer.
    pub at_peer_ms: f64,
    /// Of these, milliseconds in its queues; 0 where it does not tell.
    pub queue_ms: f64,
    /// Share of the offloads that failed, 0 to 1.
    pub failed: f64,
}

impl From<outpost_cascade::Link> for Link {
    fn from(link: outpost_cascade::Link) -> Self {
        Self {
            round_trip_ms: link.round_trip * 1e3,
            uplink: (link.per_byte > 0.0).then(|| 1.0 / link.per_byte),
            at_peer_ms: link.at_peer * 1e3,
            queue_ms: link.queued * 1e3,
            failed: link.failed,
        }
    }
}

impl Node {
    /// Those of a cascade, in the order of its file.
    pub fn all(cascade: &Cascade) -> Vec<Self> {
        let nodes = cascade.nodes();
        nodes
            .map(|(_, node)| Self {
                name: node.name().to_owned(),
                site: node.site(),
            })
            .collect()
    }
}

impl Policy {
    /// Of a bundle, and of what was chosen from it; none where nothing was.
    pub fn of(bundle: &Bundle, deciding: &Deciding) -> Option<Self> {
        let chosen = deciding.chosen()?;
        let mixed = chosen.other.as_ref();
        let reference = bundle.reference();
        let points = bundle.operating_points().iter();
        Some(Self {
            goal: chosen.goal.to_string(),
            operating_point: chosen.operating_point.clone(),
            mixed_with: mixed.map(|(operating_point, share)| MixedWith {
                operating_point: operating_point.clone(),
                share: *share,
            }),
            expected: chosen.expected.into(),
            reference: Reference {
                node: reference.node.clone(),
                accuracy: reference.accuracy,
                ms: reference.seconds * 1e3,
            },
            operating_points: points
                .map(|point| OperatingPoint {
                    name: point.name.clone(),
                    expected: point.expected.into(),
                })
                .collect(),
        })
    }
}
