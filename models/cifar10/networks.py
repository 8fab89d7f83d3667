"""The three CIFAR-10 networks, each a list of stages that end in an exit.

A stage maps the activations of the one before it; its exit is one linear layer on the global average
of what it gives. The last stage's exit is the network's own classifier.
"""

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 10


def convolution(inputs, outputs, size, pool=None):
    """Convolution, batch normalisation, ReLU, and a pooling where one is given."""
    layers = [
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, *([pool] if pool else []))


class Inception(nn.Module):
    """The four branches of GoogLeNet: 1×1, 1×1 → 3×3, 1×1 → 5×5, pooling → 1×1."""

    def __init__(self, inputs, one, three, five, pooled):
        super().__init__()
        self.one = convolution(inputs, one, 1)
        self.three = nn.Sequential(
            convolution(inputs, three[0], 1), convolution(three[0], three[1], 3)
        )
        self.five = nn.Sequential(
            convolution(inputs, five[0], 1), convolution(five[0], five[1], 5)
        )
        self.pooled = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), convolution(inputs, pooled, 1)
        )
        self.outputs = one + three[1] + five[1] + pooled

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


class Residual(nn.Module):
    """Two 3×3 convolutions beside the identity."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            convolution(channels, channels, 3),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return F.relu(x + self.body(x))


class Staged(nn.Module):
    """Stages with the names of their exits; `widths` are the channels that each stage gives."""

    def __init__(self, name, description, stages, widths, head):
        super().__init__()
        self.name, self.description, self.widths = name, description, widths
        self.stages = nn.ModuleDict(stages)
        # The last stage's exit is trained with the network, the others with it frozen.
        self.head = head
        self.exits = nn.ModuleDict(
            {exit: nn.Linear(width, CLASSES) for exit, width in list(zip(stages, widths))[:-1]}
        )

    def forward(self, x):
        for stage in self.stages.values():
            x = stage(x)
        return self.head(x)

    def pooled(self, x):
        """The pooled features at every exit."""
        features = {}
        for name, stage in self.stages.items():
            x = stage(x)
            features[name] = x.mean((2, 3))
        return features


class PooledLinear(nn.Module):
    """A linear layer on the global average."""

    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, x):
        return self.linear(x.mean((2, 3)))


def alexnet():
    """Five convolutions and two fully connected layers, as AlexNet has them, for 32×32 pixels."""
    pool = lambda: nn.MaxPool2d(3, stride=2, padding=1)  # overlapping, as in the original
    widths = [12, 24, 32, 32, 32]
    stages = {
        "conv1": convolution(3, 12, 3, pool()),
        "conv2": convolution(12, 24, 3, pool()),
        "conv3": convolution(24, 32, 3),
        "conv4": convolution(32, 32, 3),
        "conv5": convolution(32, 32, 3, pool()),
    }
    head = nn.Sequential(
        nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(inplace=True), nn.Linear(64, CLASSES)
    )
    return Staged("cifar10-alexnet", "AlexNet-style: five convolutions", stages, widths, head)


def googlenet():
    """A stem and five inception blocks."""
    a = Inception(32, 24, (24, 40), (8, 8), 8)
    b = Inception(a.outputs, 24, (48, 56), (8, 16), 16)
    c = Inception(b.outputs, 40, (56, 72), (16, 16), 16)
    d = Inception(c.outputs, 48, (64, 88), (16, 24), 24)
    e = Inception(d.outputs, 48, (64, 104), (16, 24), 24)
    stages = {
        "inception1": nn.Sequential(convolution(3, 32, 3, nn.MaxPool2d(2)), a, nn.MaxPool2d(2)),
        "inception2": b,
        "inception3": c,
        "inception4": d,
        "inception5": e,
    }
    widths = [block.outputs for block in (a, b, c, d, e)]
    head = PooledLinear(widths[-1])
    return Staged("cifar10-googlenet", "GoogLeNet-style: five inception blocks", stages, widths, head)


def resnet():
    """A stem and three groups of three residual blocks."""
    group = lambda inputs, outputs: nn.Sequential(
        convolution(inputs, outputs, 3, nn.MaxPool2d(2)),
        *(Residual(outputs) for _ in range(3)),
    )
    widths = [48, 96, 192]
    stages = {
        "group1": nn.Sequential(convolution(3, 24, 3), group(24, 48)),
        "group2": group(48, 96),
        "group3": group(96, 192),
    }
    head = PooledLinear(widths[-1])
    return Staged("cifar10-resnet", "ResNet-style: three groups of residual blocks", stages, widths, head)


NETWORKS = {"alexnet": alexnet, "googlenet": googlenet, "resnet": resnet}


def multiply_adds(network):
    """Multiply-adds of one image, convolutions and linear layers."""
    return multiply_adds_up_to(network)["end"]


def multiply_adds_up_to(network):
    """Multiply-adds of one image up to the end of every stage, without the exits, and up to `end`."""
    total, up_to = 0, {}

    def count(layer, _, output):
        nonlocal total
        weights = layer.weight.numel()
        total += weights * (output.shape[2] * output.shape[3] if output.dim() == 4 else 1)

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    network.eval()
    x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        for name, stage in network.stages.items():
            x = stage(x)
            up_to[name] = total
        network.head(x)
    for handle in handles:
        handle.remove()
    return up_to | {"end": total}
