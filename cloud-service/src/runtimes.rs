//! What runs a network, as the configuration chooses it.

use outpost_runtime::{Device, Runtime, TractRuntime};

use crate::config::{Config, RuntimeConfig, RuntimeKind};

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
    /// ONNX Runtime or its device is missing.
    #[cfg(feature = "onnxruntime")]
    #[error(transparent)]
    OnnxRuntime(#[from] outpost_runtime::OnnxRuntimeError),
    /// CUDA is missing.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] outpost_runtime::CudaError),
}

/// The runtime of a network.
///
/// # Errors
/// [`RuntimeError`] with what is missing.
pub(crate) fn runtime_of(config: &Config, network: &str) -> Result<Box<dyn Runtime>, RuntimeError> {
    let runtime = config.runtime(network);
    let sessions = config.batching(network).instances;
    match runtime.kind {
        RuntimeKind::Tract => {
            check_device(runtime, "the CPU", &[Device::Cpu])?;
            Ok(Box::new(TractRuntime))
        }
        RuntimeKind::TractCuda => {
            check_device(runtime, "the first GPU", &[Device::Cpu, Device::Cuda(0)])?;
            tract_cuda()
        }
        RuntimeKind::OnnxRuntime => onnxruntime(runtime, sessions),
    }
}

fn check_device(
    runtime: &RuntimeConfig,
    has: &'static str,
    devices: &[Device],
) -> Result<(), RuntimeError> {
    if devices.contains(&runtime.device) {
        return Ok(());
    }
    Err(RuntimeError::Device {
        kind: runtime.kind.as_str(),
        has,
        device: runtime.device,
    })
}

#[cfg(feature = "cuda")]
fn tract_cuda() -> Result<Box<dyn Runtime>, RuntimeError> {
    Ok(Box::new(outpost_runtime::TractCudaRuntime::new()?))
}

#[cfg(not(feature = "cuda"))]
fn tract_cuda() -> Result<Box<dyn Runtime>, RuntimeError> {
    Err(RuntimeError::NotBuilt {
        kind: RuntimeKind::TractCuda.as_str(),
        feature: "cuda",
    })
}

#[cfg(feature = "onnxruntime")]
fn onnxruntime(runtime: &RuntimeConfig, sessions: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
    use outpost_runtime::{OnnxRuntime, OnnxRuntimeConfig};
    Ok(Box::new(OnnxRuntime::new(OnnxRuntimeConfig {
        library: runtime.library.clone(),
        device: runtime.device,
        sessions,
        threads: runtime.threads,
    })?))
}

#[cfg(not(feature = "onnxruntime"))]
fn onnxruntime(_: &RuntimeConfig, _: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
    Err(RuntimeError::NotBuilt {
        kind: RuntimeKind::OnnxRuntime.as_str(),
        feature: "onnxruntime",
    })
}
