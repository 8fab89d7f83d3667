"""Runs Triton with EfficientNet-Lite2 in the foreground, as an independent OIP v2 server.

Needs the packages nvidia-pytriton, which carries Triton itself, and onnxruntime. Listens
on 127.0.0.1 only, prints `ready` on standard output once the model is loaded, and ends
when standard input does, or on SIGTERM. Triton's own messages go to standard error.

Example: python triton_serve.py --onnx efficientnet-lite2.onnx --grpc-port 9500 --http-port 9501
"""

import argparse
import os
import signal
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnxruntime
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

import serving

NAME = "efficientnet-lite2"
INPUT = "image"
OUTPUT = "logits"
SIZE = 260
CLASSES = 1000
# What a request waits for others to share its batch, where there are batches.
MAX_DELAY_MICROSECONDS = 2000


def network(onnx: Path):
    """Returns the function that Triton calls with a batch of prepared images."""
    options = onnxruntime.SessionOptions()
    # Tests stay light.
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])

    def infer(requests: list) -> list[dict[str, np.ndarray]]:
        images = [request.data[INPUT] for request in requests]
        (logits,) = session.run([OUTPUT], {INPUT: np.concatenate(images)})
        ends = np.cumsum([len(image) for image in images])[:-1]
        return [{OUTPUT: part} for part in np.split(logits, ends)]

    return infer


def serve(arguments: argparse.Namespace, folder: str) -> None:
    """Runs the server until standard input ends."""
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=arguments.grpc_port,
        # pytriton looks there whether the model is ready.
        http_address="127.0.0.1",
        http_port=arguments.http_port,
        allow_metrics=False,
    )
    with Triton(config=config, workspace=f"{folder}/workspace") as triton:
        triton.bind(
            model_name=NAME,
            infer_func=[network(arguments.onnx) for _ in range(arguments.instances)],
            inputs=[Tensor(name=INPUT, dtype=np.float32, shape=(3, SIZE, SIZE))],
            outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=(CLASSES,))],
            config=ModelConfig(
                max_batch_size=arguments.max_batch,
                batcher=DynamicBatcher(
                    max_queue_delay_microseconds=MAX_DELAY_MICROSECONDS if arguments.max_batch > 1 else 0
                ),
            ),
            strict=True,
        )
        triton.run()
        serving.serve_until_standard_input_ends()


def main() -> None:
    """Parses the command line and serves."""
    parser = serving.parser(__doc__)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--instances", type=int, default=1, help="batches at a time")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    # Triton starts Python anew for the model, with whichever library of the version is found
    # first; it must be this interpreter's.
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    with serving.working_folder() as folder:
        serve(arguments, folder)


if __name__ == "__main__":
    main()
