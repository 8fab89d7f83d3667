//! Local response normalisation across channels, `x * (bias + alpha / size * s)^-beta`, where `s` is the
//! sum of the squares of `size` neighbouring channels (Krizhevsky et al. 2012, 3.3; ONNX's `LRN`).
//!
//! tract's own walks the channels of one pixel after another and raises every value to a power: half
//! the time of the zoo's AlexNet and Inception. Here a run of pixels goes through the channels together, so
//! that the compiler makes vectors of them, and the usual power, 3/4, is two square roots.

use tract_onnx::tract_core::internal::*;
use tract_onnx_opl::lrn::Lrn;

use super::session::{self, Writer};

/// Pixels that go through the channels together; the rows of a window of five channels stay in the
/// first-level cache.
const RUN: usize = 256;
/// The power of the paper and of the zoo.
const THREE_QUARTERS: f32 = 0.75;

/// The operator, over f32 with the channels in the second dimension.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LocalResponseNormalisation(Lrn);

impl Eq for LocalResponseNormalisation {}

impl LocalResponseNormalisation {
    /// Takes the parameters of tract's own.
    ///
    /// # Errors
    /// For a window of no channels.
    pub(super) fn try_new(lrn: &Lrn) -> TractResult<Self> {
        ensure!(
            lrn.size > 0,
            "local response normalisation over 0 channels: its size must be 1 or more"
        );
        Ok(Self(lrn.clone()))
    }

    /// Normalises one image, `[channels, pixels]`.
    fn normalise(&self, image: &[f32], normalised: &mut [f32], pixels: usize) {
        let Lrn {
            alpha,
            beta,
            bias,
            size,
        } = self.0;
        let scale = alpha / size as f32;
        let channels = image.len() / pixels;
        for start in (0..pixels).step_by(RUN) {
            let width = RUN.min(pixels - start);
            for channel in 0..channels {
                let run =
                    |channel: usize| channel * pixels + start..channel * pixels + start + width;
                // An even window reaches one further up than down.
                let first = channel.saturating_sub((size - 1) / 2);
                let last = (channel + size / 2).min(channels - 1);
                let mut squares = [0.0_f32; RUN];
                for near in first..=last {
                    for (sum, x) in squares.iter_mut().zip(&image[run(near)]) {
                        *sum += x * x;
                    }
                }
                let values = image[run(channel)].iter().zip(&squares);
                let values = values.zip(&mut normalised[run(channel)]);
                if beta == THREE_QUARTERS {
                    for ((x, square), y) in values {
                        let root = (bias + scale * square).sqrt();
                        *y = x / (root * root.sqrt());
                    }
                } else {
                    for ((x, square), y) in values {
                        *y = x / (bias + scale * square).powf(beta);
                    }
                }
            }
        }
    }
}

impl Op for LocalResponseNormalisation {
    fn name(&self) -> StaticName {
        "LocalResponseNormalisation".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl Writer for LocalResponseNormalisation {
    fn output_shape(&self, inputs: &[TValue]) -> TVec<usize> {
        inputs[0].shape().into()
    }

    fn write(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let input = &inputs[0];
        let [_, channels, pixels @ ..] = input.shape() else {
            bail!("no channels in the shape {:?}", input.shape());
        };
        let pixels: usize = pixels.iter().product();
        if input.len() > 0 {
            let images = input.try_as_plain_ram()?;
            let images = images.as_slice::<f32>()?.chunks_exact(channels * pixels);
            for (image, normalised) in images.zip(output.chunks_exact_mut(channels * pixels)) {
                self.normalise(image, normalised, pixels);
            }
        }
        Ok(())
    }
}

impl EvalOp for LocalResponseNormalisation {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        session::eval(self, &inputs)
    }
}

impl TypedOp for LocalResponseNormalisation {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(inputs[0].shape.iter())))
    }
}

#[cfg(test)]
mod tests;
