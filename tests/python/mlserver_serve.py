"""Runs MLServer with EfficientNet-Lite2 in the foreground, as an independent OIP v2 server.

Listens on 127.0.0.1 only, prints `ready` on standard output once ModelReady says
so, and ends on SIGTERM. MLServer's own messages go to standard error.

Example: python mlserver_serve.py --onnx efficientnet-lite2.onnx --grpc-port 9500 --http-port 9501
"""

import argparse
import asyncio
import contextlib
import sys
from typing import TextIO

import grpc
from mlserver import MLServer, ModelSettings, Settings
from mlserver.grpc.dataplane_pb2 import ModelReadyRequest
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.settings import ModelParameters
from mlserver.types import MetadataTensor

import serving
from mlserver_model.onnx_model import INPUT, OUTPUT, OnnxModel

NAME = "efficientnet-lite2"
SIZE = 260
CLASSES = 1000
# Sixteen images of 3 x 260 x 260 f32 are 12.4 MiB, above gRPC's default of 4 MiB.
MESSAGE_BYTES = 64 * 1024 * 1024


def settings(arguments: argparse.Namespace) -> tuple[Settings, ModelSettings]:
    """Returns what MLServer is told about itself and about the model."""
    server = Settings(
        host="127.0.0.1",
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        grpc_max_message_length=MESSAGE_BYTES,
        metrics_endpoint=None,
        parallel_workers=0,
        load_models_at_startup=False,
        use_structured_logging=False,
    )
    model = ModelSettings(
        name=NAME,
        implementation=OnnxModel,
        platform="onnx",
        inputs=[MetadataTensor(name=INPUT, datatype="FP32", shape=[-1, 3, SIZE, SIZE])],
        outputs=[MetadataTensor(name=OUTPUT, datatype="FP32", shape=[-1, CLASSES])],
        parameters=ModelParameters(uri=str(arguments.onnx.resolve())),
    )
    return server, model


async def announce(port: int, out: TextIO) -> None:
    """Prints `ready` as soon as the model is."""
    # Not tritonclient: it and MLServer may not load their messages in one process.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        service = GRPCInferenceServiceStub(channel)
        while True:
            with contextlib.suppress(grpc.RpcError):
                answer = await service.ModelReady(ModelReadyRequest(name=NAME), timeout=1.0)
                if answer.ready:
                    break
            await asyncio.sleep(0.1)
    print("ready", file=out, flush=True)


async def serve(arguments: argparse.Namespace) -> None:
    """Runs the server until a signal ends it."""
    server_settings, model_settings = settings(arguments)
    announcement = asyncio.create_task(announce(arguments.grpc_port, sys.stdout))
    # MLServer logs to what is standard output when it is made.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            await MLServer(server_settings).start([model_settings])
        finally:
            announcement.cancel()


def main() -> None:
    """Parses the command line and serves."""
    asyncio.run(serve(serving.parser(__doc__).parse_args()))


if __name__ == "__main__":
    main()
