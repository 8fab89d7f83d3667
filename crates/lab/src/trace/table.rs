//! A trace in memory: what was traced, and its rows column by column.

use outpost_exit_policy::{
    Examples, ExamplesError, Matrix, NodeExamples, Summary, TOP,
    calibrate::{Distribution, Labelled},
};
use serde::{Deserialize, Serialize};

/// What a trace is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSpec {
    /// Version of the format.
    pub(super) schema: u32,
    /// Name of the cascade whose nodes were traced.
    pub cascade: String,
    /// SHA-256 over the names and labels of the images.
    pub images: String,
    /// The processor that the times are of; empty where the system does not tell.
    pub processor: String,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
}

/// A traced node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// `network`, or `network@exit`.
    pub name: String,
    /// The network.
    pub network: String,
    /// Number of its stage in the network among those traced, from 0.
    pub stage: usize,
    /// SHA-256 of the network's weights.
    pub digest: String,
    /// Number of classes.
    pub classes: usize,
    /// How many probabilities are kept.
    pub top: usize,
    /// Width of the pooled features; 0 where none are kept.
    pub feature_width: usize,
}

/// What a node said about every image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeTrace {
    /// The most probable classes, `top` an image, the most probable first.
    pub classes: Vec<u32>,
    /// Their probabilities.
    pub probabilities: Vec<f32>,
    /// H = −Σ p ln p in nats, over all classes.
    pub entropy: Vec<f32>,
    /// Probability of the true class.
    pub label_probability: Vec<f32>,
    /// Seconds from taking up the image in this network, its pre-processing included, to this exit.
    pub seconds: Vec<f32>,
    /// The pooled features, `feature_width` an image.
    pub features: Vec<f32>,
}

/// The rows of a trace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// File names.
    pub files: Vec<String>,
    /// True classes.
    pub labels: Vec<u32>,
    /// Sizes of the encoded images.
    pub payload_bytes: Vec<u32>,
    /// Seconds to decode them.
    pub decode_seconds: Vec<f32>,
    /// What the nodes said, in the order of the specification.
    pub nodes: Vec<NodeTrace>,
}

/// What every node of a cascade said about labelled images.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What it is of.
    pub spec: TraceSpec,
    /// Its rows.
    pub rows: Rows,
}

impl Rows {
    /// None yet, of so many nodes.
    pub fn new(nodes: usize) -> Self {
        Self {
            nodes: vec![NodeTrace::default(); nodes],
            ..Self::default()
        }
    }

    /// Adds the rows of another part.
    pub(super) fn append(&mut self, mut more: Self) {
        self.files.append(&mut more.files);
        self.labels.append(&mut more.labels);
        self.payload_bytes.append(&mut more.payload_bytes);
        self.decode_seconds.append(&mut more.decode_seconds);
        for (node, more) in self.nodes.iter_mut().zip(&mut more.nodes) {
            node.classes.append(&mut more.classes);
            node.probabilities.append(&mut more.probabilities);
            node.entropy.append(&mut more.entropy);
            node.label_probability.append(&mut more.label_probability);
            node.seconds.append(&mut more.seconds);
            node.features.append(&mut more.features);
        }
    }
}

impl Trace {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.rows.files.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.rows.files.is_empty()
    }

    /// Number of the node of that name.
    pub fn node(&self, name: &str) -> Option<usize> {
        self.spec.nodes.iter().position(|node| node.name == name)
    }

    /// Whether `node` is right about `image`.
    pub fn is_right(&self, node: usize, image: usize) -> bool {
        self.class(node, image) == self.rows.labels[image]
    }

    /// The class that `node` takes `image` for.
    pub fn class(&self, node: usize, image: usize) -> u32 {
        let top = self.spec.nodes[node].top;
        self.rows.nodes[node].classes[image * top]
    }

    /// Share of the images that a node is right about.
    pub fn accuracy(&self, node: usize) -> f64 {
        let right = (0..self.len())
            .filter(|&image| self.is_right(node, image))
            .count();
        right as f64 / self.len() as f64
    }

    /// What a node says about its calibration, of some images.
    pub fn labelled(&self, node: usize, images: &[u32]) -> Vec<Labelled<'_>> {
        let (spec, said) = (&self.spec.nodes[node], &self.rows.nodes[node]);
        images
            .iter()
            .map(|&image| {
                let image = image as usize;
                Labelled {
                    said: Distribution {
                        top: &said.probabilities[image * spec.top..][..spec.top],
                        classes: spec.classes,
                    },
                    label_probability: said.label_probability[image],
                    is_right: self.is_right(node, image),
                }
            })
            .collect()
    }

    /// The trace as learning sees it, some of its nodes in the order given.
    ///
    /// # Errors
    /// [`ExamplesError`] where there is nothing to see.
    pub fn examples(&self, nodes: &[usize]) -> Result<Examples, ExamplesError> {
        let columns = nodes.iter().enumerate().map(|(place, &node)| {
            let (spec, said) = (&self.spec.nodes[node], &self.rows.nodes[node]);
            let summaries = (0..self.len()).map(|image| {
                let mut top = [0.0; TOP];
                let kept = spec.top.min(TOP);
                top[..kept].copy_from_slice(&said.probabilities[image * spec.top..][..kept]);
                Summary::from_parts(top, said.entropy[image], spec.classes as u32)
            });
            let summaries = summaries.collect::<Option<Vec<_>>>();
            let features = match spec.feature_width {
                0 => Some(None),
                width => Matrix::new(width, said.features.clone()).map(Some),
            };
            match (summaries, features) {
                (Some(summaries), Some(features)) => Ok(NodeExamples {
                    loss: (0..self.len())
                        .map(|image| f32::from(u8::from(!self.is_right(node, image))))
                        .collect(),
                    summaries,
                    features,
                }),
                // Reading has checked both.
                _ => Err(ExamplesError::Loss { node: place }),
            }
        });
        Examples::try_new(
            columns.collect::<Result<_, _>>()?,
            self.rows.payload_bytes.clone(),
        )
    }
}
