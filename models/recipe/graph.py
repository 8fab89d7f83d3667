"""Builds a small ONNX classifier graph, layer by layer.

The graph takes `image` (f32, `[n, 3, size, size]`, free batch) and gives
`logits` (f32, `[n, classes]`). Tensors of at least `HALF_FROM` elements are
stored as f16 behind a `Cast`, which halves the file; smaller ones stay f32.
Nothing in the result depends on time, on the machine or on chance, so the same
weights always give the same bytes.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Below this size the Cast node would cost more than the f16 saves.
HALF_FROM = 256
OPSET = 17
IR_VERSION = 8


class ClassifierGraph:
    """A chain of layers under construction; each method returns the name of its output."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.input = "image"
        self._size = size
        self._casts: list[onnx.NodeProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._limits: list[str] = []

    def convolution(
        self,
        layer: str,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray,
        *,
        stride: int = 1,
        pads: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> str:
        """Adds a convolution; `pads` are the rows (and columns) added before and after."""
        before, after = pads
        return self._node(
            "Conv",
            layer,
            [x, self._weight(f"{layer}.weight", weight), self._weight(f"{layer}.bias", bias)],
            dilations=[1, 1],
            group=groups,
            kernel_shape=list(weight.shape[2:]),
            pads=[before, before, after, after],
            strides=[stride, stride],
        )

    def relu(self, layer: str, x: str) -> str:
        """Adds max(x, 0)."""
        return self._node("Relu", f"{layer}.relu", [x])

    def relu6(self, layer: str, x: str) -> str:
        """Adds min(max(x, 0), 6)."""
        if not self._limits:
            limits = (("relu6.min", 0.0), ("relu6.max", 6.0))
            self._limits = [self._weight(name, np.array(v, np.float32)) for name, v in limits]
        return self._node("Clip", f"{layer}.relu6", [x, *self._limits])

    def max_pool(self, layer: str, x: str, *, kernel: int, stride: int, pad: int = 0) -> str:
        """Adds max pooling; `pad` rows and columns are added on every side."""
        padding = {"pads": [pad] * 4} if pad else {}
        return self._node(
            "MaxPool", layer, [x], kernel_shape=[kernel, kernel], strides=[stride, stride], **padding
        )

    def concat(self, layer: str, parts: list[str]) -> str:
        """Joins tensors along their channels."""
        return self._node("Concat", layer, parts, axis=1)

    def add(self, layer: str, x: str, y: str) -> str:
        """Adds two tensors of the same shape."""
        return self._node("Add", layer, [x, y])

    def mean_over_pixels(self, layer: str, x: str) -> str:
        """Turns `[n, channels, height, width]` into `[n, channels]`."""
        return self._node("ReduceMean", layer, [x], axes=[2, 3], keepdims=0)

    def rename(self, x: str, name: str) -> None:
        """Gives the output of the last layer another name."""
        last = self._nodes[-1]
        if last.output[0] != x:
            raise ValueError(f"{x} is not the output of the last layer")
        last.output[0] = name

    def flatten(self, layer: str, x: str) -> str:
        """Turns `[n, channels, height, width]` into `[n, channels · height · width]`."""
        return self._node("Flatten", layer, [x], axis=1)

    def linear(self, layer: str, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """Adds a fully connected layer; `weight` is `[outputs, inputs]`."""
        names = [self._weight(f"{layer}.weight", weight), self._weight(f"{layer}.bias", bias)]
        return self._node("Gemm", layer, [x, *names], transB=1)

    def finish(
        self, logits: str, classes: int, exits: dict[str, list[object]] | None = None
    ) -> onnx.ModelProto:
        """Closes the graph with `logits` as its output and checks it.

        `exits` are further outputs with their shapes: what leaves at the early exits.
        """
        self.rename(logits, "logits")
        outputs = {"logits": ["n", classes], **(exits or {})}
        graph = helper.make_graph(
            self._casts + self._nodes,
            self.name,
            [
                helper.make_tensor_value_info(
                    self.input, TensorProto.FLOAT, ["n", 3, self._size, self._size]
                )
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            initializer=self._weights,
        )
        model = helper.make_model(
            graph,
            producer_name="outpost models/recipe",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _weight(self, name: str, array: np.ndarray) -> str:
        if array.size < HALF_FROM:
            self._weights.append(_tensor(name, array.astype(np.float32)))
            return name
        half = f"{name}_f16"
        self._weights.append(_tensor(half, array.astype(np.float16)))
        cast = helper.make_node("Cast", [half], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
        self._casts.append(cast)
        return name

    def _node(self, operator: str, name: str, inputs: list[str], **attributes: object) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name


def _tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
