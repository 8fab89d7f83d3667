//! Puts our operators in the place of tract's where ours are faster, before tract optimises the graph.
//!
//! - Local response normalisation, the maximum over windows, and the sums of a global average over what these and convolutions give.
//! - Convolutions of f32 images with weights that are known, on CPUs with AVX2 and FMA and in WebAssembly, each
//!   with the scaling, the bias, the sum with a shortcut and the bounds (ReLU, ReLU6) that follow it. Where the channels of
//!   several are put one behind the other's, as in modules of SqueezeNet and Inception, they become one; and so does one with
//!   a large output and a convolution of single channels or a maximum over windows that follows it.

#[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
mod convolution;

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        cnn::{MaxPool, PoolSpec},
        nn::{DataFormat, Reduce},
    },
    optim::Optimizer,
};
use tract_onnx_opl::lrn::Lrn;

#[cfg(any(target_arch = "x86_64", target_arch = "wasm32"))]
use convolution::{concatenation, convolution, following};

use super::{
    lrn::LocalResponseNormalisation, planes::Geometry, pooling::MaxPooling, session::writer,
    sums::PixelSums,
};

/// Replaces what can be replaced.
///
/// # Errors
/// Where an operator has parameters that make no sense.
pub(super) fn rewrite(mut model: TypedModel) -> TractResult<TypedModel> {
    // Weights that are computed become known ones.
    Optimizer::prop_consts().optimize(&mut model)?;
    for node in 0..model.nodes.len() {
        for replace in [normalisation, pooling, sums, convolution] {
            if let Some(patch) = replace(&model, node)? {
                patch.apply(&mut model)?;
                break;
            }
        }
    }
    // What follows one convolution, before it becomes one of several, and what follows several.
    for join in [following, concatenation, following] {
        for node in 0..model.nodes.len() {
            if let Some(patch) = join(&model, node)? {
                patch.apply(&mut model)?;
            }
        }
    }
    model.compact()?;
    Ok(model)
}

fn normalisation(model: &TypedModel, node: usize) -> TractResult<Option<TypedModelPatch>> {
    let node = model.node(node);
    let Some(lrn) = node.op_as::<Lrn>() else {
        return Ok(None);
    };
    let input = model.outlet_fact(node.inputs[0])?;
    if input.datum_type != f32::datum_type() || input.rank() < 2 {
        return Ok(None);
    }
    let op = LocalResponseNormalisation::try_new(lrn)?;
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

fn pooling(model: &TypedModel, node: usize) -> TractResult<Option<TypedModelPatch>> {
    let node = model.node(node);
    let Some(pool) = node.op_as::<MaxPool>() else {
        return Ok(None);
    };
    let (input, output) = (
        model.outlet_fact(node.inputs[0])?,
        model.outlet_fact(node.id.into())?,
    );
    let is_ours = pool.with_index_outputs.is_none() && input.datum_type == f32::datum_type();
    let (true, Some(geometry)) = (is_ours, geometry(&pool.pool_spec, input, output)) else {
        return Ok(None);
    };
    let groups = geometry.input[0];
    let op = MaxPooling::new(Geometry { groups, ..geometry });
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

fn sums(model: &TypedModel, node: usize) -> TractResult<Option<TypedModelPatch>> {
    let node = model.node(node);
    let Some(reduce) = node.op_as::<Reduce>() else {
        return Ok(None);
    };
    let input = model.outlet_fact(node.inputs[0])?;
    // Of an output of tract's nothing would be won, and tract may know better.
    let is_ours = writer(model.node(node.inputs[0].node)).is_some();
    let Some(op) = PixelSums::of(reduce, input.rank()).filter(|_| is_ours) else {
        return Ok(None);
    };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

/// The geometry of windows over `[n, channels, height, width]`, in one group.
fn geometry(spec: &PoolSpec, input: &TypedFact, output: &TypedFact) -> Option<Geometry> {
    let (&[images, channels, height, width], &[_, outputs, rows, columns]) =
        (input.shape.as_concrete()?, output.shape.as_concrete()?)
    else {
        return None;
    };
    let (strides, dilations) = (spec.strides(), spec.dilations());
    let steps = [&spec.kernel_shape[..], &strides, &dilations];
    let is_empty = images * channels * outputs * rows * columns == 0;
    if spec.data_format != DataFormat::NCHW || is_empty || steps.concat().contains(&0) {
        return None;
    }
    let padding = spec.computed_padding(&[height, width]);
    Some(Geometry {
        groups: 1,
        input: [channels, height, width],
        output: [outputs, rows, columns],
        kernel: [spec.kernel_shape[0], spec.kernel_shape[1]],
        strides: [spec.stride(0), spec.stride(1)],
        dilations: [spec.dilation(0), spec.dilation(1)],
        padding: [padding[0].pad_before, padding[1].pad_before],
    })
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "wasm32")))]
fn convolution(_: &TypedModel, _: usize) -> TractResult<Option<TypedModelPatch>> {
    Ok(None)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "wasm32")))]
fn concatenation(_: &TypedModel, _: usize) -> TractResult<Option<TypedModelPatch>> {
    Ok(None)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "wasm32")))]
fn following(_: &TypedModel, _: usize) -> TractResult<Option<TypedModelPatch>> {
    Ok(None)
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests;
