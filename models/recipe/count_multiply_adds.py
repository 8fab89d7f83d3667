"""Counts the multiply-adds of one image in an ONNX graph.

Only `Conv`, `Gemm` and `MatMul` nodes count: one multiply-add for each weight
that meets each output element. Biases, activations, pooling and normalisation
are left out, as is usual in the literature. The graph is run once, with a batch
of one, to learn its shapes. The figure goes into `multiply_adds` of a
`model.toml`.

Example: python count_multiply_adds.py ../squeezenet1.0/squeezenet1.0.onnx
"""

import argparse
import math

import numpy as np
import onnx
import onnxruntime


def count(path: str) -> int:
    """Returns the multiply-adds of the graph at `path` for one image."""
    model = onnx.load(path)
    graph = model.graph
    counted = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    wanted = list(dict.fromkeys(name for n in counted for name in (n.input[1], n.output[0])))
    del graph.output[:]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = session.get_inputs()[0]
    shape = [1, *image.shape[1:]]
    arrays = session.run(wanted, {image.name: np.zeros(shape, np.float32)})
    shapes = {name: array.shape for name, array in zip(wanted, arrays, strict=True)}

    total = 0
    for node in counted:
        weights, output = shapes[node.input[1]], shapes[node.output[0]]
        if node.op_type == "Conv":
            # Weights: [out channels, in channels / groups, kernel height, kernel width].
            total += math.prod(output) * math.prod(weights[1:])
        else:
            total += math.prod(weights) * math.prod(output[:-1])
    return total


def main() -> None:
    """Prints one line per graph: its path and its multiply-adds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("graphs", nargs="+", help="ONNX files")
    for path in parser.parse_args().graphs:
        print(f"{path}: {count(path):_}")


if __name__ == "__main__":
    main()
