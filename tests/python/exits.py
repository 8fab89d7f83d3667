"""Records what ONNX Runtime makes of the CIFAR-10 networks at every exit.

For each network it writes OUT_DIR/<name>/ with a file of raw little-endian f32 for the input, `image`,
and for every tensor that the manifest names at an exit or at the end, named after the tensor.

Example: python exits.py folder
"""

import argparse
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime

MODELS = Path(__file__).resolve().parents[2] / "models"
SEED = 20_260_102


def record(model: Path, folder: Path) -> None:
    """Writes the files of one network."""
    manifest = tomllib.loads((model / "model.toml").read_text(encoding="utf-8"))
    ends = [manifest["output"] | {"logits": manifest["output"]["tensor"]}, *manifest["exit"]]
    tensors = [end[role] for end in ends for role in ("logits", "features")]
    image = np.random.default_rng(SEED).standard_normal((1, 3, 32, 32), np.float32)
    session = onnxruntime.InferenceSession(
        model / manifest["file"], providers=["CPUExecutionProvider"]
    )
    said = session.run(tensors, {manifest["input"]["tensor"]: image})
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in [("image", image), *zip(tensors, said, strict=True)]:
        values.astype("<f4").tofile(folder / name)


def main() -> None:
    """Records every CIFAR-10 network of the model folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out_dir", type=Path)
    arguments = parser.parse_args()
    for model in sorted(MODELS.glob("cifar10-*")):
        record(model, arguments.out_dir / model.name)


if __name__ == "__main__":
    main()
