//! What runs networks, as a configuration chooses it: the table `[runtime]` of both programs.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    device::Device,
    network::Runtime,
    tract::{Threads, ThreadsError, TractRuntime},
};

/// What runs networks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// Which runtime. Default `tract`.
    pub kind: RuntimeKind,
    /// Where it runs: `cpu`, `cuda`, `cuda:1`, `tensorrt`. Default `cpu`, and for `tract-cuda` the first GPU.
    pub device: Device,
    /// The library of ONNX Runtime. Default what the variable `ORT_DYLIB_PATH` names.
    pub library: Option<PathBuf>,
    /// CPU threads that share a batch, on tract each of its images. Default 1.
    pub threads: usize,
}

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeKind {
    /// Tract on the CPU, built in.
    #[default]
    Tract,
    /// Tract on a GPU; feature `cuda`.
    TractCuda,
    /// ONNX Runtime; feature `onnxruntime`.
    #[serde(rename = "onnxruntime")]
    OnnxRuntime,
}

/// Why a runtime cannot be used. Nothing runs on the CPU that was to run on a GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The program was built without it.
    #[error("this program was built without {kind}: build it with `--features {feature}`")]
    NotBuilt {
        /// The runtime.
        kind: &'static str,
        /// The feature that has it.
        feature: &'static str,
    },
    /// A device that the runtime does not have.
    #[error(
        "`{kind}` runs on {has} and not on {device}: correct `runtime.device` or `runtime.kind`"
    )]
    Device {
        /// The runtime.
        kind: &'static str,
        /// Where it runs.
        has: &'static str,
        /// The device asked for.
        device: Device,
    },
    /// The system gives no threads.
    #[error("`runtime.threads` cannot be had")]
    Threads(#[from] ThreadsError),
    /// ONNX Runtime or its device is missing.
    #[cfg(feature = "onnxruntime")]
    #[error(transparent)]
    OnnxRuntime(#[from] crate::onnxruntime::OnnxRuntimeError),
    /// CUDA is missing.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] crate::tract::CudaError),
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            kind: RuntimeKind::default(),
            device: Device::default(),
            library: None,
            threads: 1,
        }
    }
}

impl RuntimeKind {
    /// Its name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tract => "tract",
            Self::TractCuda => "tract-cuda",
            Self::OnnxRuntime => "onnxruntime",
        }
    }
}

impl RuntimeConfig {
    /// The runtime; `sessions` batches of a network run at a time.
    ///
    /// # Errors
    /// [`RuntimeError`] with what is missing.
    pub fn open(&self, sessions: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
        match self.kind {
            RuntimeKind::Tract => {
                self.check_device("the CPU", &[Device::Cpu])?;
                // As ONNX Runtime has them, for each image that runs at a time; one that runs alone has them all.
                let threads = match self.threads {
                    0 | 1 => Threads::default(),
                    threads => Threads::try_new(threads.saturating_mul(sessions))?,
                };
                Ok(Box::new(TractRuntime::with_threads(threads)))
            }
            RuntimeKind::TractCuda => {
                self.check_device("the first GPU", &[Device::Cpu, Device::Cuda(0)])?;
                tract_cuda()
            }
            RuntimeKind::OnnxRuntime => onnxruntime(self, sessions),
        }
    }

    fn check_device(&self, has: &'static str, devices: &[Device]) -> Result<(), RuntimeError> {
        if devices.contains(&self.device) {
            return Ok(());
        }
        Err(RuntimeError::Device {
            kind: self.kind.as_str(),
            has,
            device: self.device,
        })
    }
}

#[cfg(feature = "cuda")]
fn tract_cuda() -> Result<Box<dyn Runtime>, RuntimeError> {
    Ok(Box::new(crate::tract::TractCudaRuntime::new()?))
}

#[cfg(not(feature = "cuda"))]
fn tract_cuda() -> Result<Box<dyn Runtime>, RuntimeError> {
    Err(not_built(RuntimeKind::TractCuda, "cuda"))
}

#[cfg(feature = "onnxruntime")]
fn onnxruntime(config: &RuntimeConfig, sessions: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
    use crate::onnxruntime::{OnnxRuntime, OnnxRuntimeConfig};
    Ok(Box::new(OnnxRuntime::new(OnnxRuntimeConfig {
        library: config.library.clone(),
        device: config.device,
        sessions,
        threads: config.threads,
    })?))
}

#[cfg(not(feature = "onnxruntime"))]
fn onnxruntime(_: &RuntimeConfig, _: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
    Err(not_built(RuntimeKind::OnnxRuntime, "onnxruntime"))
}

/// The error of a build that lacks a runtime.
#[cfg(any(test, not(all(feature = "onnxruntime", feature = "cuda"))))]
fn not_built(kind: RuntimeKind, feature: &'static str) -> RuntimeError {
    RuntimeError::NotBuilt {
        kind: kind.as_str(),
        feature,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(toml: &str) -> String {
        let config: RuntimeConfig = toml::from_str(toml).unwrap();
        match config.open(1) {
            Ok(runtime) => panic!("{toml} opened {}", runtime.name()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn tract_is_what_runs_where_nothing_is_said() {
        let runtime = RuntimeConfig::default().open(1).unwrap();
        assert_eq!(runtime.name(), "tract");
        assert!(!runtime.version().is_empty());
    }

    #[test]
    fn a_device_that_a_runtime_does_not_have_is_refused() {
        let said = refused("device = \"cuda\"");
        assert!(said.contains("`tract` runs on the CPU"), "{said}");
        let said = refused("kind = \"tract-cuda\"\ndevice = \"cuda:1\"");
        assert!(said.contains("the first GPU"), "{said}");
    }

    #[test]
    fn a_runtime_that_was_not_built_in_names_its_feature() {
        let said = not_built(RuntimeKind::OnnxRuntime, "onnxruntime").to_string();
        assert!(said.contains("--features onnxruntime"), "{said}");
        #[cfg(not(feature = "onnxruntime"))]
        assert_eq!(refused("kind = \"onnxruntime\""), said);
        #[cfg(not(feature = "cuda"))]
        assert!(refused("kind = \"tract-cuda\"").contains("--features cuda"));
    }

    #[cfg(feature = "onnxruntime")]
    #[test]
    fn a_library_that_is_none_is_named() {
        let said = refused("kind = \"onnxruntime\"\nlibrary = \"/no/such/libonnxruntime.so\"");
        // Or another test of this process has loaded one.
        assert!(said.contains("/no/such/libonnxruntime.so"), "{said}");
    }

    #[test]
    fn an_unknown_kind_or_field_is_refused() {
        for (toml, says) in [
            ("kind = \"triton\"", "onnxruntime"),
            ("thread = 2", "threads"),
            ("device = \"gpu\"", "cuda:1"),
        ] {
            let error = toml::from_str::<RuntimeConfig>(toml).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
