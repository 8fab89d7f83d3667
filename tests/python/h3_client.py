"""Checks the service over HTTP/3 with aioquic, a QUIC stack that shares no code with Outpost's.

Speaks gRPC by hand: one POST per call, a 5-byte prefix before the message, the
status in the trailers (or, for an answer without a body, in the only headers). One
call is gRPC-Web, as a browser makes it, with the status in the last frame of the body.
The messages are those that Triton's client generates from its own description of
the protocol.

Example: python h3_client.py --address localhost:8443 --ca ca.pem --model efficientnet-lite2
--image photo.jpg --onnx efficientnet-lite2.onnx --manifest model.toml

Prints a line for each check and `N passed, M failed`; exits with status 1 on a
failure. The host must be a name in the server's certificate.
"""

import argparse
import asyncio
import ssl
import struct
import sys
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote

import numpy as np
from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.client import connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as oip

from expected import Expectation, Report, check, command_line

# For every call; generous, since a debug build on a busy machine is slow.
TIMEOUT_SECONDS = 60.0
SERVICE = "/inference.GRPCInferenceService"
# gRPC status codes.
OK, NOT_FOUND = "0", "5"

M = TypeVar("M", bound=Message)


@dataclass
class Exchange:
    """One request's answer, as it comes in."""

    finished: asyncio.Future
    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def status(self) -> str | None:
        """Returns the gRPC status, which an answer without a body has in its headers."""
        return self.trailers.get("grpc-status", self.headers.get("grpc-status"))

    def message(self) -> bytes:
        """Returns the one message of a successful answer."""
        check(self.headers.get(":status") == "200", f"HTTP status {self.headers.get(':status')}")
        kind = self.headers.get("content-type", "")
        check(kind.startswith("application/grpc"), f"content-type is {kind!r}")
        check(self.status() is not None, "the answer has no grpc-status")
        detail = unquote(self.trailers.get("grpc-message", self.headers.get("grpc-message", "")))
        check(self.status() == OK, f"grpc-status {self.status()}: {detail}")
        check("grpc-status" in self.trailers, "grpc-status is in the headers, not the trailers")
        check(len(self.body) >= 5, f"the body has {len(self.body)} bytes")
        compressed, length = struct.unpack(">BI", self.body[:5])
        check(compressed == 0, "the message is compressed, unasked")
        check(length == len(self.body) - 5, f"prefix {length}, body {len(self.body) - 5} bytes")
        return bytes(self.body[5:])


