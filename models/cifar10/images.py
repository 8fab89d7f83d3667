"""Unpacks the labelled images that policies are learned from and judged on.

    python images.py --data DIR --out DIR

Writes folders of JPEG files, each with a `labels.csv`: `held-out`, the 5,000 training images that no
network was trained on; `test`, all test images; `sample` and `sample-2`, 500 of those each, 50 a class.
"""

import argparse
import csv
import pathlib
import tarfile

import numpy as np

from data import CLASSES, SEED, split

SAMPLE_PER_CLASS = 50


def read(path):
    """Name, label and bytes of every image, by name, as `data.read` orders them.

    The name says which set it is from, as both number their files alike.
    """
    prefix = path.stem.split("-")[0]
    with tarfile.open(path) as tar:
        members = sorted((m for m in tar.getmembers() if m.isfile()), key=lambda m: m.name)
        for member in members:
            folder, file = member.name.split("/")[-2:]
            yield f"{prefix}-{folder}-{file}", CLASSES.index(folder), tar.extractfile(member).read()


def write(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "labels.csv", "w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["file", "label"])
        for name, label, jpeg in images:
            (folder / name).write_bytes(jpeg)
            lines.writerow([name, label])
    print(f"{folder}: {len(images)} images")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with the tar files")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    training = list(read(arguments.data / "train.tar"))
    _, held_out = split(np.array([label for _, label, _ in training]))
    write(arguments.out / "held-out", [training[i] for i in held_out])
    test = list(read(arguments.data / "test-a.tar"))
    write(arguments.out / "test", test)
    order = np.random.default_rng(SEED).permutation(len(test))
    by_class = [[i for i in order if test[i][1] == label] for label in range(len(CLASSES))]
    for number, name in enumerate(["sample", "sample-2"]):
        part = slice(number * SAMPLE_PER_CLASS, (number + 1) * SAMPLE_PER_CLASS)
        taken = sorted(i for of_class in by_class for i in of_class[part])
        write(arguments.out / name, [test[i] for i in taken])


if __name__ == "__main__":
    main()
