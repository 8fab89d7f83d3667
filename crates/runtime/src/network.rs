//! The traits that every runtime implements.

use ndarray::{Array2, ArrayView4};

use crate::manifest::Manifest;

/// What a runtime must know of a graph to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphSpec {
    /// Name of the input tensor, f32 `[n, channels, height, width]`.
    pub input: String,
    /// Channels, height and width of the input.
    pub input_shape: [usize; 3],
    /// Name of the output tensor, f32, of `classes` elements an image.
    pub output: String,
    /// Number of classes.
    pub classes: usize,
}

impl From<&Manifest> for GraphSpec {
    fn from(manifest: &Manifest) -> Self {
        let size = manifest.input.size as usize;
        Self {
            input: manifest.input.tensor.clone(),
            input_shape: [3, size, size],
            output: manifest.output.tensor.clone(),
            classes: manifest.output.classes,
        }
    }
}

/// Loads graphs.
pub trait Runtime: Send + Sync {
    /// Name of the runtime, such as `"tract"`.
    fn name(&self) -> &'static str;

    /// Loads an ONNX graph and makes it ready to run.
    ///
    /// # Errors
    /// [`LoadError`] when it is not ONNX, lacks a tensor of `spec`, or cannot be run.
    fn load(&self, onnx: &[u8], spec: &GraphSpec) -> Result<Box<dyn Network>, LoadError>;
}

/// A graph that is ready to run. Calls may come from any number of threads.
pub trait Network: Send + Sync {
    /// What the network takes and gives.
    fn spec(&self) -> &GraphSpec;

    /// Runs a batch `[n, channels, height, width]`; gives `[n, classes]`, logits or probabilities as
    /// the graph has it.
    ///
    /// # Errors
    /// [`InferError::Shape`] when the batch does not fit, [`InferError::Runtime`] when the runtime
    /// fails.
    fn infer(&self, batch: ArrayView4<'_, f32>) -> Result<Array2<f32>, InferError>;
}

/// Why a graph did not load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The bytes are not an ONNX model.
    #[error("the file is not an ONNX model")]
    NotOnnx(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The graph lacks a tensor that the manifest names.
    #[error("the graph has no {role} named {wanted:?}; it has {present:?}")]
    NoSuchTensor {
        /// `"input"` or `"output"`.
        role: &'static str,
        /// The name in the manifest.
        wanted: String,
        /// The names in the graph.
        present: Vec<String>,
    },
    /// The graph's output is not one f32 value a class.
    #[error("the graph gives {} where {expected} classes are expected", values(.found))]
    Classes {
        /// As asked for.
        expected: usize,
        /// Values that the graph gives for an image; `None` where their number varies or they are
        /// not f32.
        found: Option<usize>,
    },
    /// The runtime cannot run the graph.
    #[error("the runtime cannot run the graph")]
    Unsupported(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn values(found: &Option<usize>) -> String {
    match found {
        Some(count) => format!("{count} values an image"),
        None => "no fixed number of f32 values an image".to_owned(),
    }
}

/// Why an inference failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// The batch has the wrong shape.
    #[error("the input has shape {found:?} where the network takes [n, {}, {}, {}]", .expected[0], .expected[1], .expected[2])]
    Shape {
        /// Channels, height and width wanted.
        expected: [usize; 3],
        /// The shape given.
        found: Vec<usize>,
    },
    /// The runtime failed.
    #[error("the runtime failed")]
    Runtime(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl GraphSpec {
    /// Checks a batch against the input shape.
    ///
    /// # Errors
    /// [`InferError::Shape`] when it does not fit.
    pub fn check_batch(&self, shape: &[usize]) -> Result<(), InferError> {
        if shape.len() == 4 && shape[1..] == self.input_shape {
            Ok(())
        } else {
            Err(InferError::Shape {
                expected: self.input_shape,
                found: shape.to_vec(),
            })
        }
    }
}
