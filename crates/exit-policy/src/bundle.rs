//! Policy bundles: learned policies for one cascade at several prices of time, as one JSON file.

mod choice;
mod file;
mod goal;

pub use choice::{Choice, lot};
pub use goal::{Goal, GoalError};

use crate::policy::{Function, LinearError};

/// Learned policies for one cascade.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    cascade: String,
    fingerprint: String,
    nodes: Vec<BundleNode>,
    reference: Reference,
    operating_points: Vec<OperatingPoint>,
}

/// A node of the cascade that a bundle was learned for.
#[derive(Debug, Clone, PartialEq)]
pub struct BundleNode {
    /// `network`, or `network@exit`.
    pub name: String,
    /// Names of the nodes that it may go on to.
    pub successors: Vec<String>,
    /// Width of the pooled features that its functions may look at; 0 where there are none.
    pub feature_width: usize,
    /// The temperature that makes its probabilities mean what they say; see [`crate::calibrate`].
    pub temperature: f32,
}

/// The largest network alone, which losses are measured against.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Name of its node.
    pub node: String,
    /// Share of the calibration examples that it gets right.
    pub accuracy: f64,
    /// Seconds that it takes alone, without the nodes before it.
    pub seconds: f64,
}

/// A policy at one price of time.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatingPoint {
    /// Its name in the bundle.
    pub name: String,
    /// The price of a second, in loss from 0 to 1: the paper's γ.
    pub price_per_second: f64,
    /// The price of a byte on a link.
    pub price_per_byte: f64,
    /// What it does, on examples that it was not learned from.
    pub expected: Expected,
    /// One function a node.
    pub functions: Vec<Function>,
}

/// What an operating point does, on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Share of right answers.
    pub accuracy: f64,
    /// Seconds an example.
    pub seconds: f64,
    /// Of these, the seconds until it is sent over a link, or answered where it is not.
    pub local_seconds: f64,
    /// Bytes on links an example.
    pub bytes: f64,
    /// Share of the examples that travel over a link.
    pub offload_rate: f64,
    /// Share of the answers to the others that the largest network agrees with; none where there are no others, or where the
    /// policy was learned before this was noted.
    pub agreement: Option<f64>,
}

impl Expected {
    /// Seconds an example where one that is sent, with so many bytes, costs `offload` seconds, whatever the link was
    /// that the policy was learned for.
    pub fn seconds_at(&self, offload: impl Fn(f64) -> f64) -> f64 {
        if self.offload_rate <= 0.0 {
            return self.local_seconds;
        }
        self.local_seconds + self.offload_rate * offload(self.bytes / self.offload_rate)
    }
}

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It is not JSON, lacks a field or has one too many.
    #[error("the policy bundle does not parse")]
    Parse(#[from] serde_json::Error),
    /// It is of another version of the format.
    #[error(
        "the policy bundle has the schema {found}, this program reads {expected}: learn it again"
    )]
    Schema {
        /// What this program reads.
        expected: u32,
        /// What the bundle has.
        found: u32,
    },
    /// Its functions look at other inputs than this program computes.
    #[error(
        "the policy bundle looks at the inputs {found:?}, this program gives {expected:?}: learn it again"
    )]
    Inputs {
        /// By this program.
        expected: Vec<String>,
        /// By the bundle.
        found: Vec<String>,
    },
    /// It has no node or no operating point, or one twice.
    #[error("the policy bundle {0}")]
    Content(String),
    /// A function is not one of its node.
    #[error("the function of {node:?} at the operating point {point:?}: {problem}")]
    Function {
        /// The node.
        node: String,
        /// The operating point.
        point: String,
        /// What is wrong.
        problem: FunctionError,
    },
    /// A number is NaN, infinite or out of its range.
    #[error("the policy bundle has {value} as {what}")]
    Number {
        /// What the number is.
        what: String,
        /// The number.
        value: f64,
    },
    /// It was learned for another cascade, or for other weights.
    #[error(
        "the policy was learned for the cascade {learned:?}, not for this {cascade:?}, or its \
         networks, sites or jumps have changed since: learn one with `lab learn`"
    )]
    Fingerprint {
        /// The cascade that it was learned for.
        learned: String,
        /// The cascade that it should run.
        cascade: String,
    },
}

/// Why a function does not fit its node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FunctionError {
    /// It leads to a node that the cascade does not lead to from there.
    #[error("it goes on to {0:?}, which is no successor")]
    Successor(String),
    /// Its numbers make no function.
    #[error(transparent)]
    Linear(#[from] LinearError),
}

impl Bundle {
    /// Puts the parts together.
    ///
    /// # Errors
    /// A [`BundleError`] where they do not fit.
    pub fn try_new(
        cascade: String,
        fingerprint: String,
        nodes: Vec<BundleNode>,
        reference: Reference,
        operating_points: Vec<OperatingPoint>,
    ) -> Result<Self, BundleError> {
        let bundle = Self {
            cascade,
            fingerprint,
            nodes,
            reference,
            operating_points,
        };
        bundle.check()?;
        Ok(bundle)
    }

    /// Name of the cascade that it was learned for.
    pub fn cascade(&self) -> &str {
        &self.cascade
    }

