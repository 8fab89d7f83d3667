//! The cascade: a directed acyclic graph of networks and their early exits, each placed at a site.

use std::{fmt, sync::Arc};

use outpost_exit_policy::{
    Bundle, BundleError, Constant, Decision, DecisionFunction, Evidence, Successor,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

impl NodeId {
    /// Position among the cascade's nodes, from 0, in the order of its file.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A place of a cascade where an answer can leave: a network, or an early exit of one.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) network: String,
    pub(crate) exit: Option<String>,
    pub(crate) site: Site,
    pub(crate) jumps: Vec<NodeId>,
    /// `None` until a learned one takes its place.
    pub(crate) policy: Option<Arc<dyn DecisionFunction>>,
}

impl Node {
    /// `network` for a whole network, `network@exit` for an early exit.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the network.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The early exit where the network stops; `None` for its end.
    pub fn exit(&self) -> Option<&str> {
        self.exit.as_deref()
    }

    /// Where it runs.
    pub fn site(&self) -> Site {
        self.site
    }

    /// The nodes that it may go on to.
    pub fn jumps(&self) -> &[NodeId] {
        &self.jumps
    }

    /// The node that every image goes on to from here; none where that depends on the image, and where it ends here.
    pub fn always_goes_to(&self) -> Option<NodeId> {
        match self.policy.as_ref()?.always()? {
            Decision::GoTo(Successor(jump)) => self.jumps.get(jump).copied(),
            Decision::Exit => None,
        }
    }
}

/// Which decisions a cascade takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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

impl Mode {
    /// Whether an image may travel.
    pub fn offloads(self) -> bool {
        self != Self::DeviceOnly
    }
}

/// A checked cascade: acyclic, every node reachable from the entry, every jump towards the cloud.
#[derive(Debug, Clone)]
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
            node.policy = Some(Arc::new(Constant(decision)));
        }
        self
    }

    /// Puts learned decision functions in place of the policies, one a node, in the order of the
    /// nodes. They must have been learned for this cascade: a successor that a node lacks is an exit.
    ///
    /// # Panics
    /// When their number is not that of the nodes.
    #[must_use]
    pub fn with_policies(
        mut self,
        policies: impl IntoIterator<Item = Arc<dyn DecisionFunction>>,
    ) -> Self {
        let mut policies = policies.into_iter();
        for node in &mut self.nodes {
            node.policy = Some(policies.next().expect("a policy for every node"));
        }
        assert!(policies.next().is_none(), "a node for every policy");
        self
    }

    /// A node at a site whose policy is to be learned and has not been put in place.
    pub fn undecided(&self, site: Site) -> Option<&Node> {
        let is_here = |node: &&Node| node.site == site && node.policy.is_none();
        self.nodes.iter().find(is_here)
    }

    /// A node by its name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes
            .iter()
            .position(|node| node.name == name)
            .map(NodeId)
    }

    /// Identifies the cascade for what is learned for it: SHA-256, in hexadecimal, over its nodes,
    /// sites and jumps, and over `digest` of every network's weights.
    pub fn fingerprint(&self, digest: impl Fn(&str) -> String) -> String {
        let mut hash = Sha256::new();
        let mut line = |words: &[&str]| {
            // No name contains a space or a line's end, so that no two cascades read alike.
            hash.update(words.join(" "));
            hash.update("\n");
        };
        line(&["entry", &self.nodes[self.entry.0].name]);
        for node in &self.nodes {
            line(&[
                "node",
                &node.name,
                &node.site.to_string(),
                &digest(&node.network),
            ]);
            for jump in &node.jumps {
                line(&["jump", &self.nodes[jump.0].name]);
            }
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Checks that a policy bundle was learned for this cascade and for the weights with these digests.
    ///
    /// # Errors
    /// A [`BundleError`] that says what differs.
    pub fn check_fits(
        &self,
        bundle: &Bundle,
        digest: impl Fn(&str) -> String,
    ) -> Result<(), BundleError> {
        let nodes = self.nodes.iter().map(|node| {
            let successors = node
                .jumps
                .iter()
                .map(|jump| self.nodes[jump.0].name.as_str());
            (node.name.as_str(), successors.collect())
        });
        bundle.check_fits(&self.name, &self.fingerprint(digest), nodes)
    }

    /// Where an example goes from `node`, given what the node said; `None` to exit.
    pub(crate) fn decide(&self, node: NodeId, evidence: &Evidence<'_>) -> Option<NodeId> {
        let node = &self.nodes[node.0];
        // Drivers refuse a cascade with an undecided node; what it said is still an answer.
        match node.policy.as_ref()?.decide(evidence) {
            Decision::Exit => None,
            // The file reader made the policy for this node; a successor it lacks would be its bug,
            // and exiting is the answer that still stands.
            Decision::GoTo(Successor(index)) => node.jumps.get(index).copied(),
        }
    }
}
