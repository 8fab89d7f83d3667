//! Convolutions of f32 images, each with the operators that follow it in one.

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        array::TypedConcat,
        binary::TypedBinOp,
        cnn::{Conv, KernelFormat},
        math::{Add, Max, Min, Mul},
    },
};

use super::geometry;
use crate::tract::{
    convolution::Convolution,
    kernel::{Clamp, Kernel},
    planes::Geometry,
    pooling::MaxPooling,
};

/// Fewer output pixels than this leave most of a tile unused, and tract's products of a matrix and a
/// vector are better.
const LEAST_PIXELS: usize = 16;

/// What a convolution becomes as it takes up the operators behind it.
struct Fused {
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<OutletId>,
    clamp: Clamp,
    /// Whose value it gives.
    outlet: OutletId,
}

pub(super) fn convolution(model: &TypedModel, node: usize) -> TractResult<Option<TypedModelPatch>> {
    let node = model.node(node);
    let Some(conv) = node.op_as::<Conv>() else {
        return Ok(None);
    };
    let Some((geometry, mut fused)) = known(model, node, conv)? else {
        return Ok(None);
    };
    while let Some(outlet) = take_up(model, &geometry, &mut fused)? {
        fused.outlet = outlet;
    }
    let Fused {
        weights,
        bias,
        residual,
        clamp,
        outlet,
    } = fused;
    let Some(kernel) = Kernel::new(geometry, &weights, bias, clamp) else {
        return Ok(None);
    };
    let mut patch = TypedModelPatch::new("convolution");
    let inputs: TVec<OutletId> = [node.inputs[0]].into_iter().chain(residual).collect();
    let inputs = patch.taps(model, &inputs)?;
    let name = &model.node(outlet.node).name;
    let op = Convolution::new(kernel, residual.is_some());
    let wire = patch.wire_node(name, op, &inputs)?;
    patch.shunt_outside(model, outlet, wire[0])?;
    Ok(Some(patch))
}

/// Convolutions of ours whose channels are put one behind the other's, and that nobody else reads: they are computed where they
/// are to lie.
pub(super) fn concatenation(
    model: &TypedModel,
    node: usize,
) -> TractResult<Option<TypedModelPatch>> {
    let node = model.node(node);
    if node.op_as::<TypedConcat>().map(|op| op.axis) != Some(1) {
        return Ok(None);
    }
    let (mut operators, mut inputs) = (Vec::new(), TVec::new());
    for outlet in &node.inputs {
        let Some(from) = read_alone(model, *outlet) else {
            return Ok(None);
        };
        let Some(convolution) = from.op_as::<Convolution>() else {
            return Ok(None);
        };
        operators.push(convolution);
        inputs.extend_from_slice(&from.inputs);
    }
    let op = Convolution::concatenated(operators);
    TypedModelPatch::replace_single_op(model, node, &inputs, op).map(Some)
}

/// Convolutions of ours that only one operator reads, which looks at every channel on its own: a convolution of single channels or
/// the maximum over windows. All become one.
pub(super) fn following(model: &TypedModel, node: usize) -> TractResult<Option<TypedModelPatch>> {
    let node = model.node(node);
    let first = node
        .inputs
        .first()
        .and_then(|&outlet| read_alone(model, outlet));
    let Some((first, convolution)) = first.and_then(|one| Some((one, one.op_as::<Convolution>()?)))
    else {
        return Ok(None);
    };
    let joined = match (node.op_as::<Convolution>(), node.op_as::<MaxPooling>()) {
        (Some(second), _) => convolution.then_depthwise(second),
        (_, Some(pooling)) => convolution.then_largest(pooling.geometry()),
        _ => None,
    };
    let Some(op) = joined else {
        return Ok(None);
    };
    TypedModelPatch::replace_single_op(model, node, &first.inputs, op).map(Some)
}

/// The node of an outlet that one node alone reads, and that does not leave the model.
fn read_alone(model: &TypedModel, outlet: OutletId) -> Option<&TypedNode> {
    let node = model.node(outlet.node);
    let is_read_once = node.outputs[outlet.slot].successors.len() == 1;
    (is_read_once && !model.outputs.contains(&outlet)).then_some(node)
}

