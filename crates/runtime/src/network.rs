//! The traits that every runtime implements.

use bytes::Bytes;
use ndarray::{Array2, ArrayView4, ArrayViewMut3, Axis};

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

/// What a runtime must know of a graph to run it stage by stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedSpec {
    /// Name of the input tensor, f32 `[1, channels, height, width]`.
    pub input: String,
    /// Channels, height and width of the input.
    pub input_shape: [usize; 3],
    /// Number of classes, the same at every exit.
    pub classes: usize,
    /// The stages, first to last.
    pub stages: Vec<StageSpec>,
}

/// A part of a graph that ends in an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSpec {
    /// Name of the tensor that answers, f32 of `classes` elements.
    pub logits: String,
    /// Name of the tensor of features, f32, where they are wanted.
    pub features: Option<String>,
    /// Name of the tensor that the next stage takes; `None` for the last.
    pub activations: Option<String>,
}

/// Whether an exit also gives the features that policies may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// Scores alone.
    Omit,
    /// The features too, where the manifest names them.
    Give,
}

impl StagedSpec {
    /// The stages of a network that may stop at the early exits `exits` and at its end; exits that are
    /// not named are computed by nobody.
    pub fn new(manifest: &Manifest, exits: &[&str], features: Features) -> Self {
        let size = manifest.input.size as usize;
        let features = |name: &Option<String>| match features {
            Features::Omit => None,
            Features::Give => name.clone(),
        };
        let early = manifest
            .exits
            .iter()
            .filter(|exit| exits.contains(&exit.name.as_str()))
            .map(|exit| StageSpec {
                logits: exit.logits.clone(),
                features: features(&exit.features),
                activations: Some(exit.activations.clone()),
            });
        let end = StageSpec {
            logits: manifest.output.tensor.clone(),
            features: features(&manifest.output.features),
            activations: None,
        };
        Self {
            input: manifest.input.tensor.clone(),
            input_shape: [3, size, size],
            classes: manifest.output.classes,
            stages: early.chain([end]).collect(),
        }
    }
}

impl StageSpec {
    /// What the graph of a stage gives: the scores, the features where they are wanted, and the activations unless it is
    /// the last.
    pub(crate) fn outputs(&self) -> Vec<&str> {
        let names = [
            Some(&self.logits),
            self.features.as_ref(),
            self.activations.as_ref(),
        ];
        names.into_iter().flatten().map(String::as_str).collect()
    }
}

/// The width of a vector: one dimension, whatever else has the size 1.
pub(crate) fn vector_width(shape: &[usize]) -> Option<usize> {
    let dimensions = shape.iter().filter(|&&size| size != 1).count();
    (dimensions <= 1).then(|| shape.iter().product())
}

/// Loads graphs.
pub trait Runtime: Send + Sync {
    /// Name of the runtime, such as `"tract"`.
    fn name(&self) -> &'static str;

    /// Its version, such as `"0.23.9"`.
    fn version(&self) -> &str;

    /// Loads an ONNX graph and makes it ready to run. The file is let go as soon as the runtime can.
    ///
    /// # Errors
    /// [`LoadError`] when it is not ONNX, lacks a tensor of `spec`, or cannot be run.
    fn load(&self, onnx: Bytes, spec: &GraphSpec) -> Result<Box<dyn Network>, LoadError>;

    /// Loads an ONNX graph cut into stages and makes each ready to run, as [`Runtime::load`] does. A runtime need
    /// not be able to.
    ///
    /// # Errors
    /// [`LoadError`] when it is not ONNX, lacks a tensor of `spec`, cannot be cut where `spec` says, or
    /// cannot be run.
    fn load_stages(
        &self,
        _onnx: Bytes,
        _spec: &StagedSpec,
    ) -> Result<Box<dyn StagedNetwork>, LoadError> {
        let words = "does not run networks stage by stage: use tract for cascades";
        Err(LoadError::Unsupported(
            format!("{} {words}", self.name()).into(),
        ))
    }
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

/// A graph in stages that is ready to run, image by image.
pub trait StagedNetwork: Send + Sync {
    /// Width of the features at each exit, in the order of the stages; `None` where there are none.
    fn feature_widths(&self) -> &[Option<usize>];

