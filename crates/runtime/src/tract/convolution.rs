//! A convolution as an operator of tract, with what follows it in one.

use std::sync::Arc;

use tract_onnx::tract_core::internal::*;

use super::kernel::Kernel;

/// The operator, over f32 `[n, channels, height, width]`; a second input is added before the bounds apply.
#[derive(Debug, Clone)]
pub(super) struct Convolution(Arc<Kernel>);

impl PartialEq for Convolution {
    /// By identity: tract merges operators that are equal, and weights are not worth comparing.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Convolution {}

impl Convolution {
    /// Makes an operator of a kernel.
    pub(super) fn new(kernel: Kernel) -> Self {
        Self(Arc::new(kernel))
    }
}

impl Op for Convolution {
    fn name(&self) -> StaticName {
        "Convolution".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.0.geometry())])
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for Convolution {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let geometry = self.0.geometry();
        let [channels, height, width] = geometry.output;
        let images = inputs[0].shape()[0];
        ensure!(
            inputs[0].shape()[1..] == geometry.input,
            "a convolution of {:?} was given {:?}",
            geometry.input,
            inputs[0].shape()
        );
        let mut output = Tensor::zero::<f32>(&[images, channels, height, width])?;
        let input = inputs[0].try_as_plain_ram()?;
        let input = input
            .as_slice::<f32>()?
            .chunks_exact(geometry.input.iter().product());
        let residual = match inputs.get(1) {
            None => None,
            Some(residual) => Some(residual.try_as_plain_ram()?.as_slice::<f32>()?),
        };
        let len = channels * height * width;
        let mut outputs = output.try_as_plain_ram_mut()?;
        let outputs = outputs.as_slice_mut::<f32>()?.chunks_exact_mut(len);
        for (index, (image, output)) in input.zip(outputs).enumerate() {
            let residual = residual.map(|values| &values[index * len..][..len]);
            self.0.run(image, residual, output);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Convolution {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let geometry = self.0.geometry();
        let mut shape = inputs[0].shape.to_tvec();
        for (size, fixed) in shape[1..].iter_mut().zip(geometry.output) {
            *size = fixed.to_dim();
        }
        Ok(tvec!(f32::fact(shape)))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let geometry = self.0.geometry();
        let weights = geometry.group_inputs() * geometry.kernel.iter().product::<usize>();
        let outputs = geometry.output.iter().product::<usize>();
        let images = inputs[0].shape[0].clone();
        Ok(tvec!((
            Cost::FMA(f32::datum_type()),
            images * (weights * outputs)
        )))
    }
}
