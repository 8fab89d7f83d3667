//! What is measured: a network of the model folder, or any ONNX file that takes one image.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use outpost_runtime::{
    Classifier, GraphSpec, GraphSummary, LoadError, ModelFolder, Network, Preprocessor, Runtime,
    TensorSummary, TractRuntime,
};

use super::{BenchArgs, BenchError};

/// Channels where the file leaves them free: an RGB image.
const USUAL_CHANNELS: usize = 3;

/// A loaded network and what is known of it.
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) file_bytes: u64,
    /// From the file on disk to ready, its digest included where a manifest states one.
    pub(super) load_time: Duration,
    pub(super) multiply_adds: Option<u64>,
    pub(super) preprocessor: Option<Preprocessor>,
    pub(super) network: Box<dyn Network>,
}

impl Subject {
    /// Loads a file where the name is one, a network of the model folder otherwise.
    pub(super) fn load(args: &BenchArgs, runtime: &TractRuntime) -> Result<Self, BenchError> {
        let path = Path::new(&args.subject);
        let is_file = path
            .extension()
            .is_some_and(|extension| extension == "onnx")
            || path.components().count() > 1
            || path.is_file();
        if is_file {
            Self::load_file(path, args, runtime)
        } else {
            Self::load_network(&args.subject, args, runtime)
        }
    }

    fn load_network(
        name: &str,
        args: &BenchArgs,
        runtime: &TractRuntime,
    ) -> Result<Self, BenchError> {
        let folder = ModelFolder::new(&args.models);
        let start = Instant::now();
        let classifier = folder.open(name, runtime)?;
        let load_time = start.elapsed();
        let manifest = classifier.manifest();
        Ok(Self {
            name: manifest.name.clone(),
            description: Some(manifest.description.clone()),
            file_bytes: manifest.bytes,
            load_time,
            multiply_adds: Some(manifest.multiply_adds),
            preprocessor: Some(classifier.preprocessor().clone()),
            network: Box::new(Opened(classifier)),
        })
    }

    fn load_file(
        path: &Path,
        args: &BenchArgs,
        runtime: &TractRuntime,
    ) -> Result<Self, BenchError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source: io::Error| BenchError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let load = |source| BenchError::Load {
            path: path.to_owned(),
            source,
        };
        let spec = graph_spec(path, read(path)?, args, runtime)?;
        let start = Instant::now();
        let onnx = read(path)?;
        let file_bytes = onnx.len() as u64;
        let network = runtime.load(onnx.into(), &spec).map_err(load)?;
        Ok(Self {
            name: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into(),
            description: None,
            file_bytes,
            load_time: start.elapsed(),
            multiply_adds: None,
            preprocessor: None,
            network,
        })
    }
}

/// A classifier as the network inside it.
struct Opened(Classifier);

impl Network for Opened {
    fn spec(&self) -> &GraphSpec {
        self.0.network().spec()
    }

    fn infer(
        &self,
        batch: ndarray::ArrayView4<'_, f32>,
    ) -> Result<ndarray::Array2<f32>, outpost_runtime::InferError> {
        self.0.network().infer(batch)
    }
}

/// How to run a graph of which only its own declarations are known.
fn graph_spec(
    path: &Path,
    onnx: Vec<u8>,
    args: &BenchArgs,
    runtime: &TractRuntime,
) -> Result<GraphSpec, BenchError> {
    let path = || PathBuf::from(path);
    let load = |source| BenchError::Load {
        path: path(),
        source,
    };
    let summary = runtime.summarise(&onnx).map_err(load)?;
    let [input] = &*summary.inputs else {
        return Err(not_an_image(path(), &summary));
    };
    let [_, channels, height, width] = *input.shape else {
        return Err(not_an_image(path(), &summary));
    };
    let side = |declared: Option<usize>| {
        declared
            .or(args.size.map(usize::from))
            .ok_or_else(|| BenchError::FreeSize { path: path() })
    };
    let output = summary
        .outputs
        .first()
        .ok_or_else(|| BenchError::NoOutput { path: path() })?;
    let declared = args
        .classes
        .map(usize::from)
        .or_else(|| values_per_image(output));
    let mut spec = GraphSpec {
        input: input.name.clone(),
        input_shape: [
            channels.unwrap_or(USUAL_CHANNELS),
            side(height)?,
            side(width)?,
        ],
        output: output.name.clone(),
        classes: declared.unwrap_or(0),
    };
    if declared.is_none() {
        // Most graphs declare no output shape; the runtime works it out when it loads, and says so
        // on refusing the 0 classes asked for.
        spec.classes = match runtime.load(onnx.into(), &spec) {
            Err(LoadError::Classes { found, .. }) => found,
            Err(source) => return Err(load(source)),
            Ok(_) => None,
        }
        .ok_or_else(|| BenchError::FreeOutput {
            path: path(),
            output: output.name.clone(),
        })?;
    }
    Ok(spec)
}

/// Values an image in a tensor whose first dimension is the batch.
fn values_per_image(tensor: &TensorSummary) -> Option<usize> {
    let (_batch, rest) = tensor.shape.split_first()?;
    rest.iter().copied().product()
}

fn not_an_image(path: PathBuf, summary: &GraphSummary) -> BenchError {
    let shape = |tensor: &TensorSummary| {
        let dimensions: Vec<String> = tensor
            .shape
            .iter()
            .map(|dimension| dimension.map_or("?".to_owned(), |size| size.to_string()))
            .collect();
        format!("{} [{}]", tensor.name, dimensions.join(", "))
    };
    let inputs: Vec<String> = summary.inputs.iter().map(shape).collect();
    BenchError::NotAnImage {
        path,
        found: if inputs.is_empty() {
            "none".to_owned()
        } else {
            inputs.join(", ")
        },
    }
}
