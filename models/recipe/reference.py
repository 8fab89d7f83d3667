"""Classifies labelled photos with Pillow and ONNX Runtime, for comparison.

Reads `labels.csv` of a folder of photos, prepares each photo as `preprocess.py`
says (the exact geometry is in its docstring), runs the three committed networks
on the CPU, one image at a time, and writes the top-1 class ids as CSV with the
columns file, label and one per network. Prints top-1 and top-5 accuracy. Where
two classes score the same, the lower class id ranks first.

The centre square of the EfficientNet-Lite networks is cut with a real-valued
box: side min(width, height) * fraction, edges at (width - side) / 2 and
(height - side) / 2, resized in one step. Rounding the square to whole pixels
gives other accuracies (0.894 to 0.898 instead of 0.896 for Lite0).
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import preprocess

MODELS = Path(__file__).resolve().parent.parent
NETWORKS = ("squeezenet1.0", "efficientnet-lite0", "efficientnet-lite2")


class Network:
    """One network with its manifest and session."""

    def __init__(self, name: str) -> None:
        self.manifest = preprocess.load_manifest(MODELS / name / "model.toml")
        file = MODELS / name / self.manifest["file"]
        self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def top5(self, image: Image.Image) -> list[int]:
        """Returns the five best class ids of a photo, best first."""
        feed = {self.manifest["input"]["tensor"]: preprocess.tensor(image, self.manifest)}
        scores = self._session.run([self.manifest["output"]["tensor"]], feed)[0][0]
        return np.argsort(-scores, kind="stable")[:5].tolist()


def main() -> None:
    """Classifies a folder and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("photos", type=Path, help="a folder with photos and labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    arguments = parser.parse_args()

    with (arguments.photos / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = sorted((row["file"], int(row["label"])) for row in csv.DictReader(file))
    networks = {name: Network(name) for name in NETWORKS}
    hits = {name: [0, 0] for name in NETWORKS}
    with arguments.out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "label", *NETWORKS])
        for name, label in labels:
            with Image.open(arguments.photos / name) as image:
                ranked = {network: networks[network].top5(image) for network in NETWORKS}
            table.writerow([name, label, *(ranked[network][0] for network in NETWORKS)])
            for network, classes in ranked.items():
                hits[network][0] += label == classes[0]
                hits[network][1] += label in classes
    for network, (top1, top5) in hits.items():
        count = len(labels)
        print(f"{network}: top-1 {top1 / count:.3f}, top-5 {top5 / count:.3f} of {count}")


if __name__ == "__main__":
    main()
