"""CIFAR-10 as arrays, and the split that everything else keeps to.

Reads a tar of class folders with JPEG files. The 50,000 training images are split by a fixed seed:
45,000 to train on, 5,000 held out, 500 of each class, for the exit policy.
"""

import io
import tarfile

import numpy as np
from PIL import Image

CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]
HELD_OUT_PER_CLASS = 500
SEED = 1702


def read(path):
    """File names, pixels `[n, 32, 32, 3]` as u8 and labels of every image, by name."""
    with tarfile.open(path) as tar:
        members = sorted((m for m in tar.getmembers() if m.isfile()), key=lambda m: m.name)
        names = [m.name for m in members]
        pixels = np.stack(
            [np.asarray(Image.open(io.BytesIO(tar.extractfile(m).read())).convert("RGB")) for m in members]
        )
    labels = np.array([CLASSES.index(name.split("/")[-2]) for name in names])
    return names, pixels, labels


def split(labels):
    """Indices to train on and indices held out."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    held_out = np.zeros(len(labels), bool)
    for label in range(len(CLASSES)):
        held_out[order[labels[order] == label][:HELD_OUT_PER_CLASS]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
