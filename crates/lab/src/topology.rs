//! Which networks and exits make a cascade, as a trace knows them, and what its steps cost.

use std::{str::FromStr, time::Duration};

use outpost_cascade::{Cascade, Site};
use outpost_exit_policy::{
    Costs, Examples, ExamplesError, Graph, GraphError, Problem, ProblemError, Step,
};

use crate::trace::Trace;

/// The nodes of a cascade by their numbers in a trace, and where each may go on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Its name in reports, such as `A→R`.
    pub name: String,
    /// Where the images are.
    origin: Site,
    entry: usize,
    nodes: Vec<TopologyNode>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TopologyNode {
    /// Number of the node in the trace.
    traced: usize,
    site: Site,
    /// Numbers in the topology.
    successors: Vec<usize>,
}

/// What a cascade's steps cost beside what a trace has measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CostModel {
    /// The link between two sites; `None` where sending is free.
    pub link: Option<Link>,
    /// Factors on the traced time of the networks at a site.
    pub scales: Vec<(Site, f64)>,
}

/// A link between two sites.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Time that a call takes beside its bytes.
    pub round_trip: Duration,
    /// Towards the cloud.
    pub uplink_bits_per_sec: f64,
}

/// A topology as a trace has seen it: what a [`Problem`] borrows.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    graph: Graph,
    costs: Costs,
    examples: Examples,
}

impl Instance {
    /// The problem.
    ///
    /// # Errors
    /// [`ProblemError`] where a cost is at fault.
    pub fn problem(&self) -> Result<Problem<'_>, ProblemError> {
        Problem::try_new(&self.graph, &self.costs, &self.examples)
    }
}

/// Why a cascade and a trace make no topology.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The trace lacks a node of the cascade.
    #[error(
        "the trace is of {traced:?} and lacks the node {node:?} of the cascade {cascade:?}: trace \
         this cascade"
    )]
    NotTraced {
        /// The cascade.
        cascade: String,
        /// The node.
        node: String,
        /// The cascade that was traced.
        traced: String,
    },
    /// The cascade's graph is at fault.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The trace is at fault.
    #[error(transparent)]
    Examples(#[from] ExamplesError),
}

/// Words that are no link or no scale.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CostModelError {
    /// Not a link.
    #[error("{0:?} is no link: give its round trip and uplink, as in `20ms,10Mbps`")]
    Link(String),
    /// Not a scale.
    #[error("{0:?} is no scale: give a site and a factor, as in `cloud=0.1`")]
    Scale(String),
}

impl FromStr for Link {
    type Err = CostModelError;

    fn from_str(words: &str) -> Result<Self, CostModelError> {
        let parse = || {
            let (round_trip, uplink) = words.split_once(',')?;
            let milliseconds: f64 = round_trip.trim().strip_suffix("ms")?.trim().parse().ok()?;
            let round_trip = Duration::try_from_secs_f64(milliseconds / 1e3).ok()?;
            let units = [("Gbps", 1e9), ("Mbps", 1e6), ("kbps", 1e3)];
            let (number, unit) = units
                .iter()
                .find_map(|(name, unit)| Some((uplink.trim().strip_suffix(name)?, unit)))?;
            let uplink: f64 = number.trim().parse().ok()?;
            (uplink.is_finite() && uplink > 0.0).then_some(Self {
                round_trip,
                uplink_bits_per_sec: uplink * unit,
            })
        };
        parse().ok_or_else(|| CostModelError::Link(words.to_owned()))
    }
}

/// A factor on the traced time of the networks at a site.
///
/// # Errors
/// [`CostModelError::Scale`] for words like `cloud=-1`.
pub fn parse_scale(words: &str) -> Result<(Site, f64), CostModelError> {
    let parse = || {
        let (site, factor) = words.split_once('=')?;
        let site = match site {
            "device" => Site::Device,
            "fog" => Site::Fog,
            "cloud" => Site::Cloud,
            _ => return None,
        };
        let factor: f64 = factor.parse().ok()?;
        (factor.is_finite() && factor > 0.0).then_some((site, factor))
    };
    parse().ok_or_else(|| CostModelError::Scale(words.to_owned()))
}

impl CostModel {
    fn scale(&self, site: Site) -> f64 {
        let of_site = self.scales.iter().rev().find(|(scaled, _)| *scaled == site);
        of_site.map_or(1.0, |(_, factor)| *factor)
    }

    /// A network from its first stage to a node, for an image at `from` that is decoded there.
    fn whole_after_decoding(&self, trace: &Trace, from: Site, node: &TopologyNode) -> Step {
        if from != node.site {
            return self.whole(trace, from, node);
        }
        Step {
            seconds: self.scale(node.site) * median(&trace.rows.nodes[node.traced].seconds),
            ..Step::default()
        }
    }

    /// The same with decoding; over the link where the node is elsewhere.
    fn whole(&self, trace: &Trace, from: Site, node: &TopologyNode) -> Step {
        let decode = median(&trace.rows.decode_seconds);
        let network = median(&trace.rows.nodes[node.traced].seconds);
        let sends = from != node.site;
        let link = self.link.filter(|_| sends);
        Step {
            seconds: self.scale(node.site) * (decode + network)
                + link.map_or(0.0, |link| link.round_trip.as_secs_f64()),
            seconds_per_byte: link.map_or(0.0, |link| 8.0 / link.uplink_bits_per_sec),
            sends,
        }
    }
}