    /// The nodes, in the order of the cascade.
    pub fn nodes(&self) -> &[BundleNode] {
        &self.nodes
    }

    /// The largest network alone.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The operating points, the slowest first by the examples they were learned from; after them the
    /// promised one, where there is one.
    pub fn operating_points(&self) -> &[OperatingPoint] {
        &self.operating_points
    }

    /// Checks that the bundle was learned for the cascade with this name and fingerprint, and that it has
    /// its nodes: their names and the names of their successors, in the cascade's order.
    ///
    /// # Errors
    /// [`BundleError::Fingerprint`] where it was not, [`BundleError::Content`] where it was changed since.
    pub fn check_fits<'a>(
        &self,
        cascade: &str,
        fingerprint: &str,
        nodes: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>,
    ) -> Result<(), BundleError> {
        if self.fingerprint != fingerprint {
            return Err(BundleError::Fingerprint {
                learned: self.cascade.clone(),
                cascade: cascade.to_owned(),
            });
        }
        let nodes: Vec<(&str, Vec<&str>)> = nodes.into_iter().collect();
        let same = nodes.len() == self.nodes.len()
            && self
                .nodes
                .iter()
                .zip(&nodes)
                .all(|(own, (name, successors))| {
                    own.name == *name && own.successors == *successors
                });
        match same {
            true => Ok(()),
            false => Err(BundleError::Content(
                "has the fingerprint of the cascade and other nodes: learn it again".to_owned(),
            )),
        }
    }

    fn check(&self) -> Result<(), BundleError> {
        let content = |problem: String| Err(BundleError::Content(problem));
        let names = || self.nodes.iter().map(|node| node.name.as_str());
        let points = || {
            self.operating_points
                .iter()
                .map(|point| point.name.as_str())
        };
        if self.nodes.is_empty() {
            return content("has no node".to_owned());
        }
        if self.operating_points.is_empty() {
            return content("has no operating point".to_owned());
        }
        if let Some(twice) = twice(names()).or_else(|| twice(points())) {
            return content(format!("has {twice:?} twice"));
        }
        if !names().any(|name| name == self.reference.node) {
            return content(format!(
                "measures against {:?}, no node",
                self.reference.node
            ));
        }
        for point in &self.operating_points {
            if point.functions.len() != self.nodes.len() {
                return Err(functions_of_other_nodes(
                    &point.name,
                    point.functions.len(),
                    self.nodes.len(),
                ));
            }
            for (function, node) in point.functions.iter().zip(&self.nodes) {
                if function
                    .successors()
                    .any(|to| to.0 >= node.successors.len())
                {
                    return content(format!(
                        "goes on from {:?} at {:?} to a successor that it lacks",
                        node.name, point.name
                    ));
                }
            }
        }
        for node in &self.nodes {
            if let Some(stranger) = node.successors.iter().find(|to| !names().any(|n| n == *to)) {
                return content(format!(
                    "leads from {:?} to {stranger:?}, no node",
                    node.name
                ));
            }
        }
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let amount = |value: f64| value.is_finite() && value >= 0.0;
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let number = |valid: bool, value: f64, what: &str, of: &str| match valid {
            true => Ok(()),
            false => Err(BundleError::Number {
                what: format!("{what} of {of:?}"),
                value,
            }),
        };
        for node in &self.nodes {
            let temperature = f64::from(node.temperature);
            number(
                positive(temperature),
                temperature,
                "the temperature",
                &node.name,
            )?;
        }
        let Reference {
            accuracy, seconds, ..
        } = self.reference;
        number(
            share(accuracy),
            accuracy,
            "the accuracy",
            &self.reference.node,
        )?;
        number(amount(seconds), seconds, "the time", &self.reference.node)?;
        for point in &self.operating_points {
            let Expected {
                accuracy,
                seconds,
                local_seconds,
                bytes,
                offload_rate,
                agreement,
            } = point.expected;
            for (valid, value, what) in [
                (
                    amount(point.price_per_second),
                    point.price_per_second,
                    "the price of a second",
                ),
                (
                    amount(point.price_per_byte),
                    point.price_per_byte,
                    "the price of a byte",
                ),
                (share(accuracy), accuracy, "the accuracy"),
                (amount(seconds), seconds, "the time"),
                (
                    // Seconds are means of single-precision numbers.
                    (0.0..=seconds * 1.000_01).contains(&local_seconds),
                    local_seconds,
                    "the time before sending",
                ),
                (amount(bytes), bytes, "the bytes"),
                (share(offload_rate), offload_rate, "the offload rate"),
                (
                    agreement.is_none_or(share),
                    agreement.unwrap_or_default(),
                    "the agreement",
                ),
            ] {
                number(valid, value, what, &point.name)?;
            }
        }
        Ok(())
    }
}

fn functions_of_other_nodes(point: &str, functions: usize, nodes: usize) -> BundleError {
    BundleError::Content(format!(
        "has {functions} functions at {point:?} for {nodes} nodes"
    ))
}

/// A name that comes up a second time.
fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = std::collections::BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

#[cfg(test)]
mod tests;
