//! ONNX Runtime: its library, found when the program runs, on the CPU or on NVIDIA's GPUs.
//!
//! A graph has as many sessions as batches may run at a time, as a session runs one ([`sessions`]). In stages, each has a
//! graph of its own ([`stages`]).

mod sessions;
mod stages;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use ndarray::{Array2, ArrayView4};
use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider, ExecutionProviderDispatch},
    session::{Session, builder::GraphOptimizationLevel},
    value::{TensorElementType, TensorRef, ValueType},
};

use crate::{
    Device,
    network::{GraphSpec, InferError, LoadError, Network, Runtime, StagedNetwork, StagedSpec},
};
use sessions::Sessions;
use stages::OnnxStages;

/// Variable with the path of the library.
const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// One environment a process, as the library has it.
static ENVIRONMENT: OnceLock<Loaded> = OnceLock::new();

/// The library that this process uses.
struct Loaded {
    library: PathBuf,
    version: String,
    environment: Environment,
}

/// How ONNX Runtime runs graphs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnnxRuntimeConfig {
    /// The library, `libonnxruntime.so` or the like; `None` for that of the variable `ORT_DYLIB_PATH`.
    pub library: Option<PathBuf>,
    /// Where graphs run.
    pub device: Device,
    /// Batches of a graph that run at a time.
    pub sessions: usize,
    /// CPU threads that share the work of a batch.
    pub threads: usize,
}

/// Loads graphs into ONNX Runtime.
#[derive(Debug, Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    version: &'static str,
    config: OnnxRuntimeConfig,
}

/// Why ONNX Runtime cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxRuntimeError {
    /// No library is named.
    #[error(
        "no library of ONNX Runtime is named: set `runtime.library` or ORT_DYLIB_PATH to libonnxruntime.so"
    )]
    NoLibrary,
    /// The library cannot be loaded, or is none.
    #[error("cannot load ONNX Runtime from {}: give the path of its library, of version 1.17 or later", path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another library is in use by this process.
    #[error(
        "ONNX Runtime was loaded from {}, and {} is another: name one for all networks, or start the program again to use another",
        loaded.display(), asked.display()
    )]
    OtherLibrary {
        /// The one in use.
        loaded: PathBuf,
        /// The one asked for.
        asked: PathBuf,
    },
    /// The library knows no such device.
    #[error(
        "ONNX Runtime in {} was built without {provider}, which {device} needs: give the library of onnxruntime-gpu",
        library.display()
    )]
    NoProvider {
        /// The library.
        library: PathBuf,
        /// What it lacks.
        provider: &'static str,
        /// The device asked for.
        device: Device,
    },
    /// The device does not work: no driver, no such GPU, a library that is missing.
    #[error(
        "{device} cannot be used: check the driver, the number of the GPU, and the libraries of CUDA and cuDNN"
    )]
    Device {
        /// The device asked for.
        device: Device,
        /// What ONNX Runtime said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl OnnxRuntime {
    /// Loads the library, once a process, and sees that it has the device.
    ///
    /// # Errors
    /// [`OnnxRuntimeError`], which names the library or what is missing for the device.
    pub fn new(config: OnnxRuntimeConfig) -> Result<Self, OnnxRuntimeError> {
        let variable = || std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty());
        let library = config
            .library
            .clone()
            .or_else(|| variable().map(PathBuf::from))
            .ok_or(OnnxRuntimeError::NoLibrary)?;
        let loaded = load(&library)?;
        let runtime = Self {
            environment: loaded.environment.clone(),
            version: &loaded.version,
            config,
        };
        runtime.check_device(&library)?;
        Ok(runtime)
    }

    fn check_device(&self, library: &Path) -> Result<(), OnnxRuntimeError> {
        let device = self.config.device;
        let provider = match device {
            Device::Cpu => return Ok(()),
            Device::Cuda(_) => (!ep::CUDA::is_available().unwrap_or(false)).then_some("CUDA"),
            Device::TensorRt(_) => {
                (!ep::TensorRT::is_available().unwrap_or(false)).then_some("TensorRT")
            }
        };
        if let Some(provider) = provider {
            return Err(OnnxRuntimeError::NoProvider {
                library: library.to_owned(),
                provider,
                device,
            });
        }
        // The provider's own library is loaded, and the driver asked, when a session takes it.
        let taken = Session::builder(&self.environment).and_then(|builder| {
            let builder = builder.with_execution_providers(self.providers());
            builder.map(|_| ()).map_err(Into::into)
        });
        taken.map_err(|source| OnnxRuntimeError::Device {
            device,
            source: source.into(),
        })
    }

    /// Those that a session must have; one that does not work is an error, never the CPU.
    fn providers(&self) -> Vec<ExecutionProviderDispatch> {
        let cuda = |index: u32| {
            // The default tries every algorithm of every convolution at the first batch of each size, which takes
            // seconds, and a service sees new sizes all the time.
            let cuda = ep::CUDA::default()
                .with_device_id(index as i32)
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic);
            cuda.build().error_on_failure()
        };
        match self.config.device {
            Device::Cpu => Vec::new(),
            Device::Cuda(index) => vec![cuda(index)],
            Device::TensorRt(index) => {
                let tensorrt = ep::TensorRT::default().with_device_id(index as i32);
                vec![tensorrt.build().error_on_failure(), cuda(index)]
            }
        }
    }

    fn session(&self, onnx: &[u8]) -> Result<Session, ort::Error> {
        Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.config.threads)?
            .with_execution_providers(self.providers())?
            .commit_from_memory(onnx)
    }

    /// As many sessions of a graph as batches may run at a time, at least one.
    fn sessions(&self, onnx: &[u8]) -> Result<Vec<Session>, LoadError> {
        let first = self.session(onnx).map_err(|error| {
            let is_no_graph = [
                ort::ErrorCode::InvalidProtobuf,
                ort::ErrorCode::NoModel,
                ort::ErrorCode::InvalidGraph,
            ]
            .contains(&error.code());
            match is_no_graph {
                true => LoadError::NotOnnx(error.into()),
                false => LoadError::Unsupported(error.into()),
            }
        })?;
        let mut sessions = vec![first];
        while sessions.len() < self.config.sessions {
            let session = self.session(onnx);
            sessions.push(session.map_err(|error| LoadError::Unsupported(error.into()))?);
        }
        Ok(sessions)
    }
}

