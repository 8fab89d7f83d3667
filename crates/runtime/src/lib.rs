//! Networks: what they want, what they say, and running them.
//!
//! - [`Manifest`] describes a network: its file and digest, its input conventions, its output.
//! - [`ModelFolder`] finds manifests and opens the networks they describe.
//! - [`decode`] turns an encoded image into pixels, within [`ImageLimits`]; [`Preprocessor`] turns
//!   pixels into the tensor that a network wants.
//! - [`Fit`] shrinks an image to what networks elsewhere see of it, and an [`Encoder`] makes it small to send.
//! - [`Runtime`] loads a graph and [`Network`] runs it; [`TractRuntime`] is the one on the CPU, and a [`RuntimeConfig`]
//!   chooses.
//! - [`StagedClassifier`] runs a network stage by stage, so that an answer can leave early.
//! - [`LocalNetworks`] takes an image from exit to exit of the networks that run here.
//! - [`Probabilities`] is what a network said about one image.
//!
//! ```no_run
//! use outpost_runtime::{ImageLimits, ModelFolder, TractRuntime, decode};
//!
//! let classifier = ModelFolder::new("models").open("squeezenet1.0", &TractRuntime::default())?;
//! let image = decode(&std::fs::read("dog.jpg")?, &ImageLimits::default())?;
//! let answer = classifier.classify(&image)?;
//! println!("class {} with {:.2}", answer.top1().class_id, answer.top1().probability);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants: a network that loads matches its manifest's digest, tensors and class count; bytes
//! from outside never panic; nothing here starts a thread but [`Threads::try_new`].

mod choice;
mod classifier;
mod cut;
mod decode;
mod device;
#[cfg(not(target_arch = "wasm32"))]
mod encode;
mod files;
mod fit;
mod folder;
mod labels;
mod local;
mod manifest;
mod metadata;
mod network;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod preprocess;
mod probabilities;
mod resample;
mod spare;
mod staged;
mod tract;

pub use choice::{RuntimeConfig, RuntimeError, RuntimeKind};
pub use classifier::{Classifier, ClassifyError};
pub use decode::{DECODED_FORMATS, DecodeError, ImageLimits, decode};
pub use device::{Device, UnknownDevice};
#[cfg(not(target_arch = "wasm32"))]
pub use encode::{Codec, EncodeError, Encoder, Quality, UnknownEncoder};
pub use files::Digested;
pub use fit::Fit;
pub use folder::{ModelFolder, OpenError, sha256_hex};
pub use image::RgbImage;
pub use labels::Labels;
pub use local::{LocalNetworks, Place, Progress};
pub use manifest::{
    ChannelOrder, ExitSpec, Filter, InputSpec, Manifest, ManifestError, OutputKind, OutputSpec,
    Resize,
};
pub use metadata::without_metadata;
pub use network::{
    ExitOutput, Features, GraphSpec, InferError, LoadError, Network, Runtime, StageSpec,
    StagedNetwork, StagedRun, StagedSpec,
};
#[cfg(feature = "onnxruntime")]
pub use onnxruntime::{OnnxRuntime, OnnxRuntimeConfig, OnnxRuntimeError};
pub use preprocess::{PreprocessError, Preprocessor};
pub use probabilities::{ClassId, ClassProbability, Probabilities};
pub use staged::{Said, StagedClassification, StagedClassifier};
#[cfg(feature = "cuda")]
pub use tract::{CudaError, TractCudaRuntime};
pub use tract::{GraphSummary, TensorSummary, Threads, ThreadsError, TractRuntime};
