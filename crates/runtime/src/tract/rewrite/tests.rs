use tract_onnx::prelude::IntoRunnable;
use tract_onnx::tract_core::ops::{
    array::TypedConcat,
    cnn::{Conv, KernelFormat, PaddingSpec},
    math::{add, max, min, mul},
};

use super::*;

const CHANNELS: usize = 4;

/// Numbers from -2 to 2.
fn tensor(shape: &[usize], seed: usize) -> Tensor {
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count)
        .map(|i: usize| ((i * 7919 + seed * 104_729) % 401) as f32 / 100.0 - 2.0)
        .collect();
    Tensor::from_shape(shape, &numbers).unwrap()
}

/// A graph of one image, and what its nodes are called.
struct Graph {
    model: TypedModel,
    /// `[1, CHANNELS, height, width]`.
    shape: [usize; 4],
    last: OutletId,
}

impl Graph {
    fn new() -> Self {
        Self::of(6, 7)
    }

    fn of(height: usize, width: usize) -> Self {
        let shape = [1, CHANNELS, height, width];
        let mut model = TypedModel::default();
        let last = model.add_source("image", f32::fact(shape)).unwrap();
        Self { model, shape, last }
    }

    /// A convolution of `from` that keeps the shape.
    fn convolution(&mut self, from: OutletId) -> OutletId {
        self.convolution_in(1, from)
    }

    /// The same, in groups of channels.
    fn convolution_in(&mut self, group: usize, from: OutletId) -> OutletId {
        let seed = self.model.nodes.len();
        let weights = tensor(&[CHANNELS, CHANNELS / group, 3, 3], seed);
        let weights = self.constant(weights);
        let bias = self.constant(tensor(&[CHANNELS], seed + 1));
        let op = Conv {
            pool_spec: PoolSpec {
                data_format: DataFormat::NCHW,
                kernel_shape: tvec!(3, 3),
                padding: PaddingSpec::Explicit(tvec!(1, 1), tvec!(1, 1)),
                dilations: None,
                strides: None,
                input_channels: CHANNELS,
                output_channels: CHANNELS,
            },
            kernel_fmt: KernelFormat::OIHW,
            group,
            q_params: None,
        };
        self.node(op, &[from, weights, bias])
    }

    fn constant(&mut self, tensor: Tensor) -> OutletId {
        let name = format!("constant{}", self.model.nodes.len());
        self.model.add_const(name, tensor).unwrap()
    }

