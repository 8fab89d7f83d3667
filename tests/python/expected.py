"""What the service should answer for one image: the manifest's input, ONNX Runtime's logits.

Shared by `oip_client.py` and `h3_client.py`, with their command line. The image is
prepared by `models/recipe/preprocess.py`, so with Pillow and nothing of Outpost's own.
"""

import argparse
import contextlib
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models" / "recipe"))
import preprocess  # noqa: E402 (found only with the path above)


def command_line(description: str) -> argparse.Namespace:
    """Parses the arguments that both clients take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--address", required=True, metavar="HOST:PORT")
    parser.add_argument("--ca", type=Path, required=True, help="PEM certificate to trust")
    parser.add_argument("--model", required=True, help="name of the network on the server")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, required=True, help="the same network as a file")
    parser.add_argument("--manifest", type=Path, required=True, help="its model.toml")
    return parser.parse_args()


class Expectation:
    """The input tensor, the encoded image and the logits that belong to them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        manifest = preprocess.load_manifest(arguments.manifest)
        self.input_name: str = manifest["input"]["tensor"]
        self.output_name: str = manifest["output"]["tensor"]
        self.classes: int = manifest["output"]["classes"]
        self.size: int = manifest["input"]["size"]
        self.encoded = arguments.image.read_bytes()
        with Image.open(arguments.image) as image:
            self.tensor = preprocess.tensor(image, manifest)
        session = onnxruntime.InferenceSession(arguments.onnx, providers=["CPUExecutionProvider"])
        self._run = lambda tensor: session.run([self.output_name], {self.input_name: tensor})[0]
        self.logits: np.ndarray = self._run(self.tensor)
        self.top1 = int(self.logits.argmax())

    def check_logits(self, got: np.ndarray, tolerance: float) -> str:
        """Checks shape, type and values; `tolerance` is relative to the largest logit."""
        check(got is not None, f"the answer has no output {self.output_name}")
        check(got.dtype == np.float32, f"the output is {got.dtype}, not f32")
        check(got.shape == self.logits.shape, f"shape {got.shape}, expected {self.logits.shape}")
        largest = float(np.abs(self.logits).max())
        error = float(np.abs(got - self.logits).max()) / largest
        check(error <= tolerance, f"largest error {error:.2e} of the largest logit")
        return f"{self.check_top1(got)}, largest error {error:.1e} of the largest logit"

    def check_top1(self, got: np.ndarray) -> str:
        """Checks only which class comes first."""
        check(got is not None and got.size == self.classes, "the answer has not one row of logits")
        top1 = int(np.asarray(got).reshape(-1).argmax())
        check(top1 == self.top1, f"top-1 is {top1}, ONNX Runtime says {self.top1}")
        return f"top-1 {top1}"


def check(holds: bool, otherwise: str) -> None:
    """Fails the running check with a sentence."""
    if not holds:
        raise AssertionError(otherwise)


@dataclass
class Report:
    """Counts checks and prints a line for each."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def run(self, name: str, body: Callable[[], str | None]) -> None:
        """Runs one check; what it returns is printed, what it raises fails it."""
        with self._recorded(name) as details:
            details.append(body())

    async def run_async(self, name: str, body: Callable[[], Awaitable[str | None]]) -> None:
        """The same for a check that waits."""
        with self._recorded(name) as details:
            details.append(await body())

    def fail(self, name: str, detail: str) -> None:
        """Counts and prints a failure."""
        self.failed.append(name)
        print(f"FAIL  {name}: {detail}", flush=True)

    def finish(self) -> int:
        """Prints the sum and returns the exit status."""
        print(f"{self.passed} passed, {len(self.failed)} failed", flush=True)
        return 1 if self.failed else 0

    @contextlib.contextmanager
    def _recorded(self, name: str) -> Iterator[list[str | None]]:
        details: list[str | None] = []
        try:
            yield details
        except AssertionError as failure:
            self.fail(name, str(failure))
        except Exception as error:  # noqa: BLE001 (one broken check must not hide the others)
            traceback.print_exc()
            self.fail(name, f"{type(error).__name__}: {error}")
        else:
            self.passed += 1
            said = "".join(f": {detail}" for detail in details if detail)
            print(f"ok    {name}{said}", flush=True)
