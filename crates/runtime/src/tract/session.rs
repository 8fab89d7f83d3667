//! Running a graph in memory that is kept from image to image.
//!
//! tract's executor has every operator allocate its output. Ours are given theirs: where nobody but our operators reads an
//! output, in pieces that others' outputs lie in before and after it, and otherwise in one of exactly its length.

#![allow(
    unsafe_code,
    reason = "tract gives a tensor another length only unchecked"
)]

use std::{iter, sync::Arc};

use tract_onnx::tract_core::{internal::*, plan};

#[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
use super::convolution::Convolution;
use super::{lrn::LocalResponseNormalisation, pooling::MaxPooling, sums::PixelSums};

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

/// What a writer gives where tract asks it, in a tensor of its own.
pub(super) fn eval(writer: &impl Writer, inputs: &[TValue]) -> TractResult<TVec<TValue>> {
    let mut output = Tensor::zero::<f32>(&writer.output_shape(inputs))?;
    writer.write(
        inputs,
        output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
    )?;
    Ok(tvec!(output.into_tvalue()))
}

fn writer(node: &TypedNode) -> Option<&dyn Writer> {
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

/// A graph that is ready to run.
pub(super) struct Plan {
    runnable: Arc<TypedRunnableModel>,
    /// For every node where its output may lie.
    places: Vec<Place>,
}

/// Where an output may lie.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// In more memory than it needs: all who read it look at its shape.
    Shared,
    /// In memory of its length.
    Exact,
}

/// One run after another of the plans of a network, which have numbers.
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
        let is_ours = |reader: &InletId| writer(model.node(reader.node)).is_some();
        let place = |node: &TypedNode| {
            let leaves = model.outputs.iter().any(|output| output.node == node.id);
            let mut readers = node.outputs.iter().flat_map(|outlet| &outlet.successors);
            match !leaves && readers.all(is_ours) {
                true => Place::Shared,
                false => Place::Exact,
            }
        };
        Ok(Self {
            places: model.nodes.iter().map(place).collect(),
            runnable: model.into_runnable()?,
        })
    }

    /// The graph.
    pub(super) fn model(&self) -> &TypedModel {
        self.runnable.model()
    }
}

impl Session {
    /// The input of a plan, which `fill` writes, whatever was there before.
    ///
    /// # Errors
    /// Where there is no memory for `shape`.
    pub(super) fn input(
        &mut self,
        plan: &Plan,
        shape: &[usize],
        fill: impl FnOnce(&mut [f32]),
    ) -> TractResult<TValue> {
        let place = plan.places[plan.model().inputs[0].node];
        self.memory.write(place, shape, |input| {
            fill(input);
            Ok(())
        })
    }

    /// Runs `plan`, always the same for a `number`, and gives its outputs.
    ///
    /// # Errors
    /// Those of its operators.
    pub(super) fn run(
        &mut self,
        number: usize,
        plan: &Plan,
        input: TValue,
    ) -> TractResult<TVec<TValue>> {
        let missing = (number + 1).saturating_sub(self.states.len());
        self.states.extend(iter::repeat_n(None, missing));
        // Where a run ends halfway, what is left of it goes with the state.
        let mut state = match self.states[number].take() {
            Some(state) => state,
            None => plan.runnable.spawn()?,
        };
        let memory = &mut self.memory;
        let outputs =
            state.run_plan_with_eval(tvec!(input), |context, op_state, node, inputs| {
                let Some(writer) = writer(node) else {
                    return plan::eval(context, op_state, node, inputs);
                };
                let shape = writer.output_shape(&inputs);
                let place = plan.places[node.id];
                let output = memory.write(place, &shape, |output| writer.write(&inputs, output));
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
struct Memory {
    shared: Vec<Piece>,
    exact: Vec<Arc<Tensor>>,
}

struct Piece {
    tensor: Arc<Tensor>,
    /// Values that it has room for; its shape may have fewer.
    room: usize,
}

impl Memory {
    /// Has `write` write a tensor of `shape`, in memory which may hold anything.
    fn write(
        &mut self,
        place: Place,
        shape: &[usize],
        write: impl FnOnce(&mut [f32]) -> TractResult<()>,
    ) -> TractResult<TValue> {
        let written = |tensor: &mut Arc<Tensor>| {
            let tensor = Arc::get_mut(tensor).context("memory that is free has other owners")?;
            write(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)
        };
        let tensor = match place {
            Place::Shared => {
                let mut piece = self.piece(shape)?;
                written(&mut piece.tensor)?;
                let tensor = piece.tensor.clone();
                self.shared.push(piece);
                tensor
            }
            Place::Exact => {
                let mut tensor = self.of_length(shape)?;
                written(&mut tensor)?;
                self.exact.push(tensor.clone());
                tensor
            }
        };
        Ok(TValue::from_const(tensor))
    }

    /// The smallest free piece with room for `shape`, taken out; where there is none, a new one in place of the largest that is free.
    fn piece(&mut self, shape: &[usize]) -> TractResult<Piece> {
        let len = shape.iter().product();
        let free = |(index, piece): (usize, &Piece)| is_free(&piece.tensor).then_some(index);
        let found = self.shared.iter().enumerate().filter_map(free);
        let found = found.min_by_key(|&index| {
            let room = self.shared[index].room;
            (room < len, room.abs_diff(len))
        });
        let found = found.map(|index| self.shared.swap_remove(index));
        match found {
            Some(mut piece) if piece.room >= len => {
                let tensor = Arc::get_mut(&mut piece.tensor).context("a free piece has owners")?;
                // SAFETY: it was made of f32 with room for at least as many as `shape` has. Only operators of ours see it until
                // it is free again; they take the values that its shape says, and so does tract where it compares shapes.
                unsafe { tensor.set_shape_unchecked(shape) };
                Ok(piece)
            }
            _ => Ok(Piece {
                tensor: Tensor::zero::<f32>(shape)?.into_arc_tensor(),
                room: len,
            }),
        }
    }

    /// A free tensor with as many values as `shape`, taken out, or a new one.
    fn of_length(&mut self, shape: &[usize]) -> TractResult<Arc<Tensor>> {
        let len: usize = shape.iter().product();
        let fits = |tensor: &Arc<Tensor>| is_free(tensor) && tensor.len() == len;
        match self.exact.iter().position(fits) {
            Some(index) => {
                let mut tensor = self.exact.swap_remove(index);
                Arc::get_mut(&mut tensor)
                    .context("a free tensor has owners")?
                    .set_shape(shape)?;
                Ok(tensor)
            }
            None => Ok(Tensor::zero::<f32>(shape)?.into_arc_tensor()),
        }
    }
}

/// Whether nobody else has it.
fn is_free(tensor: &Arc<Tensor>) -> bool {
    Arc::strong_count(tensor) == 1
}

#[cfg(test)]
mod tests;
