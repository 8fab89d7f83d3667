//! The usual early exit, one linear layer on the global average of the activations, computed here.
//!
//! In tract its four operators take some 8 µs for a few thousand additions: the four exits of the
//! CIFAR-10 AlexNet would be 6 % of its time, here they are less than 1 %. What is computed is the same;
//! any other exit is left to tract.

use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use tract_onnx::prelude::{TractError, TractResult};

use super::sums::sum;
use crate::network::{ExitOutput, Features, StageSpec};

/// A linear layer on the global average.
pub(super) struct Head {
    /// Channels of the activations.
    width: usize,
    /// `[classes, width]`.
    weights: Vec<f32>,
    /// A value for every class.
    bias: Vec<f32>,
}

impl Head {
    /// The early exit of `stage` in `graph`, where it is such a one and its features, if any, are the
    /// average.
    pub(super) fn find(graph: &GraphProto, stage: &StageSpec) -> Option<Self> {
        let activations = stage.activations.as_ref()?;
        let linear = producer(graph, &stage.logits, "Gemm")?;
        let [average, weights, bias] = &linear.input[..] else {
            return None;
        };
        let pooling = producer(graph, average, "ReduceMean")?;
        let is_average = pooling.input == [activations.as_str()]
            && attribute(pooling, "axes").is_some_and(|axes| axes.ints == [2, 3])
            && attribute(pooling, "keepdims").is_some_and(|keep| keep.i == 0);
        // `alpha`, `beta` and `transA` have defaults that leave the layer as it is.
        let is_plain = linear.attribute.len() == 1
            && attribute(linear, "transB").is_some_and(|transposed| transposed.i == 1);
        let is_feature = stage.features.as_ref().is_none_or(|name| name == average);
        if !(is_average && is_plain && is_feature) {
            return None;
        }
        let (shape, weights) = constant(graph, weights)?;
        let (_, bias) = constant(graph, bias)?;
        let &[classes, width] = shape else {
            return None;
        };
        let fits = bias.len() as i64 == classes
            && classes.checked_mul(width) == i64::try_from(weights.len()).ok();
        fits.then_some(Self {
            width: usize::try_from(width).ok().filter(|&width| width > 0)?,
            weights,
            bias,
        })
    }

    /// Number of classes.
    pub(super) fn classes(&self) -> usize {
        self.bias.len()
    }

    /// Channels of the activations, which is the width of the features.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Checks that the activations have the shape `[1, channels, height, width]` that this takes.
    pub(super) fn check(&self, activations: &[usize]) -> TractResult<()> {
        match *activations {
            [1, channels, height, width] if channels == self.width && height * width > 0 => Ok(()),
            _ => Err(TractError::msg(format!(
                "an exit takes {} channels and its activations have the shape {activations:?}",
                self.width
            ))),
        }
    }

    /// What the exit says about activations that have passed [`Head::check`], channel by channel.
    pub(super) fn run(&self, activations: &[f32], features: Features) -> ExitOutput {
        let pixels = activations.len() / self.width;
        let scale = 1.0 / pixels as f32;
        let average: Vec<f32> = activations
            .chunks_exact(pixels)
            .map(|channel| sum(channel) * scale)
            .collect();
        let scores = self
            .weights
            .chunks_exact(self.width)
            .zip(&self.bias)
            .map(|(row, bias)| bias + row.iter().zip(&average).map(|(a, b)| a * b).sum::<f32>())
            .collect();
        ExitOutput {
            scores,
            features: match features {
                Features::Omit => None,
                Features::Give => Some(average),
            },
        }
    }
}

fn producer<'g>(graph: &'g GraphProto, tensor: &str, op_type: &str) -> Option<&'g NodeProto> {
    let node = graph.node.iter().find(|node| node.output == [tensor])?;
    (node.op_type == op_type).then_some(node)
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute
        .iter()
        .find(|attribute| attribute.name == name)
}

/// Shape and values of an f32 weight.
fn constant<'g>(graph: &'g GraphProto, name: &str) -> Option<(&'g [i64], Vec<f32>)> {
    let is_f32 = |tensor: &&TensorProto| tensor.data_type == DataType::Float as i32;
    let tensor = graph
        .initializer
        .iter()
        .find(|tensor| tensor.name == name)?;
    let tensor = Some(tensor).filter(is_f32)?;
    let (values, _) = tensor.raw_data.as_chunks::<4>();
    let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes));
    Some((&tensor.dims, values.collect()))
}

#[cfg(test)]
mod tests;
