"""Reads a PyTorch checkpoint of the format before 1.6, without PyTorch.

Such a file is a row of pickles (a magic number, the protocol version, facts
about the machine, the state, the keys of the storages), then each storage in
the order of those keys: its element count as i64 and its raw elements. Only the
few names that a plain state dictionary needs may be unpickled, so a hostile
file cannot run code.
"""

import collections
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
ELEMENTS = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _View(NamedTuple):
    """A tensor: where it lies in its storage, in elements."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Rebuilds the state with `_View`s in place of tensors."""

    def __init__(self, file: object) -> None:
        super().__init__(file)
        self.kinds: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _View(
                storage, offset, shape, strides
            )
        if module == "torch" and name in ELEMENTS:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a state dictionary")

    def persistent_load(self, pid: tuple) -> str:
        _, kind, key, *_ = pid
        self.kinds[key] = ELEMENTS[kind]
        return key


def load(path: Path) -> dict[str, np.ndarray]:
    """Returns the state dictionary of the checkpoint at `path` as numpy arrays."""
    with path.open("rb") as file:
        if _Unpickler(file).load() != MAGIC:
            raise ValueError(f"{path} is not a PyTorch checkpoint of the old format")
        _Unpickler(file).load()  # protocol version
        if not _Unpickler(file).load()["little_endian"]:
            raise ValueError(f"{path} was written on a big-endian machine")
        unpickler = _Unpickler(file)
        state = unpickler.load()
        storages = {}
        for key in _Unpickler(file).load():
            count = int.from_bytes(file.read(8), "little")
            kind = unpickler.kinds[key]
            storages[key] = np.frombuffer(file.read(count * kind.itemsize), kind, count)

    arrays = {}
    for name, view in state.items():
        storage = storages[view.storage]
        strides = [stride * storage.itemsize for stride in view.strides]
        arrays[name] = np.lib.stride_tricks.as_strided(
            storage[view.offset :], view.shape, strides, writeable=False
        )
    return arrays