class GrpcOverH3(QuicConnectionProtocol):
    """A connection that makes unary gRPC calls."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self._http = H3Connection(self._quic)
        self._exchanges: dict[int, Exchange] = {}

    async def call(
        self, authority: str, path: str, message: bytes, kind: str = "application/grpc"
    ) -> Exchange:
        """Sends one message and waits for the whole answer."""
        stream = self._quic.get_next_available_stream_id()
        exchange = Exchange(self._loop.create_future())
        self._exchanges[stream] = exchange
        headers = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": authority,
            ":path": path,
            "content-type": kind,
            "te": "trailers",
            "user-agent": "outpost-h3-check",
        }
        self._http.send_headers(stream, [(k.encode(), v.encode()) for k, v in headers.items()])
        prefix = struct.pack(">BI", 0, len(message))
        self._http.send_data(stream, prefix + message, end_stream=True)
        self.transmit()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await exchange.finished
        finally:
            del self._exchanges[stream]
        return exchange

    def quic_event_received(self, event: QuicEvent) -> None:
        """Hands QUIC events to HTTP/3 and its events to the exchanges."""
        match event:
            case StreamReset(stream_id=stream, error_code=code):
                self._fail(stream, f"the server reset the stream, code {code:#x}")
            case ConnectionTerminated(error_code=code, reason_phrase=reason):
                for stream in list(self._exchanges):
                    self._fail(stream, f"the connection ended, code {code:#x} {reason}")
        for http_event in self._http.handle_event(event):
            self._http_event_received(http_event)

    def _http_event_received(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived | DataReceived):
            return
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            return
        if isinstance(event, DataReceived):
            exchange.body += event.data
        else:
            block = {name.decode(): value.decode() for name, value in event.headers}
            # Informational answers (1xx) come before the real headers.
            if not block.get(":status", "").startswith("1"):
                target = exchange.trailers if exchange.headers else exchange.headers
                target.update(block)
        if event.stream_ended and not exchange.finished.done():
            exchange.finished.set_result(None)

    def _fail(self, stream: int, reason: str) -> None:
        exchange = self._exchanges.get(stream)
        if exchange is not None and not exchange.finished.done():
            exchange.finished.set_exception(ConnectionError(reason))


class Checks:
    """The checks, over one connection; each returns what its report line says."""

    def __init__(
        self, connection: GrpcOverH3, authority: str, model: str, wanted: Expectation
    ) -> None:
        self._connection = connection
        self._authority = authority
        self._model = model
        self._wanted = wanted

    async def server_ready(self) -> None:
        """Asks whether the server is ready."""
        answer = await self._ask("ServerReady", oip.ServerReadyRequest(), oip.ServerReadyResponse)
        check(answer.ready, "the server says no")

    async def model_ready(self) -> None:
        """Asks whether the model is ready."""
        request = oip.ModelReadyRequest(name=self._model)
        answer = await self._ask("ModelReady", request, oip.ModelReadyResponse)
        check(answer.ready, "the server says no")

    async def encoded_image(self) -> str:
        """Sends the image as a BYTES tensor of shape [1], length-prefixed as the protocol asks."""
        encoded = self._wanted.encoded
        request = await self._request("BYTES", [1], struct.pack("<I", len(encoded)) + encoded)
        return self._wanted.check_top1(await self._logits(request))

    async def encoded_image_typed(self) -> str:
        """Sends the same image in the tensor's typed contents, which have no length prefix."""
        request = await self._request("BYTES", [1], None)
        request.inputs[0].contents.bytes_contents.append(self._wanted.encoded)
        return self._wanted.check_top1(await self._logits(request))

    async def prepared_tensor(self) -> str:
        """Sends the prepared image as an FP32 tensor, far more than one QUIC packet."""
        tensor = self._wanted.tensor
        raw = tensor.astype("<f4").tobytes()
        request = await self._request("FP32", list(tensor.shape), raw)
        return self._wanted.check_logits(await self._logits(request), tolerance=1e-3)

    async def unknown_model(self) -> str:
        """Asks about a model that the server does not have."""
        message = oip.ModelMetadataRequest(name="no-such-network").SerializeToString()
        exchange = await self._call("ModelMetadata", message)
        check(exchange.status() == NOT_FOUND, f"grpc-status is {exchange.status()}")
        return f"grpc-status {NOT_FOUND}"

    async def browser(self) -> str:
        """Sends the encoded image as a browser does, and reads the frames of the answer."""
        encoded = self._wanted.encoded
        request = await self._request("BYTES", [1], struct.pack("<I", len(encoded)) + encoded)
        kind = "application/grpc-web+proto"
        exchange = await self._connection.call(
            self._authority, f"{SERVICE}/ModelInfer", request.SerializeToString(), kind
        )
        check(exchange.headers.get("content-type") == kind, f"headers {exchange.headers}")
        check(not exchange.trailers, f"trailers {exchange.trailers}")
        frames = []
        body = bytes(exchange.body)
        while body:
            flag, length = struct.unpack(">BI", body[:5])
            frames.append((flag, body[5 : 5 + length]))
            body = body[5 + length :]
        check([flag for flag, _ in frames] == [0, 0x80], f"frames {[flag for flag, _ in frames]}")
        check(b"grpc-status:0" in frames[1][1], f"trailers {frames[1][1]!r}")
        answer = oip.ModelInferResponse.FromString(frames[0][1])
        return self._wanted.check_top1(self._output(answer))

    async def _request(
        self, datatype: str, shape: list[int], raw: bytes | None
    ) -> oip.ModelInferRequest:
        inputs = (
            await self._ask(
                "ModelMetadata",
                oip.ModelMetadataRequest(name=self._model),
                oip.ModelMetadataResponse,
            )
        ).inputs
        check(len(inputs) > 0, "the metadata lists no input")
        name = next((i.name for i in inputs if i.datatype == datatype), inputs[0].name)
        contents = [] if raw is None else [raw]
        request = oip.ModelInferRequest(model_name=self._model, raw_input_contents=contents)
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        return request

    async def _logits(self, request: oip.ModelInferRequest) -> np.ndarray:
        return self._output(await self._ask("ModelInfer", request, oip.ModelInferResponse))

    def _output(self, answer: oip.ModelInferResponse) -> np.ndarray:
        for index, output in enumerate(answer.outputs):
            if output.name == self._wanted.output_name:
                check(output.datatype == "FP32", f"the output is {output.datatype}")
                values = (
                    np.frombuffer(answer.raw_output_contents[index], "<f4")
                    if answer.raw_output_contents
                    else np.array(output.contents.fp32_contents, np.float32)
                )
                return values.reshape(list(output.shape))
        raise AssertionError(f"the answer has no output {self._wanted.output_name}")

    async def _ask(self, method: str, request: Message, kind: type[M]) -> M:
        exchange = await self._call(method, request.SerializeToString())
        return kind.FromString(exchange.message())

    async def _call(self, method: str, message: bytes) -> Exchange:
        return await self._connection.call(self._authority, f"{SERVICE}/{method}", message)


async def check_all(arguments: argparse.Namespace, wanted: Expectation) -> int:
    """Connects, runs the checks and returns the exit status."""
    host, _, port = arguments.address.rpartition(":")
    host = host.strip("[]")
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name=host,
        verify_mode=ssl.CERT_REQUIRED,
        idle_timeout=TIMEOUT_SECONDS,
    )
    configuration.load_verify_locations(cafile=str(arguments.ca))
    report = Report()
    try:
        async with (
            asyncio.timeout(10 * TIMEOUT_SECONDS),
            connect(
                host, int(port), configuration=configuration, create_protocol=GrpcOverH3
            ) as connection,
        ):
            checks = Checks(connection, arguments.address, arguments.model, wanted)
            for name, body in {
                "server is ready": checks.server_ready,
                "model is ready": checks.model_ready,
                "encoded image gives the same top-1": checks.encoded_image,
                "encoded image in typed contents too": checks.encoded_image_typed,
                "FP32 tensor gives the reference's logits": checks.prepared_tensor,
                "unknown model is NOT_FOUND": checks.unknown_model,
                "a browser's call gives the same top-1": checks.browser,
            }.items():
                await report.run_async(name, body)
    except (OSError, TimeoutError) as error:
        report.fail("connection", f"{type(error).__name__}: {error}")
    return report.finish()


def main() -> int:
    """Runs the checks; returns the exit status."""
    arguments = command_line(__doc__.split("\n", maxsplit=1)[0])
    return asyncio.run(check_all(arguments, Expectation(arguments)))


if __name__ == "__main__":
    sys.exit(main())
