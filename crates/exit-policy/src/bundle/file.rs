//! The JSON of a bundle.
//!
//! Functions name the nodes that they go on to, so that a person can read them.

use serde::{Deserialize, Serialize};

use super::{
    Bundle, BundleError, BundleNode, Expected, FunctionError, OperatingPoint, Reference,
    functions_of_other_nodes,
};
use crate::{
    confidence::{Confidence, Measure},
    evidence::CONFIDENCE_INPUTS,
    policy::{Constant, Decision, Function, Inputs, Linear, Score, Successor, Threshold},
};

/// Version of the format.
const SCHEMA: u32 = 2;

/// What every version of the format has.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleFile {
    schema: u32,
    cascade: String,
    fingerprint: String,
    confidence_inputs: Vec<String>,
    nodes: Vec<NodeFile>,
    reference: ReferenceFile,
    operating_points: Vec<PointFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    name: String,
    successors: Vec<String>,
    feature_width: usize,
    temperature: f32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceFile {
    node: String,
    accuracy: f64,
    seconds: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PointFile {
    name: String,
    price_per_second: f64,
    price_per_byte: f64,
    expected: ExpectedFile,
    functions: Vec<FunctionFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedFile {
    accuracy: f64,
    seconds: f64,
    local_seconds: f64,
    bytes: f64,
    offload_rate: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum FunctionFile {
    Exit {},
    GoOn {
        to: String,
    },
    Threshold {
        measure: Measure,
        at_least: Confidence,
        to: String,
    },
    Linear {
        inputs: Inputs,
        scores: Vec<ScoreFile>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreFile {
    to: String,
    bias: f32,
    weights: Vec<f32>,
}

impl Bundle {
    /// Reads and checks the text of a bundle.
    ///
    /// # Errors
    /// A [`BundleError`] that names what is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        let Version { schema } = serde_json::from_slice(json)?;
        if schema != SCHEMA {
            return Err(BundleError::Schema {
                expected: SCHEMA,
                found: schema,
            });
        }
        let file: BundleFile = serde_json::from_slice(json)?;
        if file.confidence_inputs != CONFIDENCE_INPUTS {
            return Err(BundleError::Inputs {
                expected: CONFIDENCE_INPUTS.map(str::to_owned).to_vec(),
                found: file.confidence_inputs,
            });
        }
        let nodes: Vec<BundleNode> = file
            .nodes
            .into_iter()
            .map(|node| BundleNode {
                name: node.name,
                successors: node.successors,
                feature_width: node.feature_width,
                temperature: node.temperature,
            })
            .collect();
        let points = file
            .operating_points
            .into_iter()
            .map(|point| read_point(point, &nodes));
        let operating_points = points.collect::<Result<Vec<_>, _>>()?;
        Self::try_new(
            file.cascade,
            file.fingerprint,
            nodes,
            Reference {
                node: file.reference.node,
                accuracy: file.reference.accuracy,
                seconds: file.reference.seconds,
            },
            operating_points,
        )
    }

    /// The bundle as JSON.
    pub fn to_json(&self) -> String {
        let points = self.operating_points.iter().map(|point| PointFile {
            name: point.name.clone(),
            price_per_second: point.price_per_second,
            price_per_byte: point.price_per_byte,
            expected: ExpectedFile {
                accuracy: point.expected.accuracy,
                seconds: point.expected.seconds,
                local_seconds: point.expected.local_seconds,
                bytes: point.expected.bytes,
                offload_rate: point.expected.offload_rate,
                agreement: point.expected.agreement,
            },
            functions: point
                .functions
                .iter()
                .zip(&self.nodes)
                .map(|(function, node)| write_function(function, node))
                .collect(),
        });
        let file = BundleFile {
            schema: SCHEMA,
            cascade: self.cascade.clone(),
            fingerprint: self.fingerprint.clone(),
            confidence_inputs: CONFIDENCE_INPUTS.map(str::to_owned).to_vec(),
            nodes: self
                .nodes
                .iter()
                .map(|node| NodeFile {
                    name: node.name.clone(),
                    successors: node.successors.clone(),
                    feature_width: node.feature_width,
                    temperature: node.temperature,
                })
                .collect(),
            reference: ReferenceFile {
                node: self.reference.node.clone(),
                accuracy: self.reference.accuracy,
                seconds: self.reference.seconds,
            },
            operating_points: points.collect(),
        };
        serde_json::to_string(&file).expect("strings and finite numbers are JSON")
    }
}

fn read_point(point: PointFile, nodes: &[BundleNode]) -> Result<OperatingPoint, BundleError> {
    if point.functions.len() != nodes.len() {
        return Err(functions_of_other_nodes(
            &point.name,
            point.functions.len(),
            nodes.len(),
        ));
    }
    let functions = point
        .functions
        .into_iter()
        .zip(nodes)
        .map(|(function, node)| {
            read_function(function, node).map_err(|problem| BundleError::Function {
                node: node.name.clone(),
                point: point.name.clone(),
                problem,
            })
        });
    let functions = functions.collect::<Result<Vec<_>, _>>()?;
    Ok(OperatingPoint {
        functions,
        name: point.name,
        price_per_second: point.price_per_second,
        price_per_byte: point.price_per_byte,
        expected: Expected {
            accuracy: point.expected.accuracy,
            seconds: point.expected.seconds,
            local_seconds: point.expected.local_seconds,
            bytes: point.expected.bytes,
            offload_rate: point.expected.offload_rate,
            agreement: point.expected.agreement,
        },
    })
}

fn read_function(function: FunctionFile, node: &BundleNode) -> Result<Function, FunctionError> {
    let successor = |to: String| {
        let index = node
            .successors
            .iter()
            .position(|successor| *successor == to);
        index.map(Successor).ok_or(FunctionError::Successor(to))
    };
    Ok(match function {
        FunctionFile::Exit {} => Function::EXIT,
        FunctionFile::GoOn { to } => Function::go_to(successor(to)?),
        FunctionFile::Threshold {
            measure,
            at_least,
            to,
        } => Function::Threshold(Threshold {
            measure,
            at_least,
            otherwise: successor(to)?,
        }),
        FunctionFile::Linear { inputs, scores } => {
            let scores = scores.into_iter().map(|score| {
                Ok(Score {
                    to: successor(score.to)?,
                    bias: score.bias,
                    weights: score.weights,
                })
            });
            let scores = scores.collect::<Result<Vec<_>, FunctionError>>()?;
            Function::Linear(Linear::try_new(inputs, node.feature_width, scores)?)
        }
    })
}

fn write_function(function: &Function, node: &BundleNode) -> FunctionFile {
    let name = |to: Successor| node.successors[to.0].clone();
    match function {
        Function::Constant(Constant(Decision::Exit)) => FunctionFile::Exit {},
        Function::Constant(Constant(Decision::GoTo(to))) => FunctionFile::GoOn { to: name(*to) },
        Function::Threshold(threshold) => FunctionFile::Threshold {
            measure: threshold.measure,
            at_least: threshold.at_least,
            to: name(threshold.otherwise),
        },
        Function::Linear(linear) => FunctionFile::Linear {
            inputs: linear.inputs(),
            scores: linear
                .scores()
                .iter()
                .map(|score| ScoreFile {
                    to: name(score.to),
                    bias: score.bias,
                    weights: score.weights.clone(),
                })
                .collect(),
        },
    }
}
