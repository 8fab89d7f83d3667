//! Running a graph in memory that is kept from image to image.
//!
//! tract's executor has every operator allocate its output. Where only our operators read one of ours, it is given a piece of memory
//! in which others' outputs lie before and after it (docs/decisions/013-kept-activations.md).

#![allow(
    unsafe_code,
    reason = "tract gives a tensor another length only unchecked"
)]

use std::sync::Arc;

use tract_onnx::tract_core::{internal::*, plan};

#[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
use super::convolution::Convolution;
use super::{lrn::LocalResponseNormalisation, pooling::MaxPooling, sums::PixelSums};

/// A graph that is ready to run.
pub(super) struct Plan {
    runnable: Arc<TypedRunnableModel>,
    /// Of every node, whether only our operators read its output, which may lie in more memory than it needs: they look at its shape.
    is_ours_alone: Vec<bool>,
}

/// Where the plans of a network run, one run after another. Plans have numbers.
#[derive(Default)]
pub(super) struct Session {
    /// tract's, of each plan that has run.
    states: Vec<Option<TypedSimpleState>>,
    memory: Memory,
}

impl Plan {
    /// Makes a graph with one input ready.
    ///
    /// # Errors
    /// Where tract cannot order it.
    pub(super) fn new(model: TypedModel) -> TractResult<Self> {
        let is_ours_alone = |node: &TypedNode| {
            let leaves = model.outputs.iter().any(|output| output.node == node.id);
            let mut readers = node.outputs.iter().flat_map(|outlet| &outlet.successors);
            !leaves && readers.all(|reader| writer(model.node(reader.node)).is_some())
        };
        Ok(Self {
            is_ours_alone: model.nodes.iter().map(is_ours_alone).collect(),
            runnable: model.into_runnable()?,
        })
    }

    /// The graph.
    pub(super) fn model(&self) -> &TypedModel {
        self.runnable.model()
    }
}

impl Session {
    /// The input of a plan, which `fill` writes, whatever was there before. It is for that plan alone.
    ///
    /// # Errors
    /// Where no memory can be as large as `shape`.
    pub(super) fn input(
        &mut self,
        plan: &Plan,
        shape: &[usize],
        fill: impl FnOnce(&mut [f32]),
    ) -> TractResult<TValue> {
        let write = |input: &mut [f32]| {
            fill(input);
            Ok(())
        };
        match plan.is_ours_alone[plan.model().inputs[0].node] {
            true => self.memory.write(shape, write),
            false => tensor(shape, write),
        }
    }

    /// Runs the plan with a `number` and gives its outputs.
    ///
    /// # Errors
    /// Those of its operators.
    pub(super) fn run(
        &mut self,
        number: usize,
        plan: &Plan,
        input: TValue,
    ) -> TractResult<TVec<TValue>> {
        if self.states.len() <= number {
            self.states.resize_with(number + 1, || None);
        }
        // Where a run ends halfway, what is left of it goes with the state.
        let kept = self.states[number].take();
        let mut state = match kept.filter(|state| Arc::ptr_eq(state.plan(), &plan.runnable)) {
            Some(state) => state,
            None => plan.runnable.spawn()?,
        };
        let memory = &mut self.memory;
        let outputs =
            state.run_plan_with_eval(tvec!(input), |context, op_state, node, inputs| {
                let ours = writer(node).filter(|_| plan.is_ours_alone[node.id]);
                let Some(ours) = ours else {
                    return plan::eval(context, op_state, node, inputs);
                };
                let shape = ours.output_shape(&inputs);
                let output = memory.write(&shape, |output| ours.write(&inputs, output));
                Ok(tvec!(output.with_context(|| format!("Evaluating {node}"))?))
            })?;
        // An operator that remembers must not remember another image.
        if state.op_states.iter().all(Option::is_none) {
            self.states[number] = Some(state);
        }
        Ok(outputs)
    }
}

/// Tensors of f32 that are used again once nobody else has them.
#[derive(Default)]
struct Memory(Vec<Piece>);

struct Piece {
    tensor: Arc<Tensor>,
    /// Values that it has room for; its shape may have fewer.
    room: usize,
}

impl Memory {
    /// Has `write` write a tensor of `shape`, in a piece that may hold anything. Only our operators may read it.
    fn write(
        &mut self,
        shape: &[usize],
        write: impl FnOnce(&mut [f32]) -> TractResult<()>,
    ) -> TractResult<TValue> {
        let mut piece = self.take(shape)?;
        let tensor = Arc::get_mut(&mut piece.tensor).context("a free piece has owners")?;
        // SAFETY: it was made of f32, with room for at least as many as `shape` has. tract copies a tensor with all of its
        // memory into one as long as its shape says, and so must never copy this: only our operators read it, which take the
        // values of its shape, and tract itself compares shapes and passes it on.
        unsafe { tensor.set_shape_unchecked(shape) };
        write(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
        let tensor = piece.tensor.clone();
        self.0.push(piece);
        Ok(TValue::from_const(tensor))
    }

    /// The smallest free piece with room for `shape`, taken out; where there is none, a new one in place of the largest that is free.
    fn take(&mut self, shape: &[usize]) -> TractResult<Piece> {
        let len = shape.iter().product();
        let is_free = |index: &usize| Arc::strong_count(&self.0[*index].tensor) == 1;
        let nearest = (0..self.0.len()).filter(is_free).min_by_key(|&index| {
            let room = self.0[index].room;
            (room < len, room.abs_diff(len))
        });
        if let Some(index) = nearest {
            let piece = self.0.swap_remove(index);
            if piece.room >= len {
                return Ok(piece);
            }
        }
        Ok(Piece {
            tensor: Tensor::zero::<f32>(shape)?.into_arc_tensor(),
            room: len,
        })
    }
}

/// An operator that writes its one output, of f32, into memory that it is given.
pub(super) trait Writer {
    /// The shape of its output.
    fn output_shape(&self, inputs: &[TValue]) -> TVec<usize>;

    /// Writes the output, whatever was there before.
    ///
    /// # Errors
    /// Where the inputs are not what the operator is for.
    fn write(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()>;
}

/// The output of a writer in a tensor of its own.
pub(super) fn eval(writer: &dyn Writer, inputs: &[TValue]) -> TractResult<TVec<TValue>> {
    let output = tensor(&writer.output_shape(inputs), |output| {
        writer.write(inputs, output)
    })?;
    Ok(tvec!(output))
}

/// A tensor of its own.
fn tensor(
    shape: &[usize],
    write: impl FnOnce(&mut [f32]) -> TractResult<()>,
) -> TractResult<TValue> {
    let mut tensor = Tensor::zero::<f32>(shape)?;
    write(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
    Ok(tensor.into_tvalue())
}

/// The operator of a node, where it is one of ours.
pub(super) fn writer(node: &TypedNode) -> Option<&dyn Writer> {
    #[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
    if let Some(op) = node.op_as::<Convolution>() {
        return Some(op);
    }
    if let Some(op) = node.op_as::<MaxPooling>() {
        return Some(op);
    }
    if let Some(op) = node.op_as::<LocalResponseNormalisation>() {
        return Some(op);
    }
    let op = node.op_as::<PixelSums>()?;
    Some(op)
}

#[cfg(test)]
mod tests;
