"""Writes a trained network as ONNX with its manifest, and checks it against PyTorch.

    python export.py alexnet --work DIR

The graph names what the runtime cuts at: `<exit>` are the activations where a stage ends,
`<exit>.features` their global average and `<exit>.logits` what the exit says.
"""

import argparse
import hashlib
import pathlib
import sys

import numpy as np
import onnxruntime
import torch
from torch import nn

import data
from networks import (
    CLASSES,
    NETWORKS,
    Inception,
    PooledLinear,
    Residual,
    multiply_adds,
    multiply_adds_up_to,
)
from train import DEVIATION, MEAN

MODELS = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(MODELS / "recipe"))
from graph import ClassifierGraph  # noqa: E402


class Exporter:
    """Adds PyTorch modules to a graph, batch normalisation folded into the convolutions."""

    def __init__(self, name):
        self.graph = ClassifierGraph(name, 32)

    def add(self, name, module, x):
        match module:
            case nn.Sequential():
                return self.chain(name, list(module), x)
            case Inception():
                branches = ["one", "three", "five", "pooled"]
                parts = [self.add(f"{name}.{b}", getattr(module, b), x) for b in branches]
                return self.graph.concat(name, parts)
            case Residual():
                body = self.add(f"{name}.body", module.body, x)
                return self.graph.relu(name, self.graph.add(f"{name}.add", x, body))
            case nn.MaxPool2d(kernel_size=kernel, stride=stride, padding=pad):
                return self.graph.max_pool(name, x, kernel=kernel, stride=stride, pad=pad)
            case nn.Flatten():
                return self.graph.flatten(name, x)
            case nn.ReLU():
                return self.graph.relu(name, x)
            case nn.Linear(weight=weight, bias=bias):
                return self.graph.linear(name, x, weight.numpy(), bias.numpy())
        raise TypeError(f"no rule for {type(module).__name__}")

    def chain(self, name, layers, x):
        index = 0
        while index < len(layers):
            layer, label = layers[index], f"{name}.{index}"
            if isinstance(layer, nn.Conv2d):
                weight, bias = fold(layer, layers[index + 1])
                pad = layer.padding[0]
                x = self.graph.convolution(label, x, weight, bias, pads=(pad, pad))
                index += 2
            else:
                x = self.add(label, layer, x)
                index += 1
        return x


def fold(convolution, normalisation):
    """Weights and biases of a convolution with its batch normalisation taken in."""
    scale = normalisation.weight / torch.sqrt(normalisation.running_var + normalisation.eps)
    weight = convolution.weight * scale[:, None, None, None]
    return weight.numpy(), (normalisation.bias - normalisation.running_mean * scale).numpy()


def build(network):
    """The ONNX model, and for every early exit the tensor where its stage ends."""
    exporter, boundaries, outputs = Exporter(network.name), {}, {}
    graph = exporter.graph
    x = graph.input
    for (exit, stage), width in zip(network.stages.items(), network.widths):
        x = boundaries[exit] = exporter.add(exit, stage, x)
        if exit in network.exits:
            features = graph.mean_over_pixels(f"{exit}.features", x)
            linear = network.exits[exit]
            graph.linear(f"{exit}.logits", features, linear.weight.numpy(), linear.bias.numpy())
            outputs |= {f"{exit}.features": ["n", width], f"{exit}.logits": ["n", CLASSES]}
    del boundaries[exit]
    match network.head:
        case PooledLinear(linear=linear):
            x = graph.mean_over_pixels("features", x)
            width = linear.in_features
            x = graph.linear("head", x, linear.weight.numpy(), linear.bias.numpy())
        case nn.Sequential():
            *hidden, linear = network.head
            x = exporter.add("head", nn.Sequential(*hidden), x)
            # The hidden layer is what the last one sees.
            graph.rename(x, "features")
            width = linear.in_features
            x = graph.linear("head.out", "features", linear.weight.numpy(), linear.bias.numpy())
    outputs["features"] = ["n", width]
    return graph.finish(x, CLASSES, outputs), boundaries


def manifest(network, file, boundaries, cost):
    exits = "".join(
        f"""
[[exit]]
name = "{exit}"
activations = "{tensor}"
features = "{exit}.features"
logits = "{exit}.logits"
"""
        for exit, tensor in boundaries.items()
    )
    return f"""name = "{network.name}"
description = "{network.description}, trained on CIFAR-10"
file = "{file.name}"
sha256 = "{hashlib.sha256(file.read_bytes()).hexdigest()}"
bytes = {file.stat().st_size}
licence = "MIT OR Apache-2.0"
sources = ["trained by ../cifar10/train.py on CIFAR-10 (Krizhevsky, 2009)"]
labels = "../cifar10/labels.txt"
multiply_adds = {cost:_}

[input]
tensor = "image"
size = 32
channel_order = "rgb"
mean = {list(MEAN)}
deviation = {list(DEVIATION)}

[input.resize]
method = "stretch"
to = 32
filter = "bilinear"

[output]
tensor = "logits"
kind = "logits"
classes = {CLASSES}
features = "features"
{exits}"""


def check(network, file):
    """Compares with PyTorch: f16 weights move the logits a little, never by more than this."""
    image = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(str(file))
    names = ["logits", *(f"{exit}.logits" for exit in network.exits)]
    found = session.run(names, {"image": image.numpy()})
    pooled = network.pooled(image)
    wanted = [network(image), *(network.exits[e](pooled[e]) for e in network.exits)]
    for name, a, b in zip(names, found, wanted):
        difference = np.abs(a - b.numpy()).max() / np.abs(b.numpy()).max()
        if difference > 5e-3:
            raise SystemExit(f"{name} differs from PyTorch by {difference:.1e} of its range")
        print(f"{name}: within {difference:.1e} of PyTorch")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder of train.py")
    parser.add_argument("--models", type=pathlib.Path, default=MODELS)
    arguments = parser.parse_args()
    network = NETWORKS[arguments.network]().eval()
    network.load_state_dict(torch.load(arguments.work / f"{arguments.network}.pt"))
    parameters = sum(values.numel() for values in network.parameters())
    print(f"{network.name}: {parameters:,} parameters")
    for stage, cost in multiply_adds_up_to(network).items():
        print(f"up to {stage}: {cost / 1e6:.2f} million multiply-adds")
    folder = arguments.models / network.name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{network.name}.onnx"
    with torch.no_grad():
        model, boundaries = build(network)
        file.write_bytes(model.SerializeToString(deterministic=True))
        check(network, file)
    (folder / "model.toml").write_text(manifest(network, file, boundaries, multiply_adds(network)))
    (MODELS / "cifar10" / "labels.txt").write_text("".join(f"{name}\n" for name in data.CLASSES))


if __name__ == "__main__":
    main()
