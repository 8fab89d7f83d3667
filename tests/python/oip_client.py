"""Checks the service with Triton's own gRPC client, over TLS.

Example: python oip_client.py --address localhost:8443 --ca ca.pem --model efficientnet-lite2
--image photo.jpg --onnx efficientnet-lite2.onnx --manifest model.toml

Prints a line for each check and `N passed, M failed`; exits with status 1 on a
failure. The host must be a name in the server's certificate.
"""

import sys
from collections.abc import Callable

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from expected import Expectation, Report, check, command_line

# For every call; generous, since a debug build on a busy machine is slow.
TIMEOUT_SECONDS = 60.0
LOGIT_TOLERANCE = 1e-3
# Rounding the input to f16 alone moves the logits by about this much.
HALF_TOLERANCE = 2e-2


class Checks:
    """The checks, over one client."""

    def __init__(self, client: triton.InferenceServerClient, model: str, wanted: Expectation):
        self._client = client
        self._model = model
        self._wanted = wanted

    def run(self, report: Report) -> None:
        """Runs all of them."""
        client, model = self._client, self._model
        options = {"client_timeout": TIMEOUT_SECONDS}
        report.run("server is live", lambda: yes(client.is_server_live(**options)))
        report.run("server is ready", lambda: yes(client.is_server_ready(**options)))
        report.run("model is ready", lambda: yes(client.is_model_ready(model, **options)))
        report.run("server metadata", self._server_metadata)
        report.run("model metadata", self._model_metadata)
        report.run("FP32 tensor gives the reference's logits", self._fp32)
        report.run("FP16 tensor gives the same top-1", self._fp16)
        report.run("encoded image gives the same top-1", self._bytes)
        report.run("unknown model is NOT_FOUND", self._unknown_model)
        report.run("metadata of an unknown model is NOT_FOUND", self._unknown_metadata)
        report.run("wrong shape is INVALID_ARGUMENT", self._wrong_shape)

    def _server_metadata(self) -> str:
        answer = self._client.get_server_metadata(client_timeout=TIMEOUT_SECONDS)
        check(bool(answer.name and answer.version), f"name or version is empty: {answer}")
        return f"{answer.name} {answer.version}"

    def _model_metadata(self) -> str:
        answer = self._client.get_model_metadata(self._model, client_timeout=TIMEOUT_SECONDS)
        check(answer.name == self._model, f"the metadata is of {answer.name!r}")
        check(len(answer.inputs) > 0, "it lists no input")
        outputs = {item.name: item for item in answer.outputs}
        check(self._wanted.output_name in outputs, f"outputs are {sorted(outputs)}")
        shape = list(outputs[self._wanted.output_name].shape)
        check(shape[-1:] == [self._wanted.classes], f"the output's shape is {shape}")
        return ", ".join(f"{i.name} {i.datatype} {list(i.shape)}" for i in answer.inputs)

    def _fp32(self) -> str:
        logits = self._infer(self._wanted.tensor, "FP32")
        return self._wanted.check_logits(logits, LOGIT_TOLERANCE)

    def _fp16(self) -> str:
        logits = self._infer(self._wanted.tensor.astype(np.float16), "FP16")
        return self._wanted.check_logits(logits, HALF_TOLERANCE)

    def _bytes(self) -> str:
        encoded = np.array([self._wanted.encoded], dtype=np.object_)
        return self._wanted.check_top1(self._infer(encoded, "BYTES"))

    def _unknown_model(self) -> str:
        return refused(
            "StatusCode.NOT_FOUND",
            lambda: self._infer(self._wanted.tensor, "FP32", model="no-such-network"),
        )

    def _unknown_metadata(self) -> str:
        return refused(
            "StatusCode.NOT_FOUND",
            lambda: self._client.get_model_metadata(
                "no-such-network", client_timeout=TIMEOUT_SECONDS
            ),
        )

    def _wrong_shape(self) -> str:
        narrow = np.zeros((1, 3, self._wanted.size, self._wanted.size - 1), np.float32)
        return refused("StatusCode.INVALID_ARGUMENT", lambda: self._infer(narrow, "FP32"))

    def _infer(self, data: np.ndarray, datatype: str, model: str | None = None) -> np.ndarray:
        tensor = triton.InferInput(self._input_name(datatype), list(data.shape), datatype)
        tensor.set_data_from_numpy(data)
        answer = self._client.infer(model or self._model, [tensor], client_timeout=TIMEOUT_SECONDS)
        return answer.as_numpy(self._wanted.output_name)

    def _input_name(self, datatype: str) -> str:
        """Returns the input that the metadata lists for a datatype, else its first one."""
        inputs = self._client.get_model_metadata(self._model, client_timeout=TIMEOUT_SECONDS).inputs
        return next((i.name for i in inputs if i.datatype == datatype), inputs[0].name)


def yes(answer: bool) -> None:
    """Checks a yes-or-no answer."""
    check(answer, "the server says no")


def refused(status: str, call: Callable[[], object]) -> str:
    """Checks that a call fails with a gRPC status."""
    try:
        call()
    except InferenceServerException as error:
        check(error.status() == status, f"status is {error.status()}: {error.message()}")
        return error.message()
    raise AssertionError("the call succeeded")


def main() -> int:
    """Runs the checks; returns the exit status."""
    arguments = command_line(__doc__.split("\n", maxsplit=1)[0])
    wanted = Expectation(arguments)
    report = Report()
    with triton.InferenceServerClient(
        arguments.address, ssl=True, root_certificates=str(arguments.ca)
    ) as client:
        Checks(client, arguments.model, wanted).run(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
