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
        report.run("unknown version is NOT_FOUND", self._unknown_version)
        report.run("statistics count requests and images", self._statistics)
        report.run("index lists the model as ready", self._index)
        report.run("unloading and loading again", self._reload)
        report.run("loading an unknown model is NOT_FOUND", self._load_unknown)
        report.run("loading with a configuration is INVALID_ARGUMENT", self._load_with_config)

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

    def _unknown_version(self) -> str:
        return refused(
            "StatusCode.NOT_FOUND",
            lambda: self._client.get_model_metadata(
                self._model, model_version="99", client_timeout=TIMEOUT_SECONDS
            ),
        )

    def _statistics(self) -> str:
        def look():
            answer = self._client.get_inference_statistics(
                self._model, client_timeout=TIMEOUT_SECONDS
            )
            check(len(answer.model_stats) == 1, f"statistics of {len(answer.model_stats)} models")
            return answer.model_stats[0]

        before = look()
        self._infer(self._wanted.tensor, "FP32")
        narrow = np.zeros((1, 3, 1, 1), np.float32)
        refused("StatusCode.INVALID_ARGUMENT", lambda: self._infer(narrow, "FP32"))
        after = look()
        check(after.version == "1", f"the version is {after.version!r}")
        check(after.last_inference > before.last_inference, "last_inference did not move")
        for name, more in [("inference_count", 1), ("execution_count", 1)]:
            moved = getattr(after, name) - getattr(before, name)
            check(moved == more, f"{name} moved by {moved}")
        for name in ["success", "fail", "queue", "compute_input", "compute_infer"]:
            old, new = getattr(before.inference_stats, name), getattr(after.inference_stats, name)
            check(new.count == old.count + 1, f"{name} went from {old.count} to {new.count}")
            check(new.ns > old.ns, f"{name} took no time")
        success = after.inference_stats.success
        return f"{success.count} requests, {success.ns / success.count / 1e6:.1f} ms each"

    def _index(self) -> str:
        index = self._client.get_model_repository_index(client_timeout=TIMEOUT_SECONDS).models
        ready = {model.name for model in index if model.state == "READY"}
        check(ready == {self._model}, f"ready are {ready}")
        others = [model for model in index if model.state != "READY"]
        check(all(model.reason for model in others), "one that is not ready does not say why")
        return f"1 ready, {len(others)} others"

    def _reload(self) -> None:
        client, options = self._client, {"client_timeout": TIMEOUT_SECONDS}
        client.unload_model(self._model, **options)
        check(not ready(client, self._model), "it is still ready")
        refused("StatusCode.NOT_FOUND", lambda: self._infer(self._wanted.tensor, "FP32"))
        client.load_model(self._model, **options)
        check(ready(client, self._model), "it is not ready")
        self._wanted.check_logits(self._infer(self._wanted.tensor, "FP32"), LOGIT_TOLERANCE)

    def _load_unknown(self) -> str:
        return refused(
            "StatusCode.NOT_FOUND",
            lambda: self._client.load_model("no-such-network", client_timeout=TIMEOUT_SECONDS),
        )

    def _load_with_config(self) -> str:
        return refused(
            "StatusCode.INVALID_ARGUMENT",
            lambda: self._client.load_model(
                self._model, config="{}", client_timeout=TIMEOUT_SECONDS
            ),
        )

    def _infer(self, data: np.ndarray, datatype: str, model: str | None = None) -> np.ndarray:
        tensor = triton.InferInput(self._input_name(datatype), list(data.shape), datatype)
        tensor.set_data_from_numpy(data)
        answer = self._client.infer(model or self._model, [tensor], client_timeout=TIMEOUT_SECONDS)
        return answer.as_numpy(self._wanted.output_name)

    def _input_name(self, datatype: str) -> str:
        """Returns the input that the metadata lists for a datatype, else its first one."""
        inputs = self._client.get_model_metadata(self._model, client_timeout=TIMEOUT_SECONDS).inputs
        return next((i.name for i in inputs if i.datatype == datatype), inputs[0].name)


def ready(client: triton.InferenceServerClient, model: str) -> bool:
    """Tells whether a model is ready; one that is unknown is not."""
    try:
        return client.is_model_ready(model, client_timeout=TIMEOUT_SECONDS)
    except InferenceServerException as error:
        check(error.status() == "StatusCode.NOT_FOUND", f"status is {error.status()}")
        return False


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