    fn node(&mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> OutletId {
        let name = format!("node{}", self.model.nodes.len());
        self.last = self.model.wire_node(name, op, inputs).unwrap()[0];
        self.last
    }

    /// The names of the operators once rewritten, when what the graph gives has been compared.
    fn rewritten(mut self) -> Vec<String> {
        if self.model.outputs.is_empty() {
            let last = self.last;
            self.model.select_output_outlets(&[last]).unwrap();
        }
        let run = |model: TypedModel| {
            let plan = model.into_optimized().unwrap().into_runnable().unwrap();
            let image = tensor(&self.shape, 77);
            plan.run(tvec!(image.into_tvalue())).unwrap()
        };
        let rewritten = rewrite(self.model.clone()).unwrap();
        let nodes = rewritten.nodes.iter();
        let names = nodes
            .filter(|node| !node.inputs.is_empty())
            .map(|node| node.op.name().to_string());
        let names = names.collect();
        for (found, expected) in run(rewritten).iter().zip(run(self.model)) {
            found
                .close_enough(&expected, Approximation::Approximate)
                .unwrap();
        }
        names
    }
}

fn has_vectors() -> bool {
    crate::tract::kernel::vectors::find().is_some()
}

#[test]
fn a_convolution_takes_up_what_follows_it() {
    let mut graph = Graph::new();
    let image = graph.last;
    let mut x = graph.convolution(image);
    let scale = graph.constant(tensor(&[1, CHANNELS, 1, 1], 5));
    x = graph.node(mul(), &[scale, x]);
    let shift = graph.constant(tensor(&[1, CHANNELS, 1, 1], 6));
    x = graph.node(add(), &[x, shift]);
    let shortcut = graph.convolution(image);
    x = graph.node(add(), &[x, shortcut]);
    for (op, bound) in [(max(), 0.0_f32), (min(), 6.0)] {
        let bound = graph.constant(Tensor::from_shape(&[1, 1, 1, 1], &[bound]).unwrap());
        x = graph.node(op, &[x, bound]);
    }
    let names = graph.rewritten();
    if has_vectors() {
        assert_eq!(names, ["Convolution", "Convolution"]);
    }
}

#[test]
fn what_others_read_or_comes_in_another_order_is_not_taken_up() {
    // The convolution's own value leaves too.
    let mut graph = Graph::new();
    let x = graph.convolution(graph.last);
    let zero = graph.constant(Tensor::from_shape(&[1, 1, 1, 1], &[0.0_f32]).unwrap());
    let y = graph.node(max(), &[x, zero]);
    graph.model.select_output_outlets(&[x, y]).unwrap();
    let names = graph.rewritten();
    if has_vectors() {
        assert_eq!(names, ["Convolution", "Max"]);
    }
    // A scale behind a bound, and a bound for every column.
    let mut graph = Graph::new();
    let mut x = graph.convolution(graph.last);
    let zero = graph.constant(Tensor::from_shape(&[1, 1, 1, 1], &[0.0_f32]).unwrap());
    x = graph.node(max(), &[x, zero]);
    let scale = graph.constant(tensor(&[1, CHANNELS, 1, 1], 5));
    x = graph.node(mul(), &[x, scale]);
    let columns = graph.constant(tensor(&[1, 1, 1, 7], 6));
    graph.node(min(), &[x, columns]);
    let names = graph.rewritten();
    if has_vectors() {
        assert_eq!(names, ["Convolution", "Mul", "Min"]);
    }
}

#[test]
fn convolutions_are_computed_where_their_channels_are_to_lie() {
    let mut graph = Graph::new();
    let image = graph.last;
    let first = graph.convolution(image);
    let second = graph.convolution(first);
    let third = graph.convolution(image);
    let fourth = graph.convolution(image);
    // With a residual, and with two that lie one behind the other already.
    let sum = graph.node(add(), &[third, first]);
    let two = graph.node(TypedConcat { axis: 1 }, &[sum, fourth]);
    graph.node(TypedConcat { axis: 1 }, &[second, two]);
    let names = graph.rewritten();
    if has_vectors() {
        assert_eq!(names, ["Convolution", "Convolution"]);
    }
    // The convolution's own value leaves too.
    let mut graph = Graph::new();
    let image = graph.last;
    let (first, second) = (graph.convolution(image), graph.convolution(image));
    let both = graph.node(TypedConcat { axis: 1 }, &[first, second]);
    graph.model.select_output_outlets(&[first, both]).unwrap();
    let names = graph.rewritten();
    if has_vectors() {
        assert_eq!(names, ["Convolution", "Convolution", "Concat"]);
    }
    // One below the other.
    let mut graph = Graph::new();
    let image = graph.last;
    let (first, second) = (graph.convolution(image), graph.convolution(image));
    graph.node(TypedConcat { axis: 2 }, &[first, second]);
    let names = graph.rewritten();
    if has_vectors() {
        assert_eq!(names, ["Convolution", "Convolution", "Concat"]);
    }
}

#[test]
fn large_outputs_are_never_in_memory_whole_where_channels_stay_on_their_own() {
    let maximum = |channels| MaxPool {
        pool_spec: PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: tvec!(3, 3),
            padding: PaddingSpec::Explicit(tvec!(1, 1), tvec!(1, 1)),
            dilations: None,
            strides: Some(tvec!(2, 2)),
            input_channels: channels,
            output_channels: channels,
        },
        with_index_outputs: None,
    };
    for (height, names) in [
        (256, &["Convolution", "Convolution"][..]),
        // Less than half a megabyte of its own.
        (
            70,
            &["Convolution", "Convolution", "Convolution", "MaxPooling"],
        ),
    ] {
        let mut graph = Graph::of(height, 257);
        let x = graph.convolution(graph.last);
        let x = graph.convolution_in(CHANNELS, x);
        let x = graph.convolution(x);
        graph.node(maximum(CHANNELS), &[x]);
        let found = graph.rewritten();
        if has_vectors() {
            assert_eq!(found, names);
        }
    }
    // Of convolutions whose channels lie one behind the other's, each.
    let mut graph = Graph::of(256, 257);
    let image = graph.last;
    let (first, second) = (graph.convolution(image), graph.convolution(image));
    let both = graph.node(TypedConcat { axis: 1 }, &[first, second]);
    graph.node(maximum(2 * CHANNELS), &[both]);
    let names = graph.rewritten();
    if has_vectors() {
        assert_eq!(names, ["Convolution"]);
    }
    // The convolution's own value leaves too.
    let mut graph = Graph::of(256, 257);
    let x = graph.convolution(graph.last);
    let y = graph.node(maximum(CHANNELS), &[x]);
    graph.model.select_output_outlets(&[x, y]).unwrap();
    let names = graph.rewritten();
    if has_vectors() {
        assert_eq!(names, ["Convolution", "MaxPooling"]);
    }
}
