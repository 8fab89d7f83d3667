//! Tract on another device than the CPU: what it registers by name, asked to run whole batches.

use bytes::Bytes;
use ndarray::{Array2, ArrayView4, Axis};
use tract_onnx::prelude::{
    DatumType, InferenceFact, InferenceModel, InferenceModelExt, TractError, TractResult, tvec,
};
use tract_onnx::tract_core::internal::{Runnable, Runtime as TractDevice, runtime_for_name};
use tract_onnx::tract_hir::internal::{DimLike, ToDim};

use super::{VERSION, select, unsupported};
use crate::network::{GraphSpec, InferError, LoadError, Network, Runtime};

/// Why a device of tract cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "tract cannot use CUDA: it needs NVIDIA's driver and the libraries of CUDA 13 (cuBLAS, NVRTC) on the loader's path"
)]
pub struct CudaError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Loads graphs into tract on a GPU.
#[derive(Debug, Clone, Copy)]
pub struct TractCudaRuntime(DeviceRuntime);

impl TractCudaRuntime {
    /// Finds the driver and the libraries.
    ///
    /// # Errors
    /// [`CudaError`] with what is missing.
    pub fn new() -> Result<Self, CudaError> {
        // Links the crate, which registers the device.
        use tract_cuda as _;
        let device = DeviceRuntime::find("cuda").map_err(|error| CudaError(error.into()))?;
        Ok(Self(device))
    }
}

impl Runtime for TractCudaRuntime {
    fn name(&self) -> &'static str {
        "tract-cuda"
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn load(&self, onnx: Bytes, spec: &GraphSpec) -> Result<Box<dyn Network>, LoadError> {
        self.0.load(onnx, spec)
    }
}

#[derive(Debug, Clone, Copy)]
struct DeviceRuntime {
    device: &'static dyn TractDevice,
}

impl DeviceRuntime {
    fn find(name: &str) -> TractResult<Self> {
        let device = runtime_for_name(name)?
            .ok_or_else(|| TractError::msg(format!("tract has no device {name:?}")))?;
        device.check()?;
        Ok(Self { device })
    }

    fn load(&self, onnx: Bytes, spec: &GraphSpec) -> Result<Box<dyn Network>, LoadError> {
        let model = select(onnx, spec)?;
        let plan = self.prepare(model, spec).map_err(unsupported)?;
        let output = plan.output_fact(0).map_err(unsupported)?;
        let classes = output.shape.iter().skip(1).map(|dim| dim.to_usize().ok());
        let found = classes
            .product::<Option<usize>>()
            .filter(|_| output.datum_type == DatumType::F32);
        spec.check_classes(found)?;
        Ok(Box::new(DeviceNetwork {
            spec: spec.clone(),
            plan,
        }))
    }

    /// For batches of any size.
    fn prepare(
        &self,
        mut model: InferenceModel,
        spec: &GraphSpec,
    ) -> TractResult<Box<dyn Runnable>> {
        let [channels, height, width] = spec.input_shape.map(|size| size.to_dim());
        let batch = model.symbols.sym("N").to_dim();
        let shape = tvec!(batch, channels, height, width);
        model.set_input_fact(0, InferenceFact::dt_shape(DatumType::F32, shape))?;
        let model = model.into_typed()?.into_decluttered()?;
        self.device.prepare(model)
    }
}

struct DeviceNetwork {
    spec: GraphSpec,
    plan: Box<dyn Runnable>,
}

impl Network for DeviceNetwork {
    fn spec(&self) -> &GraphSpec {
        &self.spec
    }

    fn infer(&self, batch: ArrayView4<'_, f32>) -> Result<Array2<f32>, InferError> {
        self.spec.check_batch(batch.shape())?;
        let images = batch.len_of(Axis(0));
        let batch: tract_onnx::prelude::Tensor = batch.to_owned().into();
        let scores = self
            .plan
            .run(tvec!(batch.into()))
            .and_then(|outputs| Ok(outputs[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
            .map_err(|error| InferError::Runtime(error.into()))?;
        self.spec.rows(images, scores)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array4;

    use super::*;
    use crate::{ModelFolder, TractRuntime};

    /// The same path on tract's own device by name, the CPU: what a batch gives is what its images give.
    #[test]
    fn a_batch_on_a_device_by_name_is_its_images_one_by_one() {
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let folder = ModelFolder::new(models);
        let manifest = folder.manifest("cifar10-googlenet").unwrap();
        let onnx = Bytes::from(std::fs::read(folder.weights_path(&manifest)).unwrap());
        let spec = GraphSpec::from(&manifest);
        let cpu = DeviceRuntime::find("cpu").unwrap();
        let network = cpu.load(onnx.clone(), &spec).unwrap();
        let reference = TractRuntime::default().load(onnx, &spec).unwrap();
        for images in [1, 5, 2] {
            let batch = Array4::from_shape_fn((images, 3, 32, 32), |(n, c, y, x)| {
                ((n * 7 + c * 5 + y * 3 + x) % 11) as f32 / 11.0
            });
            let found = network.infer(batch.view()).unwrap();
            let expected = reference.infer(batch.view()).unwrap();
            assert_eq!(found.dim(), (images, 10));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }

    #[test]
    fn without_a_driver_cuda_is_an_error_that_says_what_is_missing() {
        if std::env::var_os("OUTPOST_GPU").is_some() {
            return;
        }
        let error = TractCudaRuntime::new().unwrap_err();
        assert!(error.to_string().contains("driver"), "{error}");
    }
}
