//! A labelled set as learning sees it: what every node said about every example, column by column.

use crate::{
    evidence::{CONFIDENCE_INPUTS, Evidence, Summary},
    policy::Inputs,
};

/// Rows of equal width, one an example.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    width: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// Takes `values` row by row.
    ///
    /// `None` where they are no whole number of rows, or one is NaN or infinite.
    pub fn new(width: usize, values: Vec<f32>) -> Option<Self> {
        let whole = width > 0 && values.len().is_multiple_of(width);
        (whole && values.iter().all(|value| value.is_finite())).then_some(Self { width, values })
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// A row.
    ///
    /// # Panics
    /// For a row that there is not.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..][..self.width]
    }
}

/// What one node said about every example.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeExamples {
    /// Loss of answering with what the node said, 0 to 1: 0 where it is right, 1 where it is wrong.
    pub loss: Vec<f32>,
    /// The distributions.
    pub summaries: Vec<Summary>,
    /// The pooled features, where there are some.
    pub features: Option<Matrix>,
}

/// What every node said about every example.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    nodes: Vec<Columns>,
    payload_bytes: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq)]
struct Columns {
    said: NodeExamples,
    /// [`Summary::confidence_inputs`] of every example.
    confidence: Matrix,
}

/// Why columns make no examples.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExamplesError {
    /// There is none.
    #[error("there are no examples: give labelled images")]
    Empty,
    /// Columns of different lengths.
    #[error("node {node} has {found} {what} where there are {expected} examples")]
    Length {
        /// The node.
        node: usize,
        /// Which column.
        what: &'static str,
        /// Examples by their payload sizes.
        expected: usize,
        /// Length of the column.
        found: usize,
    },
    /// A loss outside 0 to 1.
    #[error("node {node} has a loss outside 0 to 1")]
    Loss {
        /// The node.
        node: usize,
    },
}

impl Examples {
    /// Checks columns. `payload_bytes` is what sending each example over a link takes.
    ///
    /// # Errors
    /// [`ExamplesError`] where there is nothing, lengths differ or a loss is out of range.
    pub fn try_new(
        nodes: Vec<NodeExamples>,
        payload_bytes: Vec<u32>,
    ) -> Result<Self, ExamplesError> {
        let expected = payload_bytes.len();
        if expected == 0 || nodes.is_empty() {
            return Err(ExamplesError::Empty);
        }
        for (node, said) in nodes.iter().enumerate() {
            let lengths = [
                ("losses", said.loss.len()),
                ("distributions", said.summaries.len()),
                (
                    "rows of features",
                    said.features.as_ref().map_or(expected, Matrix::rows),
                ),
            ];
            if let Some(&(what, found)) = lengths.iter().find(|(_, found)| *found != expected) {
                return Err(ExamplesError::Length {
                    node,
                    what,
                    expected,
                    found,
                });
            }
            if !said.loss.iter().all(|loss| (0.0..=1.0).contains(loss)) {
                return Err(ExamplesError::Loss { node });
            }
        }
        let columns = nodes.into_iter().map(|said| {
            let confidence = Matrix {
                width: CONFIDENCE_INPUTS.len(),
                values: said
                    .summaries
                    .iter()
                    .flat_map(Summary::confidence_inputs)
                    .collect(),
            };
            Columns { said, confidence }
        });
        Ok(Self {
            nodes: columns.collect(),
            payload_bytes,
        })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.payload_bytes.len()
    }

    /// Never: there is at least one example.
    pub fn is_empty(&self) -> bool {
        self.payload_bytes.is_empty()
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// What a node said.
    ///
    /// # Panics
    /// For a node that there is not, as all that take a node or an example.
    pub fn node(&self, node: usize) -> &NodeExamples {
        &self.nodes[node].said
    }

    /// Loss of answering `example` with what `node` said.
    pub fn loss(&self, node: usize, example: usize) -> f32 {
        self.node(node).loss[example]
    }

    /// Bytes of `example` on a link.
    pub fn payload_bytes(&self, example: usize) -> u32 {
        self.payload_bytes[example]
    }

    /// What `node` said about `example`.
    pub fn evidence(&self, node: usize, example: usize) -> Evidence<'_> {
        let said = self.node(node);
        let features = said.features.as_ref();
        Evidence::from(said.summaries[example])
            .with_features(features.map(|features| features.row(example)))
    }

    /// Width of the pooled features of `node`; 0 where it has none.
    pub fn feature_width(&self, node: usize) -> usize {
        self.node(node).features.as_ref().map_or(0, Matrix::width)
    }

    /// The columns that a linear function of `inputs` looks at.
    pub(crate) fn inputs(&self, node: usize, inputs: Inputs) -> Vec<&Matrix> {
        let features = self.node(node).features.as_ref();
        let features = features.filter(|_| inputs == Inputs::Features);
        std::iter::once(&self.nodes[node].confidence)
            .chain(features)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(loss: Vec<f32>, distributions: usize) -> NodeExamples {
        NodeExamples {
            loss,
            summaries: vec![Summary::new(&[0.7, 0.3]).unwrap(); distributions],
            features: None,
        }
    }

    #[test]
    fn columns_that_do_not_fit_are_refused() {
        let refused =
            |nodes, payloads: usize| Examples::try_new(nodes, vec![1; payloads]).unwrap_err();
        assert_eq!(refused(vec![], 3), ExamplesError::Empty);
        assert_eq!(refused(vec![said(vec![], 0)], 0), ExamplesError::Empty);
        let short = refused(vec![said(vec![0.0; 3], 2)], 3);
        assert!(
            short
                .to_string()
                .contains("2 distributions where there are 3")
        );
        for loss in [f32::NAN, -0.5, 2.0] {
            let wrong = refused(vec![said(vec![loss], 1)], 1);
            assert_eq!(wrong, ExamplesError::Loss { node: 0 });
        }
    }

    #[test]
    fn a_matrix_has_whole_rows_of_finite_numbers() {
        assert_eq!(Matrix::new(2, vec![1.0; 3]), None);
        assert_eq!(Matrix::new(0, vec![]), None);
        assert_eq!(Matrix::new(1, vec![f32::NAN]), None);
        let matrix = Matrix::new(2, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((matrix.rows(), matrix.row(1)), (2, &[3.0, 4.0][..]));
    }
}
