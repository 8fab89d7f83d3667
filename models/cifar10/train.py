"""Trains a network on CIFAR-10, then its early exits with the network frozen.

    python train.py resnet --data DIR --work DIR
    python train.py googlenet --data DIR --work DIR      # and alexnet

The ResNet learns from the labels; the smaller networks learn mostly from what it says of every image as
they see it: shifted, mirrored and mixed with another (Hinton, Vinyals & Dean, "Distilling the Knowledge
in a Neural Network", 2015; Beyer et al., "Knowledge distillation: A good teacher is patient and
consistent", 2022).

Checkpoints on the way; started again, it goes on where it stopped. Writes a line of JSON every few
epochs to `<work>/<network>.jsonl`. Looks at training images alone; the held-out accuracy in the log is
for people.
"""

import argparse
import json
import math
import pathlib
import time
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

import data
from networks import NETWORKS, multiply_adds

MEAN = (125.3, 123.0, 113.9)
DEVIATION = (63.0, 62.1, 66.7)
BATCH = 1000
# Epochs between two lines of the log, and between two checkpoints.
EVERY = 5
# Scores are divided by it before the student's are compared with the teacher's.
TEMPERATURE = 3.0
# The labels' share of the student's loss.
LABELS = 0.2


class Cycle(NamedTuple):
    """Epochs over which the learning rate rises to its peak and falls to nothing."""

    epochs: int
    peak: float


class Recipe(NamedTuple):
    """How a network is trained: cycles, each from where the one before it ended, and weight decay.

    `cut` is the side of the square that is cut out of every image, `mix` the largest share that another
    image has in it. `teacher` names the network that is learned from, beside the labels.
    """

    cycles: tuple[Cycle, ...]
    decay: float
    cut: int = 0
    mix: float = 0.0
    teacher: str | None = None


# The smaller a network, the less it is regularised: it underfits.
RECIPES = {
    "resnet": Recipe((Cycle(215, 0.4),), 5e-4, cut=8, mix=0.5),
    "googlenet": Recipe((Cycle(110, 0.5), Cycle(135, 0.3)), 1e-4, mix=0.25, teacher="resnet"),
    "alexnet": Recipe((Cycle(300, 0.5),), 2e-5, teacher="resnet"),
}