/// The library of this process, which is `library` where there is none yet.
fn load(library: &Path) -> Result<&'static Loaded, OnnxRuntimeError> {
    static LOADING: Mutex<()> = Mutex::new(());
    let _loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = ENVIRONMENT.get() {
        if loaded.library != library {
            return Err(OnnxRuntimeError::OtherLibrary {
                loaded: loaded.library.clone(),
                asked: library.to_owned(),
            });
        }
        return Ok(loaded);
    }
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| OnnxRuntimeError::Library {
        path: library.to_owned(),
        source,
    };
    let builder = ort::init_from(library).map_err(|error| failed(error.into()))?;
    let environment = builder
        .with_telemetry(false)
        .build()
        .map_err(|error| failed(error.into()))?;
    Ok(ENVIRONMENT.get_or_init(|| Loaded {
        library: library.to_owned(),
        version: version(library, ort::info()),
        environment,
    }))
}

/// The version in the name of the library's file, once links are followed, and the commit that it says it was built from,
/// such as `1.32.0+fab30a4`: it tells no version to who has loaded it.
fn version(library: &Path, build: &str) -> String {
    let file = library
        .canonicalize()
        .unwrap_or_else(|_| library.to_owned());
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_version = |text: &&str| text.starts_with(|first: char| first.is_ascii_digit());
    let after = name.split_once(".so.").map(|(_, version)| version);
    let version = after.filter(is_version).unwrap_or("unknown");
    let commit = build.split("git-commit-id=").nth(1);
    match commit.and_then(|rest| rest.split([',', ' ']).next()) {
        Some(commit) if !commit.is_empty() => format!("{version}+{commit}"),
        _ => version.to_owned(),
    }
}

impl Runtime for OnnxRuntime {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn version(&self) -> &str {
        self.version
    }

    fn load(&self, onnx: Bytes, spec: &GraphSpec) -> Result<Box<dyn Network>, LoadError> {
        let sessions = self.sessions(&onnx)?;
        check(&sessions[0], spec)?;
        Ok(Box::new(OnnxNetwork {
            spec: spec.clone(),
            sessions: Sessions::new(sessions),
        }))
    }

