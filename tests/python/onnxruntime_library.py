"""Prints the path of the library of ONNX Runtime that comes with its Python package."""

from pathlib import Path

import onnxruntime

(LIBRARY,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
print(LIBRARY)
