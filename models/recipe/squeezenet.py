"""Decodes the published Deep Compression file of SqueezeNet 1.0 into ONNX.

The file `compressed_SqueezeNet.net` holds, all little-endian:

- for each of the 26 convolutions, in network order, a u32: how many weights
  are stored;
- then for each convolution, in the same order:
  - a codebook of 256 f32;
  - the biases, f32;
  - one byte per stored weight: its place in the codebook;
  - one nibble per stored weight, the low nibble of a byte first: how many
    weights are skipped (and stay zero) before it. A gap of more than 15 is
    bridged by stored zeros. An odd count leaves the last nibble unused.

Weights are laid out as `[out channels, in channels, height, width]`. The
network is fire modules (a 1x1 squeeze, then 1x1 and 3x3 expansions side by
side), max pooling, and the mean over the last feature map; dropout does nothing
at inference and the softmax is left out.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx

from graph import ClassifierGraph

SIZE = 227
CLASSES = 1000
# (squeeze, expand) channels of fire2 to fire9; both expansions are as wide.
FIRES = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
# Max pooling follows conv1 and these fire modules.
POOL_AFTER = ("fire4", "fire8")

Weights = dict[str, tuple[np.ndarray, np.ndarray]]


def shapes() -> dict[str, tuple[int, int, int, int]]:
    """Returns the weight shape of each convolution, in network order."""
    layers = {"conv1": (96, 3, 7, 7)}
    channels = 96
    for number, (squeeze, expand) in enumerate(FIRES, start=2):
        layers[f"fire{number}.squeeze1x1"] = (squeeze, channels, 1, 1)
        layers[f"fire{number}.expand1x1"] = (expand, squeeze, 1, 1)
        layers[f"fire{number}.expand3x3"] = (expand, squeeze, 3, 3)
        channels = 2 * expand
    layers["conv10"] = (CLASSES, channels, 1, 1)
    return layers


def decode(data: bytes) -> Weights:
    """Returns the weights and biases (f32) of each convolution of the compressed file."""
    position = 0

    def take(kind: str, count: int) -> np.ndarray:
        nonlocal position
        array = np.frombuffer(data, kind, count, position)
        position += array.nbytes
        return array

    layers = shapes()
    stored = take("<u4", len(layers))
    weights: Weights = {}
    for (layer, shape), count in zip(layers.items(), stored.tolist(), strict=True):
        codebook = take("<f4", 256)
        bias = take("<f4", shape[0])
        codes = take("u1", count)
        packed = take("u1", (count + 1) // 2)
        skips = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:count]
        places = np.cumsum(skips.astype(np.int64) + 1) - 1
        dense = np.zeros(np.prod(shape), np.float32)
        dense[places] = codebook[codes]
        weights[layer] = dense.reshape(shape), bias
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes are left over: not the expected file")
    return weights


def build(weights: Weights) -> onnx.ModelProto:
    """Returns the network as ONNX."""
    graph = ClassifierGraph("squeezenet1.0", SIZE)

    def convolve(layer: str, x: str, **options: object) -> str:
        return graph.relu(layer, graph.convolution(layer, x, *weights[layer], **options))

    x = convolve("conv1", graph.input, stride=2)
    x = graph.max_pool("pool1", x, kernel=3, stride=2)
    for number in range(2, 2 + len(FIRES)):
        fire = f"fire{number}"
        x = convolve(f"{fire}.squeeze1x1", x)
        left = convolve(f"{fire}.expand1x1", x)
        right = convolve(f"{fire}.expand3x3", x, pads=(1, 1))
        x = graph.concat(f"{fire}.concat", [left, right])
        if fire in POOL_AFTER:
            x = graph.max_pool(f"pool{number}", x, kernel=3, stride=2)
    x = convolve("conv10", x)
    return graph.finish(graph.mean_over_pixels("pool10", x), CLASSES)


def main() -> None:
    """Decodes one file and writes the graph."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("compressed", type=Path, help="compressed_SqueezeNet.net")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    arguments = parser.parse_args()
    model = build(decode(arguments.compressed.read_bytes()))
    arguments.out.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