    fn load_stages(
        &self,
        onnx: Bytes,
        spec: &StagedSpec,
    ) -> Result<Box<dyn StagedNetwork>, LoadError> {
        Ok(Box::new(OnnxStages::load(self, &onnx, spec)?))
    }
}

/// Compares what a graph declares with what it should.
fn check(session: &Session, spec: &GraphSpec) -> Result<(), LoadError> {
    let find = |role, outlets: &[ort::value::Outlet], wanted: &str| {
        let found = outlets.iter().find(|outlet| outlet.name() == wanted);
        found
            .map(|outlet| outlet.dtype().clone())
            .ok_or_else(|| LoadError::NoSuchTensor {
                role,
                wanted: wanted.to_owned(),
                present: outlets.iter().map(|o| o.name().to_owned()).collect(),
            })
    };
    let takes = match find("input", session.inputs(), &spec.input)? {
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            ..
        } => {
            // A size that is not fixed is -1.
            let fits = |(&found, wanted): (&i64, usize)| found < 0 || found == wanted as i64;
            shape.len() == 4 && shape.iter().skip(1).zip(spec.input_shape).all(fits)
        }
        _ => false,
    };
    if !takes {
        let [channels, height, width] = spec.input_shape;
        return Err(LoadError::Unsupported(
            format!(
                "the input {:?} does not take FP32 of the shape [n, {channels}, {height}, {width}]: correct the manifest",
                spec.input
            )
            .into(),
        ));
    }
    let found = match find("output", session.outputs(), &spec.output)? {
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            ..
        } => {
            // All but the batch.
            let dimensions = shape.iter().skip(1);
            dimensions
                .map(|&dimension| usize::try_from(dimension).ok())
                .product::<Option<usize>>()
        }
        _ => None,
    };
    spec.check_classes(found)
}

struct OnnxNetwork {
    spec: GraphSpec,
    sessions: Sessions,
}

impl OnnxNetwork {
    fn run(
        &self,
        session: &mut Session,
        batch: ArrayView4<'_, f32>,
    ) -> Result<Vec<f32>, ort::Error> {
        // A batch that is made here, the usual case, lies as it must already.
        let batch = batch.as_standard_layout();
        let shape = batch.shape().to_vec();
        let values = batch.as_slice().expect("in standard layout");
        let input = TensorRef::from_array_view((shape, values))?;
        let outputs = session.run(ort::inputs![self.spec.input.as_str() => input])?;
        let (_, scores) = outputs[self.spec.output.as_str()].try_extract_tensor::<f32>()?;
        Ok(scores.to_vec())
    }
}

impl Network for OnnxNetwork {
    fn spec(&self) -> &GraphSpec {
        &self.spec
    }

    fn infer(&self, batch: ArrayView4<'_, f32>) -> Result<Array2<f32>, InferError> {
        self.spec.check_batch(batch.shape())?;
        let images = batch.shape()[0];
        let scores = self.sessions.with(|session| self.run(session, batch));
        let scores = scores.map_err(|error| InferError::Runtime(error.into()))?;
        self.spec.rows(images, scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_files_name_and_the_build() {
        let build = "ORT Build Info: git-branch=HEAD, git-commit-id=fab30a4, build type=Release";
        for (file, build, expected) in [
            ("/no/libonnxruntime.so.1.32.0", build, "1.32.0+fab30a4"),
            ("/no/libonnxruntime.so", build, "unknown+fab30a4"),
            ("/no/libonnxruntime.so.1.21", "", "1.21"),
            ("/no/libonnxruntime.so.old", "git-commit-id=", "unknown"),
        ] {
            assert_eq!(version(Path::new(file), build), expected);
        }
    }

    #[test]
    fn a_library_that_is_none_is_named() {
        let config = OnnxRuntimeConfig {
            library: Some(PathBuf::from("/no/such/libonnxruntime.so")),
            device: Device::Cpu,
            sessions: 1,
            threads: 1,
        };
        let error = OnnxRuntime::new(config).unwrap_err();
        assert!(error.to_string().contains("/no/such/"), "{error}");
    }
}
