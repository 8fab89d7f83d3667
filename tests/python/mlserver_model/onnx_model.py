"""Serves one ONNX classifier from MLServer: `image` FP32 in, `logits` FP32 out."""

import asyncio

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse

INPUT = "image"
OUTPUT = "logits"


class OnnxModel(MLModel):
    """Runs the file in the parameter `uri`; the shapes are those in the model settings."""

    async def load(self) -> bool:
        """Opens the file on one thread, so that tests stay light."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self._shape = tuple(self.settings.inputs[0].shape[1:])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classifies a batch of prepared images."""
        tensors = {item.name: item for item in payload.inputs}
        if set(tensors) != {INPUT} or tensors[INPUT].datatype != "FP32":
            raise InferenceError(f"the one input is {INPUT}, FP32")
        images = NumpyCodec.decode_input(tensors[INPUT])
        if images.shape[1:] != self._shape:
            raise InferenceError(f"{INPUT} has shape {images.shape}, not (n, *{self._shape})")
        (logits,) = await asyncio.to_thread(self._session.run, [OUTPUT], {INPUT: images})
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(OUTPUT, logits)],
        )
