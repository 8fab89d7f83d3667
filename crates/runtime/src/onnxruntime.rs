//! ONNX Runtime: its library, found when the program runs, on the CPU or on NVIDIA's GPUs.
//!
//! A graph has as many sessions as batches may run at a time, as a session runs one. Staged execution is tract's
//! alone: a session cannot go on from activations that it gave before.

use std::{
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use ndarray::{Array2, ArrayView4};
use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider, ExecutionProviderDispatch},
    session::{Session, builder::GraphOptimizationLevel},
    value::{TensorElementType, TensorRef, ValueType},
};

use crate::{
    Device,
    network::{GraphSpec, InferError, LoadError, Network, Runtime},
};

/// Variable with the path of the library.
const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// One environment a process, as the library has it.
static ENVIRONMENT: OnceLock<(PathBuf, Environment)> = OnceLock::new();

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
    #[error("ONNX Runtime was loaded from {}, and {} is another: name one for all networks", loaded.display(), asked.display())]
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
        let environment = environment(&library)?;
        let runtime = Self {
            environment,
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
}

/// The process's environment, made from `library` where there is none yet.
fn environment(library: &Path) -> Result<Environment, OnnxRuntimeError> {
    static LOADING: Mutex<()> = Mutex::new(());
    let _loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((loaded, environment)) = ENVIRONMENT.get() {
        if loaded != library {
            return Err(OnnxRuntimeError::OtherLibrary {
                loaded: loaded.clone(),
                asked: library.to_owned(),
            });
        }
        return Ok(environment.clone());
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
    // Nobody else sets it while the lock is held.
    let _ = ENVIRONMENT.set((library.to_owned(), environment.clone()));
    Ok(environment)
}

impl Runtime for OnnxRuntime {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn load(&self, onnx: &[u8], spec: &GraphSpec) -> Result<Box<dyn Network>, LoadError> {
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
        check(&first, spec)?;
        let mut sessions = vec![first];
        while sessions.len() < self.config.sessions {
            let session = self.session(onnx);
            sessions.push(session.map_err(|error| LoadError::Unsupported(error.into()))?);
        }
        Ok(Box::new(OnnxNetwork {
            spec: spec.clone(),
            idle: Mutex::new(sessions),
            returned: Condvar::new(),
        }))
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
    /// Sessions that run nothing.
    idle: Mutex<Vec<Session>>,
    returned: Condvar,
}

/// A session in use, which is idle again once this is dropped, whatever became of the batch.
struct Taken<'a> {
    network: &'a OnnxNetwork,
    /// There until the drop.
    session: Option<Session>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut idle = self.network.lock();
        idle.extend(self.session.take());
        self.network.returned.notify_one();
    }
}

impl OnnxNetwork {
    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Taken<'_> {
        let mut idle = self
            .returned
            .wait_while(self.lock(), |idle| idle.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        Taken {
            network: self,
            session: idle.pop(),
        }
    }

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
        let mut taken = self.take();
        let session = taken.session.as_mut().expect("waited until there is one");
        let scores = self.run(session, batch);
        drop(taken);
        let scores = scores.map_err(|error| InferError::Runtime(error.into()))?;
        self.spec.rows(images, scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
