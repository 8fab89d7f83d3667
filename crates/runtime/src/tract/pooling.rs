//! The maximum over windows of an image, as an operator of tract.
//!
//! tract's own compares value by value where windows are more than a pixel apart; here a channel is laid
//! out so that what one place of the window meets lies side by side, as for a convolution.

use tract_onnx::tract_core::internal::*;

use super::{
    planes::Geometry,
    session::{self, Writer},
};
use crate::spare::Spare;

/// Pixels whose windows are compared together.
const RUN: usize = 32;
/// What is in the padding: no value is below it.
const PADDING: f32 = f32::MIN;

/// The operator, over f32 `[n, channels, height, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MaxPooling {
    geometry: Geometry,
    /// See [`Geometry::taps`].
    taps: Vec<usize>,
}

/// What is needed on the way: a channel, and what becomes of it.
#[derive(Default)]
struct Scratch {
    planes: Vec<f32>,
    largest: Vec<f32>,
}

static SCRATCH: Spare<Scratch> = Spare::new();

impl MaxPooling {
    /// Takes the windows as the kernel of `geometry`.
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            taps: geometry.taps(),
            geometry,
        }
    }

    /// What it is for.
    #[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Goes through channels of the input and of the output, which begin `output_pitch` values apart.
    pub(super) fn run(&self, input: &[f32], output: &mut [f32], output_pitch: usize) {
        let [_, height, width] = self.geometry.input;
        let [_, rows, columns] = self.geometry.output;
        let (pitch, planes_len) = (self.geometry.pitch(), self.geometry.planes_len());
        let len = (rows * pitch).next_multiple_of(RUN);
        SCRATCH.lend(|Scratch { planes, largest }| {
            planes.clear();
            planes.resize(planes_len + len, PADDING);
            largest.resize(len, PADDING);
            let channels = input.chunks_exact(height * width);
            for (channel, output) in channels.zip(output.chunks_mut(output_pitch)) {
                self.geometry.lay_out(channel, &mut planes[..planes_len]);
                let (runs, _) = largest[..len].as_chunks_mut::<RUN>();
                for (index, run) in runs.iter_mut().enumerate() {
                    let mut most = [PADDING; RUN];
                    for tap in &self.taps {
                        let met: &[f32; RUN] = planes[index * RUN + tap..]
                            .first_chunk()
                            .expect("there is room for a run behind the planes");
                        most = std::array::from_fn(|at| match most[at] < met[at] {
                            true => met[at],
                            false => most[at],
                        });
                    }
                    *run = most;
                }
                let output = output[..rows * columns].chunks_exact_mut(columns);
                for (to, from) in output.zip(largest.chunks(pitch)) {
                    to.copy_from_slice(&from[..columns]);
                }
            }
        });
    }
}

impl Op for MaxPooling {
    fn name(&self) -> StaticName {
        "MaxPooling".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.geometry)])
    }

    op_as_typed_op!();
}

impl Writer for MaxPooling {
    fn output_shape(&self, inputs: &[TValue]) -> TVec<usize> {
        let [channels, rows, columns] = self.geometry.output;
        tvec!(inputs[0].shape()[0], channels, rows, columns)
    }

    fn write(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let input = &inputs[0];
        ensure!(
            input.shape()[1..] == self.geometry.input,
            "windows over {:?} were given {:?}",
            self.geometry.input,
            input.shape()
        );
        let [_, rows, columns] = self.geometry.output;
        let input = input.try_as_plain_ram()?.as_slice::<f32>()?;
        self.run(input, output, rows * columns);
        Ok(())
    }
}

impl EvalOp for MaxPooling {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        session::eval(self, &inputs)
    }
}

impl TypedOp for MaxPooling {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        for (size, fixed) in shape[1..].iter_mut().zip(self.geometry.output) {
            *size = fixed.to_dim();
        }
        Ok(tvec!(f32::fact(shape)))
    }
}

#[cfg(test)]
mod tests;