impl Topology {
    /// A cascade as a trace knows it.
    ///
    /// # Errors
    /// [`TopologyError::NotTraced`] where the trace is of another cascade.
    pub fn of_cascade(cascade: &Cascade, trace: &Trace) -> Result<Self, TopologyError> {
        let nodes = cascade.nodes().map(|(_, node)| {
            let traced = trace
                .node(node.name())
                .ok_or_else(|| TopologyError::NotTraced {
                    cascade: cascade.name().to_owned(),
                    node: node.name().to_owned(),
                    traced: trace.spec.cascade.clone(),
                })?;
            Ok(TopologyNode {
                traced,
                site: node.site(),
                successors: node.jumps().iter().map(|jump| jump.index()).collect(),
            })
        });
        Ok(Self {
            name: cascade.name().to_owned(),
            origin: cascade.node(cascade.entry()).site(),
            entry: cascade.entry().index(),
            nodes: nodes.collect::<Result<_, TopologyError>>()?,
        })
    }

    /// A chain of traced nodes with their sites, for images at `origin`: each may go on to the next.
    pub fn chain(name: String, origin: Site, nodes: &[(usize, Site)]) -> Self {
        Self::from_jumps(name, origin, nodes, |node| {
            (node + 1..nodes.len()).take(1).collect()
        })
    }

    /// A full tree of traced nodes with their sites, for images at `origin`: each may go on to any after
    /// it.
    pub fn full_tree(name: String, origin: Site, nodes: &[(usize, Site)]) -> Self {
        Self::from_jumps(name, origin, nodes, |node| {
            (node + 1..nodes.len()).collect()
        })
    }

    fn from_jumps(
        name: String,
        origin: Site,
        nodes: &[(usize, Site)],
        successors: impl Fn(usize) -> Vec<usize>,
    ) -> Self {
        let nodes = nodes
            .iter()
            .enumerate()
            .map(|(place, &(traced, site))| TopologyNode {
                traced,
                site,
                successors: successors(place),
            });
        Self {
            name,
            origin,
            entry: 0,
            nodes: nodes.collect(),
        }
    }

    /// Numbers of its nodes in the trace.
    pub fn traced(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.traced).collect()
    }

    /// Its graph.
    ///
    /// # Errors
    /// [`GraphError`] where it is none.
    pub fn graph(&self) -> Result<Graph, GraphError> {
        let successors = self
            .nodes
            .iter()
            .map(|node| node.successors.clone())
            .collect();
        Graph::try_new(self.entry, successors)
    }

    /// The topology as a trace has seen it.
    ///
    /// # Errors
    /// [`TopologyError`] where the topology is no graph or the trace is at fault.
    pub fn on(&self, trace: &Trace, model: &CostModel) -> Result<Instance, TopologyError> {
        Ok(Instance {
            graph: self.graph()?,
            costs: self.costs(trace, model),
            examples: trace.examples(&self.traced())?,
        })
    }

    /// Seconds of one of its nodes alone, without those before it, for an image of `payload_bytes`.
    pub fn seconds_alone(
        &self,
        node: usize,
        trace: &Trace,
        model: &CostModel,
        payload_bytes: f64,
    ) -> f64 {
        let node = &self.nodes[node];
        let step = model.whole(trace, self.origin, node);
        step.seconds + step.seconds_per_byte * payload_bytes
    }

    /// What its steps cost: medians over the images of a trace. A step within a network takes what
    /// lies between its exits; one to another network that network up to its exit, and over a link also
    /// the round trip, the bytes and decoding again.
    fn costs(&self, trace: &Trace, model: &CostModel) -> Costs {
        let step = |from: usize, to: usize| {
            let (here, there) = (&self.nodes[from], &self.nodes[to]);
            let (a, b) = (
                &trace.spec.nodes[here.traced],
                &trace.spec.nodes[there.traced],
            );
            if here.site != there.site || a.network != b.network || a.stage >= b.stage {
                return model.whole_after_decoding(trace, here.site, there);
            }
            let seconds = |node: &TopologyNode| median(&trace.rows.nodes[node.traced].seconds);
            Step {
                seconds: model.scale(there.site) * (seconds(there) - seconds(here)).max(0.0),
                ..Step::default()
            }
        };
        let jumps = self
            .nodes
            .iter()
            .enumerate()
            .map(|(from, node)| node.successors.iter().map(|&to| step(from, to)).collect());
        Costs {
            entry: model.whole(trace, self.origin, &self.nodes[self.entry]),
            jumps: jumps.collect(),
        }
    }
}

/// The median of times: a mean would count what else the machine did.
fn median(values: &[f32]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    f64::from(sorted[sorted.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_scales_are_read_or_refused() {
        let link: Link = "20ms,10Mbps".parse().unwrap();
        assert_eq!(link.round_trip, Duration::from_millis(20));
        assert_eq!(link.uplink_bits_per_sec, 10e6);
        for words in [
            "",
            "20ms",
            "20,10Mbps",
            "20ms,0Mbps",
            "20ms,NaNMbps",
            "-1ms,1Mbps",
        ] {
            assert!(words.parse::<Link>().is_err(), "{words:?}");
        }
        assert_eq!(parse_scale("cloud=0.5"), Ok((Site::Cloud, 0.5)));
        for words in ["cloud", "moon=1", "fog=0", "fog=x"] {
            assert!(parse_scale(words).is_err(), "{words:?}");
        }
    }
}
