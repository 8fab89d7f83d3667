//! The sum of every channel's pixels, as an operator of tract: most of a global average, with which classifiers end.

use tract_onnx::tract_core::{
    internal::*,
    ops::nn::{Reduce, Reducer},
};

use super::session::{self, Writer};

/// The operator, over f32 `[n, channels, ...]`, which gives `[n, channels, 1, ...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PixelSums(());

impl PixelSums {
    /// In the place of tract's; `None` where that reduces other axes of a tensor of this rank, or in another way.
    pub(super) fn of(reduce: &Reduce, rank: usize) -> Option<Self> {
        let is_sum = reduce.reducer == Reducer::Sum;
        let are_pixels = rank > 2 && reduce.axes.iter().copied().eq(2..rank);
        (is_sum && are_pixels).then_some(Self(()))
    }
}

/// The sum, in eight running sums that the compiler makes one vector of.
pub(super) fn sum(values: &[f32]) -> f32 {
    let (eights, rest) = values.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for eight in eights {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

impl Op for PixelSums {
    fn name(&self) -> StaticName {
        "PixelSums".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl Writer for PixelSums {
    fn output_shape(&self, inputs: &[TValue]) -> TVec<usize> {
        let mut shape: TVec<usize> = inputs[0].shape().into();
        shape.iter_mut().skip(2).for_each(|size| *size = 1);
        shape
    }

    fn write(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let input = &inputs[0];
        let pixels = input.shape().iter().skip(2).product();
        if pixels == 0 {
            output.fill(0.0);
            return Ok(());
        }
        let channels = input.try_as_plain_ram()?.as_slice::<f32>()?;
        for (output, channel) in output.iter_mut().zip(channels.chunks_exact(pixels)) {
            *output = sum(channel);
        }
        Ok(())
    }
}

impl EvalOp for PixelSums {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        session::eval(self, &inputs)
    }
}

impl TypedOp for PixelSums {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape.iter_mut().skip(2).for_each(|size| *size = 1.to_dim());
        Ok(tvec!(f32::fact(shape)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduce(axes: &[usize]) -> Reduce {
        Reduce {
            axes: axes.into(),
            reducer: Reducer::Sum,
        }
    }

    #[test]
    fn channels_of_all_sizes_give_what_tracts_operator_gives() {
        for shape in [
            &[1, 3, 7, 7][..],
            &[2, 5, 1, 1],
            &[1, 4, 13],
            &[1, 2, 2, 3, 4],
            &[1, 2, 0, 3],
        ] {
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|i: usize| (i * 7919 % 401) as f32).collect();
            let input = Tensor::from_shape(shape, &values).unwrap().into_tvalue();
            let axes: Vec<usize> = (2..shape.len()).collect();
            let theirs = reduce(&axes);
            let ours = PixelSums::of(&theirs, shape.len()).unwrap();
            let expected = theirs.eval_out_of_plan(tvec!(input.clone()));
            let found = ours.eval_out_of_plan(tvec!(input));
            // Whole numbers, whose sums are exact.
            assert_eq!(
                found.unwrap().unwrap(),
                expected.unwrap().unwrap(),
                "{shape:?}"
            );
        }
    }

    #[test]
    fn other_axes_and_other_reductions_are_tracts() {
        assert!(PixelSums::of(&reduce(&[3]), 4).is_none());
        assert!(PixelSums::of(&reduce(&[1, 2, 3]), 4).is_none());
        assert!(PixelSums::of(&reduce(&[]), 2).is_none());
        let largest = Reduce {
            reducer: Reducer::Max,
            ..reduce(&[2, 3])
        };
        assert!(PixelSums::of(&largest, 4).is_none());
    }
}
