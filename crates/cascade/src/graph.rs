//! The cascade: a directed acyclic graph of networks, each placed at a site.

use std::fmt;

use outpost_exit_policy::{Constant, Decision, DecisionFunction, Evidence, Successor};
use serde::{Deserialize, Serialize};

/// Where a network runs. A jump never leads back towards the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// The device that has the image.
    Device,
    /// A server near the device.
    Fog,
    /// The cloud.
    Cloud,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Fog => "fog",
            Self::Cloud => "cloud",
        })
    }
}

/// Index of a node in its cascade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) usize);

/// A network of a cascade.
#[derive(Debug)]
pub struct Node {
    pub(crate) network: String,
    pub(crate) site: Site,
    pub(crate) jumps: Vec<NodeId>,
    pub(crate) policy: Box<dyn DecisionFunction>,
}

impl Node {
    /// Name of the network.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Where it runs.
    pub fn site(&self) -> Site {
        self.site
    }

    /// The nodes that it may go on to.
    pub fn jumps(&self) -> &[NodeId] {
        &self.jumps
    }
}

/// Which decisions a cascade takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Those of its policies.
    #[default]
    Policy,
    /// Every node answers: the device alone.
    DeviceOnly,
    /// Every node goes on to its last successor: the cloud has the last word on every image.
    CloudOnly,
}

/// A checked cascade: acyclic, every node reachable from the entry, every jump towards the cloud.
#[derive(Debug)]
pub struct Cascade {
    pub(crate) name: String,
    pub(crate) entry: NodeId,
    pub(crate) nodes: Vec<Node>,
}

impl Cascade {
    /// Name of the cascade.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node that sees every image.
    pub fn entry(&self) -> NodeId {
        self.entry
    }

    /// A node.
    ///
    /// # Panics
    /// For an id of another, larger cascade.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// All nodes with their ids.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes
            .iter()
            .enumerate()
            .map(|(index, node)| (NodeId(index), node))
    }

    /// Puts constant decisions in place of the policies.
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        for node in &mut self.nodes {
            let decision = match (mode, node.jumps.len()) {
                (Mode::Policy, _) => continue,
                (Mode::DeviceOnly, _) | (Mode::CloudOnly, 0) => Decision::Exit,
                (Mode::CloudOnly, jumps) => Decision::GoTo(Successor(jumps - 1)),
            };
            node.policy = Box::new(Constant(decision));
        }
        self
    }

    /// Where an example goes from `node`, given what the node said; `None` to exit.
    pub(crate) fn decide(&self, node: NodeId, evidence: &Evidence<'_>) -> Option<NodeId> {
        let node = &self.nodes[node.0];
        match node.policy.decide(evidence) {
            Decision::Exit => None,
            // The file reader made the policy for this node; a successor it lacks would be its bug,
            // and exiting is the answer that still stands.
            Decision::GoTo(Successor(index)) => node.jumps.get(index).copied(),
        }
    }
}
