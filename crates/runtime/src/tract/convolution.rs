//! Convolutions as an operator of tract, with what follows them in one.

use std::{iter::zip, mem::discriminant, sync::Arc};

use tract_onnx::tract_core::internal::*;

use super::{
    kernel::{Kernel, Then},
    planes::Geometry,
    session::{self, Writer},
};

/// The operator, over f32 `[n, channels, height, width]`: one convolution, or several whose channels lie one behind the other's.
/// Each has an image, and a residual where it takes one, which is added before the bounds apply.
#[derive(Debug, Clone)]
pub(super) struct Convolution {
    /// One at least, whose outputs have the same height and width.
    branches: Vec<Branch>,
}

#[derive(Debug, Clone)]
struct Branch {
    kernel: Arc<Kernel>,
    with: With,
}

/// What a convolution is computed with.
#[derive(Debug, Clone)]
enum With {
    Nothing,
    /// An input that is added to what leaves.
    Residual,
    /// What follows.
    Then(Then),
}

impl Branch {
    fn followed_by(&self, then: Then) -> Option<Self> {
        let may_be = self.kernel.may_be_followed() && matches!(self.with, With::Nothing);
        may_be.then(|| Self {
            kernel: self.kernel.clone(),
            with: With::Then(then),
        })
    }

    /// Channels, height and width of what leaves.
    fn output(&self) -> [usize; 3] {
        match &self.with {
            With::Then(then) => then.geometry().output,
            With::Nothing | With::Residual => self.kernel.geometry().output,
        }
    }
}

impl PartialEq for Convolution {
    /// By identity: tract merges operators that are equal, and weights are not worth comparing.
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Branch, &Branch)| {
            Arc::ptr_eq(&one.kernel, &other.kernel)
                && discriminant(&one.with) == discriminant(&other.with)
        };
        self.branches.len() == other.branches.len()
            && zip(&self.branches, &other.branches).all(is_same)
    }
}

impl Eq for Convolution {}

impl Convolution {
    /// Makes an operator of a kernel.
    pub(super) fn new(kernel: Kernel, has_residual: bool) -> Self {
        Self {
            branches: vec![Branch {
                kernel: Arc::new(kernel),
                with: match has_residual {
                    true => With::Residual,
                    false => With::Nothing,
                },
            }],
        }
    }

    /// With a convolution of single channels, which alone reads its output; none where that cannot be, or nothing is won by it.
    pub(super) fn then_depthwise(&self, second: &Self) -> Option<Self> {
        let ([first], [second]) = (&self.branches[..], &second.branches[..]) else {
            return None;
        };
        if !second.kernel.geometry().is_depthwise() || !matches!(second.with, With::Nothing) {
            return None;
        }
        let then = Then::depthwise(&second.kernel)?;
        let branches = vec![first.followed_by(then)?];
        Some(Self { branches })
    }

    /// With the maximum over the windows of `geometry`, which alone reads its output; none where that cannot be, or nothing is won
    /// by it.
    pub(super) fn then_largest(&self, geometry: &Geometry) -> Option<Self> {
        let then = |branch: &Branch| {
            let channels = branch.output()[0];
            let [_, height, width] = geometry.input;
            let [_, rows, columns] = geometry.output;
            let then = Then::largest(Geometry {
                groups: channels,
                input: [channels, height, width],
                output: [channels, rows, columns],
                ..geometry.clone()
            });
            branch.followed_by(then?)
        };
        let branches = self.branches.iter().map(then).collect::<Option<_>>()?;
        Some(Self { branches })
    }

    /// One of several, whose inputs follow each other; their outputs have the same height and width.
    pub(super) fn concatenated<'a>(operators: impl IntoIterator<Item = &'a Self>) -> Self {
        let branches = operators.into_iter().flat_map(|one| &one.branches);
        Self {
            branches: branches.cloned().collect(),
        }
    }

    /// Those of its convolutions, and of what follows them.
    fn geometries(&self) -> impl Iterator<Item = &Geometry> {
        self.branches.iter().flat_map(|branch| {
            let then = match &branch.with {
                With::Then(then) => Some(then.geometry()),
                With::Nothing | With::Residual => None,
            };
            [branch.kernel.geometry()].into_iter().chain(then)
        })
    }

    /// Channels, height and width of the output.
    fn output(&self) -> [usize; 3] {
        let [_, height, width] = self.branches[0].output();
        let channels = self.branches.iter().map(|branch| branch.output()[0]);
        [channels.sum(), height, width]
    }
}

impl Op for Convolution {
    fn name(&self) -> StaticName {
        "Convolution".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(self.geometries().map(|one| format!("{one:?}")).collect())
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl Writer for Convolution {
    fn output_shape(&self, inputs: &[TValue]) -> TVec<usize> {
        let [channels, height, width] = self.output();
        tvec!(inputs[0].shape()[0], channels, height, width)
    }

    fn write(&self, inputs: &[TValue], outputs: &mut [f32]) -> TractResult<()> {
        let images = inputs[0].shape()[0];
        let stride = self.output().iter().product();
        let (mut inputs, mut first) = (inputs.iter(), 0);
        for branch in &self.branches {
            let Branch { kernel, with } = branch;
            let geometry = kernel.geometry();
            let image = inputs.next().context("a convolution lacks its image")?;
            ensure!(
                image.shape()[0] == images && image.shape()[1..] == geometry.input,
                "a convolution of {:?} was given {:?}",
                geometry.input,
                image.shape()
            );
            let image = image.try_as_plain_ram()?;
            let image = image
                .as_slice::<f32>()?
                .chunks_exact(geometry.input.iter().product());
            let residual = match with {
                With::Residual => {
                    let residual = inputs.next().context("a convolution lacks its residual")?;
                    Some(residual.try_as_plain_ram()?.as_slice::<f32>()?)
                }
                With::Nothing | With::Then(_) => None,
            };
            let len = branch.output().iter().product();
            let outputs = outputs.chunks_exact_mut(stride);
            for (index, (image, output)) in image.zip(outputs).enumerate() {
                let output = &mut output[first..][..len];
                if let With::Then(then) = with {
                    kernel.run_then(image, then, output);
                } else {
                    let residual = residual.map(|values| &values[index * len..][..len]);
                    kernel.run(image, residual, output);
                }
            }
            first += len;
        }
        Ok(())
    }
}

impl EvalOp for Convolution {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        session::eval(self, &inputs)
    }
}

impl TypedOp for Convolution {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        for (size, fixed) in shape[1..].iter_mut().zip(self.output()) {
            *size = fixed.to_dim();
        }
        Ok(tvec!(f32::fact(shape)))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let products = |geometry: &Geometry| {
            let weights = geometry.group_inputs() * geometry.kernel.iter().product::<usize>();
            weights * geometry.output.iter().product::<usize>()
        };
        let products: usize = self.geometries().map(products).sum();
        let images = inputs[0].shape[0].clone();
        Ok(tvec!((Cost::FMA(f32::datum_type()), images * products)))
    }
}
