"""Serves one ONNX classifier from Ray: `image` FP32 in, `logits` FP32 out.

Ray's gRPC proxy calls the method of a call's name, with the call's message.
"""

import asyncio

import numpy as np
import onnxruntime
import open_inference_pb2 as oip
from ray import serve

INPUT = "image"
OUTPUT = "logits"
SIZE = 260
CLASSES = 1000


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=8)
class Network:
    """One replica. Its version is a name of its own, so that callers see who answered."""

    def __init__(self, onnx: str):
        options = onnxruntime.SessionOptions()
        # Tests stay light.
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            onnx, options, providers=["CPUExecutionProvider"]
        )
        self._replica = serve.get_replica_context().replica_id.unique_id

    async def ModelMetadata(  # noqa: N802, the protocol's name
        self, request: oip.ModelMetadataRequest
    ) -> oip.ModelMetadataResponse:
        """Says what goes in and what comes out."""
        tensor = oip.ModelMetadataResponse.TensorMetadata
        return oip.ModelMetadataResponse(
            name=request.name,
            inputs=[tensor(name=INPUT, datatype="FP32", shape=[-1, 3, SIZE, SIZE])],
            outputs=[tensor(name=OUTPUT, datatype="FP32", shape=[-1, CLASSES])],
        )

    async def ModelInfer(  # noqa: N802
        self, request: oip.ModelInferRequest
    ) -> oip.ModelInferResponse:
        """Classifies a batch of prepared images."""
        shape = list(request.inputs[0].shape)
        images = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(shape)
        (logits,) = await asyncio.to_thread(self._session.run, [OUTPUT], {INPUT: images})
        output = oip.ModelInferResponse.InferOutputTensor(
            name=OUTPUT, datatype="FP32", shape=logits.shape
        )
        return oip.ModelInferResponse(
            model_name=request.model_name,
            model_version=self._replica,
            id=request.id,
            outputs=[output],
            raw_output_contents=[logits.tobytes()],
        )
