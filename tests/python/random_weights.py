"""Gives the light ONNX graphs random weights and records what ONNX Runtime makes of them.

The light graphs hold constant weights, so their outputs are nearly uniform and a
wrong kernel hardly shows. Here every weight is drawn anew from a fixed seed, at a
scale that keeps activations near one all the way through (He's rule for
convolutions and fully connected layers, positive variances for batch
normalisation, damped residual branches). The last layer is scaled so that its
outputs have a deviation of `LOGIT_DEVIATION` before the softmax.

For each graph it writes OUT_DIR/<name>/ with
- model.onnx: the graph with its weights;
- input.f32 and output.f32: raw little-endian f32;
- shape.txt: the input shape, comma separated.

Example: python random_weights.py graphs
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LIGHT = Path(__file__).resolve().parents[2] / "crates" / "runtime" / "tests" / "data" / "light"
SEED = 20_260_101
# Far from uniform, yet no class takes everything.
LOGIT_DEVIATION = 2.0
# Each of ResNet's residual branches adds little, or activations would grow with depth.
BRANCH_GAIN = 0.3


def plain_values(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Returns every constant of the graph: its initialisers and its constant fills."""
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            fill = numpy_helper.to_array(node.attribute[0].t)
            values[node.output[0]] = np.full(values[node.input[0]], fill.item(), fill.dtype)
    return values


def source(graph: onnx.GraphProto, name: str) -> str:
    """Returns the constant that `name` is a reshaped view of, or `name` itself."""
    for node in graph.node:
        if name in node.output and node.op_type == "Reshape":
            return node.input[0]
    return name


def randomise(graph: onnx.GraphProto, values: dict[str, np.ndarray]) -> None:
    """Replaces the weights in `values` by random ones, layer by layer in graph order."""
    random = np.random.default_rng(SEED)

    def normal(name: str, deviation: float) -> None:
        drawn = random.standard_normal(values[name].shape, np.float32)
        values[name] = drawn * np.float32(deviation)

    def uniform(name: str, low: float, high: float) -> None:
        values[name] = random.uniform(low, high, values[name].shape).astype(np.float32)

    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight, *bias = (source(graph, name) for name in node.input[1:])
            # Gemm's weights are [outputs, inputs], in one graph behind leading ones.
            shape = values[weight].shape
            fan_in = np.prod(shape[1:]) if node.op_type == "Conv" else shape[-1]
            normal(weight, np.sqrt(2 / fan_in))
            for name in bias:
                normal(name, 0.1)
        elif node.op_type == "BatchNormalization":
            _, gain, shift, mean, variance = node.input
            scale = BRANCH_GAIN if "branch2c" in gain else 1.0
            uniform(gain, 0.8 * scale, 1.2 * scale)
            normal(shift, 0.1)
            normal(mean, 0.1)
            uniform(variance, 0.8, 1.2)


def with_weights(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Returns the graph with `values` as initialisers and the image as its only input."""
    graph = model.graph
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    used = {name for node in nodes for name in node.input}
    return helper.make_model(
        helper.make_graph(
            nodes,
            graph.name,
            [item for item in graph.input if item.name in used - values.keys()],
            graph.output,
            initializer=[
                numpy_helper.from_array(value, name)
                for name, value in values.items()
                if name in used
            ],
        ),
        opset_imports=model.opset_import,
        # Version 4 is the first that lets initialisers be no inputs.
        ir_version=7,
    )


def run(model: onnx.ModelProto, output: str, image: np.ndarray) -> np.ndarray:
    """Returns the tensor `output` of the graph for one input."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([output], {session.get_inputs()[0].name: image})[0]


def generate(light: Path, folder: Path) -> None:
    """Writes the files of one graph."""
    model = onnx.load(light)
    values = plain_values(model.graph)
    randomise(model.graph, values)
    result = with_weights(model, values)

    dims = result.graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value for dim in dims]
    image = np.random.default_rng(SEED + 1).standard_normal(shape, np.float32)

    softmax, last = result.graph.node[-1], result.graph.node[-2]
    if (softmax.op_type, last.op_type) != ("Softmax", "Gemm"):
        raise ValueError(f"{light.name} does not end in Gemm and Softmax")
    logits = run(result, last.output[0], image)
    gain = np.float32(LOGIT_DEVIATION / logits.std())
    for name in last.input[1:]:
        values[source(model.graph, name)] *= gain
    result = with_weights(model, values)
    output = run(result, softmax.output[0], image)
    if not 0.01 < output.max() < 0.5:
        raise ValueError(f"{light.name}: the largest probability is {output.max()}")

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(result.SerializeToString(deterministic=True))
    image.astype("<f4").tofile(folder / "input.f32")
    output.astype("<f4").tofile(folder / "output.f32")
    (folder / "shape.txt").write_text(",".join(map(str, shape)) + "\n", encoding="utf-8")
    print(
        f"{folder.name}: before scaling, logits deviate by {logits.std():.2f}; "
        f"probabilities {output.min():.1e} to {output.max():.3f}"
    )


def main() -> None:
    """Generates every light graph, or those that were named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="for example light_resnet50")
    arguments = parser.parse_args()
    for graph in sorted(LIGHT.glob("*.onnx")):
        if not arguments.only or graph.stem in arguments.only:
            generate(graph, arguments.out_dir / graph.stem)


if __name__ == "__main__":
    main()
