"""Makes the three committed ONNX files again from their published sources.

Without options it writes them into `models/<name>/`. With `--check` it writes
nothing: it compares what it built with the size and the SHA-256 in each
`model.toml`, and with the committed file, and exits with status 1 where they
differ.
"""

import argparse
import hashlib
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

import efficientnet_lite
import legacy_checkpoint
import squeezenet

MODELS = Path(__file__).resolve().parent.parent


def build_squeezenet() -> onnx.ModelProto:
    """Decodes the committed Deep Compression file."""
    compressed = MODELS / "squeezenet1.0" / "compressed_SqueezeNet.net"
    return squeezenet.build(squeezenet.decode(compressed.read_bytes()))


def build_efficientnet(variant: str) -> onnx.ModelProto:
    """Converts the checkpoint of the installed package."""
    checkpoint = efficientnet_lite.published_checkpoint(variant)
    return efficientnet_lite.build(variant, legacy_checkpoint.load(checkpoint))


RECIPES: dict[str, Callable[[], onnx.ModelProto]] = {
    "squeezenet1.0": build_squeezenet,
    "efficientnet-lite0": lambda: build_efficientnet("lite0"),
    "efficientnet-lite2": lambda: build_efficientnet("lite2"),
}


def differences(name: str, data: bytes) -> Iterator[str]:
    """Says where the bytes of a built file differ from what is committed."""
    folder = MODELS / name
    manifest = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    digest = hashlib.sha256(data).hexdigest()
    if digest != manifest["sha256"]:
        yield f"sha256 is {digest}, the manifest says {manifest['sha256']}"
    if len(data) != manifest["bytes"]:
        yield f"{len(data)} bytes, the manifest says {manifest['bytes']}"
    if (folder / manifest["file"]).read_bytes() != data:
        yield f"{manifest['file']} has other bytes"


def main() -> int:
    """Builds or checks every network; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    check = parser.parse_args().check
    status = 0
    for name, recipe in RECIPES.items():
        data = recipe().SerializeToString(deterministic=True)
        if not check:
            (MODELS / name / f"{name}.onnx").write_bytes(data)
            print(f"{name}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
            continue
        found = list(differences(name, data))
        print(f"{name}: {'; '.join(found) or 'same'}")
        status |= bool(found)
    return status


if __name__ == "__main__":
    sys.exit(main())
