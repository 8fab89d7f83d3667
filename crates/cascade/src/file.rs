//! Cascade files, `models/cascades/*.toml`: which networks, where, which jumps, which policy.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use outpost_exit_policy::{
    Confidence, Constant, Decision, DecisionFunction, Graph, GraphError, Measure, Successor,
    Threshold,
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
    exit: Option<String>,
    site: Site,
    #[serde(default)]
    jumps: Vec<String>,
    policy: Option<PolicyEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum PolicyEntry {
    /// To be learned: a policy bundle decides.
    Learned,
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
    /// Two nodes name one network and exit.
    #[error("the cascade has the node {0:?} twice")]
    Duplicate(String),
    /// A name with a character that names do not have.
    #[error("{0:?} is no name: use letters, digits, '.', '-' and '_'")]
    Name(String),
    /// The exits of a network are at several sites.
    #[error("the network {0:?} is placed at two sites: its exits share one")]
    Torn(String),
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
        let names: Vec<String> = file.nodes.iter().map(node_name).collect::<Result<_, _>>()?;
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
            .zip(&names)
            .map(|(entry, name)| {
                let by = format!("a jump of {name:?}");
                let jumps = entry
                    .jumps
                    .iter()
                    .map(|to| find(&by, to))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Node {
                    policy: policy(name, &entry)?,
                    name: name.clone(),
                    network: entry.network,
                    exit: entry.exit,
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

/// `network`, or `network@exit` for an early exit.
fn node_name(node: &NodeEntry) -> Result<String, CascadeError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let parts = std::iter::once(&node.network).chain(&node.exit);
    let parts: Vec<&str> = parts.map(String::as_str).collect();
    match parts
        .iter()
        .find(|part| part.is_empty() || !part.chars().all(plain))
    {
        Some(part) => Err(CascadeError::Name((*part).to_owned())),
        None => Ok(parts.join("@")),
    }
}

fn policy(name: &str, node: &NodeEntry) -> Result<Option<Arc<dyn DecisionFunction>>, CascadeError> {
    let problem = |problem| CascadeError::Policy {
        network: name.to_owned(),
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
    Ok(Some(match &node.policy {
        None if node.jumps.is_empty() => Arc::new(Constant(Decision::Exit)),
        None => return Err(problem("has jumps and no policy: add one")),
        Some(_) if node.jumps.is_empty() => {
            return Err(problem("has a policy and no jumps: remove the policy"));
        }
        Some(PolicyEntry::Learned) => return Ok(None),
        Some(PolicyEntry::Exit) => Arc::new(Constant(Decision::Exit)),
        Some(PolicyEntry::GoOn { to }) => Arc::new(Constant(Decision::GoTo(successor(to)?))),
        Some(PolicyEntry::Threshold {
            measure,
            at_least,
            to,
        }) => Arc::new(Threshold {
            measure: *measure,
            at_least: *at_least,
            otherwise: successor(to)?,
        }),
    }))
}

fn check(cascade: &Cascade) -> Result<(), CascadeError> {
    let name = |id: NodeId| cascade.node(id).name.clone();
    for (id, node) in cascade.nodes() {
        let torn =
            |(_, other): &(NodeId, &Node)| other.network == node.network && other.site != node.site;
        if cascade.nodes().any(|other| torn(&other)) {
            return Err(CascadeError::Torn(node.network.clone()));
        }
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
    let jumps = cascade
        .nodes
        .iter()
        .map(|node| node.jumps.iter().map(|to| to.0).collect());
    match Graph::try_new(cascade.entry.0, jumps.collect()) {
        Ok(_) => Ok(()),
        Err(GraphError::Circle(index)) => Err(CascadeError::Circle(name(NodeId(index)))),
        Err(GraphError::Unreachable(index)) => Err(CascadeError::Unreachable(name(NodeId(index)))),
        // Every jump was found among the nodes.
        Err(error) => unreachable!("{error}"),
    }
}

#[cfg(test)]
mod tests;
