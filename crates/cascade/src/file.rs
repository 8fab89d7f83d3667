//! Cascade files, `models/cascades/*.toml`: which networks, where, which jumps, which policy.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use outpost_exit_policy::{
    Confidence, Constant, Decision, DecisionFunction, Measure, Successor, Threshold,
};
use serde::Deserialize;

use crate::graph::{Cascade, Node, NodeId, Site};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CascadeFile {
    name: String,
    #[serde(rename = "description")]
    _description: String,
    entry: String,
    #[serde(rename = "node")]
    nodes: Vec<NodeEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeEntry {
    network: String,
    site: Site,
    #[serde(default)]
    jumps: Vec<String>,
    policy: Option<PolicyEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum PolicyEntry {
    /// Always answers.
    Exit,
    /// Always goes on.
    GoOn { to: Option<String> },
    /// Answers from a confidence upwards.
    Threshold {
        measure: Measure,
        at_least: Confidence,
        to: Option<String>,
    },
}

/// Why a cascade file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CascadeError {
    /// It cannot be read.
    #[error("cannot read the cascade file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, lacks a field or has one too many.
    #[error("the cascade file does not parse")]
    Parse(#[from] Box<toml::de::Error>),
    /// Two nodes name one network.
    #[error("the cascade names the network {0:?} twice")]
    Duplicate(String),
    /// A name that no node has.
    #[error("{by} names {network:?}, which is no node of the cascade")]
    NoSuchNode {
        /// What names it.
        by: String,
        /// The name.
        network: String,
    },
    /// A node that goes on lacks a policy, or one that cannot has one.
    #[error("the node {network:?} {problem}")]
    Policy {
        /// The node.
        network: String,
        /// What is wrong and what to write.
        problem: &'static str,
    },
    /// A jump leads towards the device.
    #[error("the jump {from:?} → {to:?} leads from {from_site} back to {to_site}")]
    Backwards {
        /// Where it starts.
        from: String,
        /// Its site.
        from_site: Site,
        /// Where it ends.
        to: String,
        /// Its site.
        to_site: Site,
    },
    /// Jumps form a circle.
    #[error("the cascade has a circle through {0:?}: jumps must lead to later networks")]
    Circle(String),
    /// A node that no image can reach.
    #[error("no jump leads to the node {0:?}: remove it or add a jump")]
    Unreachable(String),
}

impl Cascade {
    /// Reads and checks a cascade file.
    ///
    /// # Errors
    /// A [`CascadeError`] that names what is wrong.
    pub fn load(path: &Path) -> Result<Self, CascadeError> {
        let text = fs::read_to_string(path).map_err(|source| CascadeError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Checks the text of a cascade file.
    ///
    /// # Errors
    /// A [`CascadeError`] that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, CascadeError> {
        let file: CascadeFile = toml::from_str(text).map_err(Box::new)?;
        let names: Vec<String> = file.nodes.iter().map(|node| node.network.clone()).collect();
        if let Some(twice) = (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
            return Err(CascadeError::Duplicate(names[twice].clone()));
        }
        let find = |by: &str, network: &str| {
            names
                .iter()
                .position(|name| name == network)
                .map(NodeId)
                .ok_or_else(|| CascadeError::NoSuchNode {
                    by: by.to_owned(),
                    network: network.to_owned(),
                })
        };
        let entry = find("`entry`", &file.entry)?;
        let nodes = file
            .nodes
            .into_iter()
            .map(|entry| {
                let by = format!("a jump of {:?}", entry.network);
                let jumps = entry
                    .jumps
                    .iter()
                    .map(|to| find(&by, to))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Node {
                    policy: policy(&entry)?,
                    network: entry.network,
                    site: entry.site,
                    jumps,
                })
            })
            .collect::<Result<Vec<_>, CascadeError>>()?;
        let cascade = Self {
            name: file.name,
            entry,
            nodes,
        };
        check(&cascade)?;
        Ok(cascade)
    }
}

fn policy(node: &NodeEntry) -> Result<Box<dyn DecisionFunction>, CascadeError> {
    let problem = |problem| CascadeError::Policy {
        network: node.network.clone(),
        problem,
    };
    let successor = |to: &Option<String>| match to {
        None => Ok(Successor(0)),
        Some(to) => node
            .jumps
            .iter()
            .position(|jump| jump == to)
            .map(Successor)
            .ok_or_else(|| problem("has a policy whose `to` is none of its `jumps`")),
    };
    match &node.policy {
        None if node.jumps.is_empty() => Ok(Box::new(Constant(Decision::Exit))),
        None => Err(problem("has jumps and no policy: add one")),
        Some(_) if node.jumps.is_empty() => {
            Err(problem("has a policy and no jumps: remove the policy"))
        }
        Some(PolicyEntry::Exit) => Ok(Box::new(Constant(Decision::Exit))),
        Some(PolicyEntry::GoOn { to }) => Ok(Box::new(Constant(Decision::GoTo(successor(to)?)))),
        Some(PolicyEntry::Threshold {
            measure,
            at_least,
            to,
        }) => Ok(Box::new(Threshold {
            measure: *measure,
            at_least: *at_least,
            otherwise: successor(to)?,
        })),
    }
}

fn check(cascade: &Cascade) -> Result<(), CascadeError> {
    let name = |id: NodeId| cascade.node(id).network.clone();
    for (id, node) in cascade.nodes() {
        for &to in &node.jumps {
            if cascade.node(to).site < node.site {
                return Err(CascadeError::Backwards {
                    from: name(id),
                    from_site: node.site,
                    to: name(to),
                    to_site: cascade.node(to).site,
                });
            }
        }
    }
    // Depth first; a node met again on its own path closes a circle.
    let mut finished = vec![false; cascade.nodes.len()];
    let mut path = vec![(cascade.entry, 0_usize)];
    while let Some(&mut (id, ref mut next)) = path.last_mut() {
        let Some(&to) = cascade.node(id).jumps.get(*next) else {
            finished[id.0] = true;
            path.pop();
            continue;
        };
        *next += 1;
        if path.iter().any(|&(on_path, _)| on_path == to) {
            return Err(CascadeError::Circle(name(to)));
        }
        if !finished[to.0] {
            path.push((to, 0));
        }
    }
    match finished.iter().position(|&reached| !reached) {
        Some(index) => Err(CascadeError::Unreachable(name(NodeId(index)))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
