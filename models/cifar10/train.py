"""Trains a network on CIFAR-10, then its early exits with the network frozen.

    python train.py alexnet --data DIR --work DIR

Checkpoints after every epoch; started again, it goes on where it stopped. Writes a line of JSON an
epoch to `<work>/<network>.jsonl`. Looks at training images alone: the held-out accuracy in the log is
for people, nothing is chosen by it.
"""

import argparse
import json
import pathlib
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import data
from networks import NETWORKS, multiply_adds

MEAN = (125.3, 123.0, 113.9)
DEVIATION = (63.0, 62.1, 66.7)


class Cycle(NamedTuple):
    """Epochs over which the learning rate rises to its peak and falls to nothing.

    `cut` is the side of the square that is cut out of every image (0: none). `sides` shrinks images from
    a share of the epochs on: an early epoch costs half as much, and the last ones see whole images.
    """

    epochs: int
    rate: float
    cut: int = 0
    sides: dict = {}


# Cycles and weight decay. Later cycles continue where the earlier ones left the two larger networks still
# underfitting. The small network underfits throughout, so it is regularised less.
RECIPES = {
    "alexnet": dict(cycles=[Cycle(30, 0.15)], decay=2e-4),
    "googlenet": dict(
        cycles=[
            Cycle(20, 0.2, sides={0.0: 24, 0.5: 32}),
            Cycle(14, 0.12, sides={0.0: 24, 0.3: 32}),
            Cycle(12, 0.12, cut=8),
        ],
        decay=5e-4,
    ),
    "resnet": dict(
        cycles=[
            Cycle(20, 0.2, cut=8, sides={0.0: 20, 0.3: 24, 0.55: 32}),
            Cycle(26, 0.12, cut=8, sides={0.0: 24, 0.18: 32}),
        ],
        decay=5e-4,
    ),
}
BATCH = 250


def normalise(pixels):
    """u8 `[n, 32, 32, 3]` to f32 `[n, 3, 32, 32]`."""
    values = (torch.from_numpy(pixels).float() - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    return values.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def augment(images, cut, generator):
    """Shifts by up to 4 pixels, mirrors half of the images, cuts a square out."""
    n, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    shift = torch.randint(0, 9, (2, n), generator=generator)
    mirrored = torch.rand(n, generator=generator) < 0.5
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns) + shift[1][:, None]
    rows = torch.arange(height)[None, :] + shift[0][:, None]
    out = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    if cut:
        centre = torch.randint(0, height, (2, n), generator=generator)
        grid = torch.arange(height)
        hit_rows = (grid[None] - centre[0][:, None]).abs() <= cut // 2
        hit_columns = (grid[None] - centre[1][:, None]).abs() <= cut // 2
        out = out.masked_fill((hit_rows[:, :, None] & hit_columns[:, None, :])[..., None], 0.0)
    return out.permute(0, 3, 1, 2)


def learning_rate(progress, peak):
    """Rises over the first fifth, then falls to nothing."""
    return peak * (progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8)


def accuracy(network, images, labels):
    network.eval()
    with torch.no_grad():
        right = sum(
            (network(images[i : i + 500]).argmax(1) == labels[i : i + 500]).sum().item()
            for i in range(0, len(images), 500)
        )
    return right / len(images)


def train(network, recipe, training, held_out, checkpoint, log):
    images, labels = training
    parameters = [p for name, p in network.named_parameters() if not name.startswith("exits.")]
    optimiser = torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, weight_decay=recipe["decay"], nesterov=True
    )
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["epoch"] + 1
    steps = len(images) // BATCH
    schedule = [(cycle, number) for cycle in recipe["cycles"] for number in range(cycle.epochs)]
    for epoch, (cycle, number) in list(enumerate(schedule))[first:]:
        started = time.monotonic()
        generator = torch.Generator().manual_seed(1000 + epoch)
        side = 32
        for share, value in cycle.sides.items():
            if number >= share * cycle.epochs:
                side = value
        network.train()
        order = torch.randperm(len(images), generator=generator)
        total_loss = right = 0
        for step in range(steps):
            rate = learning_rate((number + step / steps) / cycle.epochs, cycle.rate)
            for group in optimiser.param_groups:
                group["lr"] = rate
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = augment(images[chosen], cycle.cut, generator)
            if side != 32:
                batch = F.interpolate(batch, size=side, mode="bilinear", antialias=True)
            scores = network(batch.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(scores, labels[chosen], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total_loss += loss.item()
            right += (scores.argmax(1) == labels[chosen]).sum().item()
        torch.save(
            {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch},
            checkpoint.with_suffix(".new"),
        )
        checkpoint.with_suffix(".new").replace(checkpoint)
        log(
            epoch=epoch,
            side=side,
            loss=round(total_loss / steps, 4),
            training_accuracy=round(right / (steps * BATCH), 4),
            held_out_accuracy=round(accuracy(network, *held_out), 4),
            seconds=round(time.monotonic() - started),
        )


def train_exits(network, training, held_out, log):
    """A linear layer on every stage's pooled features, by L-BFGS on the cross-entropy."""

    def pooled(images):
        parts = [network.pooled(images[i : i + 500]) for i in range(0, len(images), 500)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    network.eval()
    with torch.no_grad():
        features, check = pooled(training[0]), pooled(held_out[0])
    for name, exit in network.exits.items():
        mean, deviation = features[name].mean(0), features[name].std(0) + 1e-6
        standard = (features[name] - mean) / deviation
        layer = nn.Linear(standard.shape[1], 10)
        nn.init.zeros_(layer.weight)
        optimiser = torch.optim.LBFGS(
            layer.parameters(), max_iter=200, line_search_fn="strong_wolfe", history_size=20
        )

        def closure():
            optimiser.zero_grad()
            loss = F.cross_entropy(layer(standard), training[1]) + 1e-4 * layer.weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        with torch.no_grad():
            exit.weight.copy_(layer.weight / deviation)
            exit.bias.copy_(layer.bias - exit.weight @ mean)
            right = (exit(check[name]).argmax(1) == held_out[1]).float().mean().item()
        log(exit=name, held_out_accuracy=round(right, 4))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with train.tar")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for checkpoints")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[arguments.network]

    def log(**values):
        line = json.dumps(values)
        print(line, flush=True)
        with open(arguments.work / f"{arguments.network}.jsonl", "a") as file:
            file.write(line + "\n")

    torch.manual_seed(data.SEED)
    np.random.seed(data.SEED)
    _, pixels, labels = data.read(arguments.data / "train.tar")
    fit, held = data.split(labels)
    images, labels = normalise(pixels), torch.from_numpy(labels)
    training, held_out = (images[fit], labels[fit]), (images[held], labels[held])
    network = NETWORKS[arguments.network]().to(memory_format=torch.channels_last)
    print(f"{network.name}: {multiply_adds(network) / 1e6:.1f} million multiply-adds an image")
    checkpoint = arguments.work / f"{arguments.network}.checkpoint"
    train(network, recipe, training, held_out, checkpoint, log)
    train_exits(network, training, held_out, log)
    torch.save(network.state_dict(), arguments.work / f"{arguments.network}.pt")


if __name__ == "__main__":
    main()