/// The geometry and the parameters of a convolution that ours can do.
fn known(
    model: &TypedModel,
    node: &TypedNode,
    conv: &Conv,
) -> TractResult<Option<(Geometry, Fused)>> {
    let facts = model.node_input_facts(node.id)?;
    let output = model.outlet_fact(node.id.into())?;
    let is_ours = conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && conv.group > 0
        && conv.input_channels().is_multiple_of(conv.group)
        && conv.output_channels().is_multiple_of(conv.group)
        && facts
            .iter()
            .all(|fact| fact.datum_type == f32::datum_type());
    let (true, Some(geometry)) = (is_ours, geometry(&conv.pool_spec, facts[0], output)) else {
        return Ok(None);
    };
    let (Some(weights), Some(bias), LEAST_PIXELS..) =
        (&facts[1].konst, &facts[2].konst, geometry.pixels())
    else {
        return Ok(None);
    };
    let geometry = Geometry {
        groups: conv.group,
        ..geometry
    };
    let fused = Fused {
        weights: values(weights)?,
        bias: spread(bias, geometry.output[0])?,
        residual: None,
        clamp: Clamp {
            low: f32::NEG_INFINITY,
            high: f32::INFINITY,
        },
        outlet: node.id.into(),
    };
    Ok(Some((geometry, fused)))
}

/// Takes up the one operator that reads what `fused` gives, and returns that operator's outlet.
fn take_up(
    model: &TypedModel,
    geometry: &Geometry,
    fused: &mut Fused,
) -> TractResult<Option<OutletId>> {
    let readers = &model.node(fused.outlet.node).outputs[0].successors;
    let ([reader], false) = (&readers[..], model.outputs.contains(&fused.outlet)) else {
        return Ok(None);
    };
    let node = model.node(reader.node);
    let Some(TypedBinOp(op, None)) = node.op_as::<TypedBinOp>() else {
        return Ok(None);
    };
    let outlet = OutletId::from(node.id);
    let other = node.inputs[1 - reader.slot];
    let (fact, given) = (model.outlet_fact(other)?, model.outlet_fact(outlet)?);
    if given.shape != model.outlet_fact(fused.outlet)?.shape
        || given.datum_type != f32::datum_type()
    {
        return Ok(None);
    }
    let is_open = fused.clamp.low == f32::NEG_INFINITY && fused.clamp.high == f32::INFINITY;
    let channels = geometry.output[0];
    let known = match &fact.konst {
        Some(konst) if is_of_channels(konst.shape(), channels) => Some(spread(konst, channels)?),
        _ => None,
    };
    let taken = match known {
        Some(known) if op.is::<Mul>() && is_open && fused.residual.is_none() => {
            let depth = fused.weights.len() / channels;
            for ((weights, bias), scale) in fused
                .weights
                .chunks_exact_mut(depth)
                .zip(&mut fused.bias)
                .zip(known)
            {
                weights.iter_mut().for_each(|weight| *weight *= scale);
                *bias *= scale;
            }
            true
        }
        Some(known) if op.is::<Add>() && is_open => {
            for (bias, more) in fused.bias.iter_mut().zip(known) {
                *bias += more;
            }
            true
        }
        Some(known) if op.is::<Max>() && is_open && is_uniform(&known) => {
            fused.clamp.low = known[0];
            true
        }
        // The lower bound applies first, as it does in the kernel.
        Some(known)
            if op.is::<Min>() && fused.clamp.high == f32::INFINITY && is_uniform(&known) =>
        {
            fused.clamp.high = known[0];
            true
        }
        None if op.is::<Add>() && is_open && fused.residual.is_none() => {
            let fits = fact.konst.is_none()
                && fact.datum_type == f32::datum_type()
                && fact.shape == given.shape
                && !geometry.is_depthwise();
            if fits {
                fused.residual = Some(other);
            }
            fits
        }
        _ => false,
    };
    Ok(taken.then_some(outlet))
}

/// Whether a tensor that is combined with `[n, channels, height, width]` has one value, or one a channel.
fn is_of_channels(shape: &[usize], channels: usize) -> bool {
    shape.iter().product::<usize>() == 1 || matches!(*shape, [1, found, 1, 1] if found == channels)
}

fn is_uniform(values: &[f32]) -> bool {
    values.iter().all(|value| *value == values[0])
}

/// A value for every channel.
fn spread(tensor: &Tensor, channels: usize) -> TractResult<Vec<f32>> {
    let values = values(tensor)?;
    Ok(match values[..] {
        [value] => vec![value; channels],
        _ => values,
    })
}

fn values(tensor: &Tensor) -> TractResult<Vec<f32>> {
    Ok(tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
}
