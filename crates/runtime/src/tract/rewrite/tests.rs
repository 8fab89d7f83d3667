use tract_onnx::prelude::IntoRunnable;
use tract_onnx::tract_core::ops::{
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

/// A graph of one image, `[1, CHANNELS, 6, 7]`, and what its nodes are called.
struct Graph {
    model: TypedModel,
    last: OutletId,
}

impl Graph {
    fn new() -> Self {
        let mut model = TypedModel::default();
        let last = model
            .add_source("image", f32::fact([1, CHANNELS, 6, 7]))
            .unwrap();
        Self { model, last }
    }

    /// A convolution of `from` that keeps the shape.
    fn convolution(&mut self, from: OutletId) -> OutletId {
        let seed = self.model.nodes.len();
        let weights = tensor(&[CHANNELS, CHANNELS, 3, 3], seed);
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
            group: 1,
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
            let image = tensor(&[1, CHANNELS, 6, 7], 77);
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
