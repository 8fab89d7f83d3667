"""Runs Ray Serve with two replicas of EfficientNet-Lite2, as an independent OIP v2 server.

Needs the packages ray[serve], grpcio-tools and onnxruntime. Prints `ready` on standard
output once the replicas answer, and ends when standard input does, or on SIGTERM. Ray's own
messages go to standard error. Its gRPC proxy knows no address: it listens on all.

Example: python ray_serve.py --onnx efficientnet-lite2.onnx --grpc-port 9500 --http-port 9501
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from importlib import resources
from pathlib import Path

# Before Ray is imported, which reads it then: nothing is reported to anybody.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import grpc
import ray
from grpc_tools import protoc
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions

import serving

NAME = "efficientnet-lite2"
HERE = Path(__file__).resolve().parent
PROTOCOL = HERE.parents[1] / "proto"
REPLICAS = 2
# Logical ones, of which each replica takes one; the machine may have fewer.
CPUS = 4


def make_messages(folder: str) -> None:
    """Makes the protocol's messages and has Ray's processes find them, and the deployment."""
    include = resources.files("grpc_tools") / "_proto"
    code = protoc.main([
        "protoc",
        f"-I{PROTOCOL}",
        f"-I{include}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        "open_inference.proto",
    ])
    if code != 0:
        sys.exit(f"protoc failed with {code}")
    sys.path[:0] = [folder, str(HERE)]
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, str(HERE), others]))


def wait_until_it_answers(port: int) -> None:
    """Asks for the metadata until it comes."""
    import open_inference_pb2 as oip
    from open_inference_pb2_grpc import GRPCInferenceServiceStub

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        service = GRPCInferenceServiceStub(channel)
        while True:
            with contextlib.suppress(grpc.RpcError):
                service.ModelMetadata(oip.ModelMetadataRequest(name=NAME), timeout=5.0)
                return
            time.sleep(0.1)


def run(arguments: argparse.Namespace, folder: str) -> None:
    """Runs the server until standard input ends."""
    make_messages(folder)
    from ray_model.network import Network

    ray.init(
        num_cpus=CPUS,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
    )
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=arguments.http_port),
        grpc_options=gRPCOptions(
            port=arguments.grpc_port,
            grpc_servicer_functions=[
                "open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
            ],
        ),
    )
    network = Network.options(num_replicas=REPLICAS)
    serve.run(network.bind(str(arguments.onnx.resolve())))
    wait_until_it_answers(arguments.grpc_port)
    # Ray's own would leave its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    serving.serve_until_standard_input_ends()


def main() -> None:
    """Parses the command line and serves."""
    arguments = serving.parser(__doc__).parse_args()
    with serving.working_folder() as folder:
        try:
            run(arguments, folder)
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()