def normalise(pixels):
    """u8 `[n, 32, 32, 3]` to f32 `[n, 3, 32, 32]`."""
    values = (torch.from_numpy(pixels).float() - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    return values.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def augment(images, cut, generator):
    """Shifts by up to 4 pixels, mirrors half of the images, cuts a square out."""
    n, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    shift = torch.randint(0, 9, (2, n, 1), generator=generator, device=device)
    mirrored = torch.rand(n, 1, generator=generator, device=device) < 0.5
    columns = torch.arange(width, device=device).expand(n, width)
    columns = torch.where(mirrored, columns.flip(1), columns) + shift[1]
    rows = torch.arange(height, device=device)[None, :] + shift[0]
    each = torch.arange(n, device=device)[:, None, None]
    out = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    if cut:
        out = without_square(out, cut, generator)
    return out.permute(0, 3, 1, 2)


def without_square(images, cut, generator):
    """`[n, height, width, channels]` with a square of so many pixels a side set to the mean, anywhere."""
    n, height, _, _ = images.shape
    centre = torch.randint(0, height, (2, n, 1), generator=generator, device=images.device)
    grid = torch.arange(height, device=images.device)[None]
    hit_rows, hit_columns = ((grid - centre[axis]).abs() <= cut // 2 for axis in (0, 1))
    hit = hit_rows[:, :, None] & hit_columns[:, None, :]
    return images.masked_fill(hit[..., None], 0.0)


def mixed(images, labels, most, generator):
    """Each image with up to `most` of another, and the share of each class in it."""
    shares = F.one_hot(labels, 10).float()
    other = torch.randperm(len(images), generator=generator, device=images.device)
    part = most * torch.rand(len(images), 1, generator=generator, device=images.device)
    wide = part[:, :, None, None]
    return torch.lerp(images, images[other], wide), torch.lerp(shares, shares[other], part)


def learning_rate(progress, peak):
    """Rises over the first tenth, then falls to nothing as half a cosine."""
    if progress < 0.1:
        return peak * progress / 0.1
    return peak * 0.5 * (1 + math.cos((progress - 0.1) / 0.9 * math.pi))


def accuracy(network, images, labels):
    network.eval()
    with torch.no_grad():
        right = sum(
            (network(images[i : i + 500]).argmax(1) == labels[i : i + 500]).sum().item()
            for i in range(0, len(images), 500)
        )
    return right / len(images)


def train(network, recipe, teacher, training, held_out, checkpoint, log):
    """Trains on the labels and, where there is a `teacher`, mostly on what it says."""
    images, labels = training
    parameters = [p for name, p in network.named_parameters() if not name.startswith("exits.")]

    def begin():
        return torch.optim.SGD(
            parameters, lr=0.1, momentum=0.9, weight_decay=recipe.decay, nesterov=True
        )

    optimiser, first = begin(), 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["epoch"] + 1
    steps = len(images) // BATCH
    half = lambda: torch.autocast(images.device.type, torch.bfloat16, images.is_cuda)
    started = time.monotonic()
    schedule = [(cycle, number) for cycle in recipe.cycles for number in range(cycle.epochs)]
    for epoch, (cycle, number) in list(enumerate(schedule))[first:]:
        if number == 0:
            optimiser = begin()
        generator = torch.Generator(images.device).manual_seed(1000 + number)
        network.train()
        order = torch.randperm(len(images), generator=generator, device=images.device)
        total = torch.zeros((), device=images.device)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate((number + step / steps) / cycle.epochs, cycle.peak)
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = augment(images[chosen], recipe.cut, generator)
            batch, shares = mixed(batch, labels[chosen], recipe.mix, generator)
            batch = batch.contiguous(memory_format=torch.channels_last)
            with half():
                scores = network(batch).float()
                if teacher:
                    with torch.no_grad():
                        told = teacher(batch).float()
            loss = F.cross_entropy(scores, shares)
            if teacher:
                apart = F.kl_div(
                    F.log_softmax(scores / TEMPERATURE, 1),
                    F.log_softmax(told / TEMPERATURE, 1),
                    reduction="batchmean",
                    log_target=True,
                )
                loss = LABELS * loss + (1 - LABELS) * TEMPERATURE**2 * apart
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach()
        if (epoch + 1) % EVERY == 0:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            log(
                epoch=epoch,
                loss=round(total.item() / steps, 4),
                held_out_accuracy=round(accuracy(network, *held_out), 4),
                seconds=round(time.monotonic() - started, 1),
            )
            started = time.monotonic()


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
        layer = nn.Linear(standard.shape[1], 10, device=standard.device)
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

    def log(**values):
        line = json.dumps(values)
        print(line, flush=True)
        with open(arguments.work / f"{arguments.network}.jsonl", "a") as file:
            file.write(line + "\n")

    torch.manual_seed(data.SEED)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _, pixels, labels = data.read(arguments.data / "train.tar")
    fit, held = data.split(labels)
    images, labels = normalise(pixels).to(device), torch.from_numpy(labels).to(device)
    training, held_out = (images[fit], labels[fit]), (images[held], labels[held])

    recipe = RECIPES[arguments.network]

    def built(name):
        return NETWORKS[name]().to(device, memory_format=torch.channels_last)

    teacher = None
    if recipe.teacher:
        teacher = built(recipe.teacher)
        weights = arguments.work / f"{recipe.teacher}.pt"
        teacher.load_state_dict(torch.load(weights, map_location=device))
        teacher.eval()
    network = built(arguments.network)
    checkpoint = arguments.work / f"{arguments.network}.checkpoint"
    train(network, recipe, teacher, training, held_out, checkpoint, log)
    torch.backends.cudnn.allow_tf32 = False
    train_exits(network, training, held_out, log)
    torch.save(network.cpu().state_dict(), arguments.work / f"{arguments.network}.pt")
    print(f"{arguments.network}: {multiply_adds(network) / 1e6:.1f} million multiply-adds an image")


if __name__ == "__main__":
    main()