    /// Takes up an image: calls `fill` once, to write it to where the first stage reads it, `[channels, height, width]`;
    /// before, there may be anything. Nothing is computed yet.
    ///
    /// # Errors
    /// [`InferError::Runtime`] when the runtime fails.
    fn start(
        &self,
        fill: &mut dyn FnMut(ArrayViewMut3<'_, f32>),
    ) -> Result<Box<dyn StagedRun>, InferError>;

    /// Takes up a copy of an image `[1, channels, height, width]`.
    ///
    /// # Errors
    /// [`InferError::Shape`] when it does not fit, and those of [`StagedNetwork::start`].
    fn start_with(&self, image: ArrayView4<'_, f32>) -> Result<Box<dyn StagedRun>, InferError> {
        let mut fits = Ok(());
        let run = self.start(&mut |mut input| {
            let expected = <[usize; 3]>::try_from(input.shape()).expect("three dimensions");
            if image.shape()[0] == 1 && image.shape()[1..] == expected {
                input.assign(&image.index_axis(Axis(0), 0));
            } else {
                let found = image.shape().to_vec();
                fits = Err(InferError::Shape { expected, found });
            }
        })?;
        fits.map(|()| run)
    }
}

/// One image on its way through the stages. It keeps the activations that the next stage takes.
pub trait StagedRun: Send {
    /// Runs the next stage.
    ///
    /// # Errors
    /// [`InferError::Finished`] after the last stage, [`InferError::Runtime`] when the runtime fails.
    fn advance(&mut self) -> Result<ExitOutput, InferError>;
}

/// What leaves at an exit.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitOutput {
    /// A value for every class, logits or probabilities as the graph has it.
    pub scores: Vec<f32>,
    /// The features, where the [`StageSpec`] names them.
    pub features: Option<Vec<f32>>,
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
    /// No node gives a tensor that the manifest names.
    #[error("no node of the graph gives the tensor {0:?}: correct the manifest")]
    NotComputed(String),
    /// An output of the graph is not one f32 value a class.
    #[error("the tensor {tensor:?} has {} where {expected} classes are expected", values(.found))]
    Classes {
        /// Name of the output.
        tensor: String,
        /// As asked for.
        expected: usize,
        /// Values that it has for an image; `None` where their number varies or they are
        /// not f32.
        found: Option<usize>,
    },
    /// A stage needs more than the activations that it is given: a shortcut goes around them, or the
    /// manifest names the exits out of order.
    #[error("the graph cannot be cut at {activations:?}: what follows also needs {also:?}")]
    Cut {
        /// Where the stage should begin.
        activations: String,
        /// The input of the graph from which the rest comes.
        also: String,
    },
    /// The features of an exit are no vector.
    #[error("the features {0:?} are not a vector of f32 values: name a pooled tensor, [n, width]")]
    Features(String),
    /// A stage cannot begin with the activations that the manifest names.
    #[error("the activations {0:?} are not f32 of a fixed shape: cut the graph elsewhere")]
    Activations(String),
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
    /// The last stage has run already.
    #[error("the network has no further stage")]
    Finished,
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

    /// Compares the classes that a graph declares, `None` where it does not say or gives no f32, with those asked for.
    pub(crate) fn check_classes(&self, found: Option<usize>) -> Result<(), LoadError> {
        if found == Some(self.classes) {
            return Ok(());
        }
        Err(LoadError::Classes {
            tensor: self.output.clone(),
            expected: self.classes,
            found,
        })
    }

    /// What a graph gave for so many images, `[images, classes]`.
    #[cfg(any(feature = "onnxruntime", feature = "cuda"))]
    pub(crate) fn rows(&self, images: usize, scores: Vec<f32>) -> Result<Array2<f32>, InferError> {
        let found = scores.len();
        Array2::from_shape_vec((images, self.classes), scores).map_err(|_| {
            let expected = images * self.classes;
            InferError::Runtime(format!("it gave {found} scores and not {expected}").into())
        })
    }
}
