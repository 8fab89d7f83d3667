"""What the scripts that run a server have in common; the standard library alone."""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def parser(description: str) -> argparse.ArgumentParser:
    """Returns the arguments that every server takes; `description` is the script's own text."""
    arguments = argparse.ArgumentParser(description=description.split("\n", maxsplit=1)[0])
    arguments.add_argument("--onnx", type=Path, required=True)
    arguments.add_argument("--grpc-port", type=int, required=True)
    arguments.add_argument("--http-port", type=int, required=True)
    return arguments


@contextlib.contextmanager
def working_folder() -> Iterator[str]:
    """Gives a folder for the server's files; what it prints meanwhile goes to standard error."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        contextlib.redirect_stdout(sys.stderr),
    ):
        yield folder


def serve_until_standard_input_ends() -> None:
    """Says that the server is ready, and waits."""
    print("ready", file=sys.__stdout__, flush=True)
    sys.stdin.read()
