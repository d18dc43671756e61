"""Clients of both protocols for questions: one answer each, which may be an error, or the reason why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc
import httptools
import numpy as np
import orjson

from loadtests.chaos.models import Answer, Array, Question
from loadtests.chaos.replies import NO_ANSWER, kind
from sluice.bench import bodies
from sluice.pb import inference_pb2
from sluice.spec import NUMPY_TYPES

_CHANNELS = 2
_CALL = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: outputs, or the kind of an error."""

    outputs: Answer | None
    version: str = ""
    error: str = ""
    detail: str = ""


class Client(Protocol):
    """Asks; being cancelled cancels the request."""

    async def ask(self, question: Question, deadline: float | None = None) -> Reply: ...

    async def close(self) -> None: ...


class Grpc:
    """Requests take turns on a few channels."""

    def __init__(self, netloc: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
        self._channels = [grpc.aio.insecure_channel(netloc, options) for _ in range(_CHANNELS)]
        self._calls = [channel.unary_unary(_CALL) for channel in self._channels]
        self._sent = 0

    async def ask(self, question: Question, deadline: float | None = None) -> Reply:
        self._sent += 1
        call = self._calls[self._sent % _CHANNELS]
        try:
            data = await call(bodies.grpc_message(question.model, "", question.inputs), timeout=deadline)
        except grpc.aio.AioRpcError as error:
            text = error.details() or ""
            return Reply(None, "", kind(error.code().name, text), text)
        message = inference_pb2.ModelInferResponse.FromString(data)
        outputs = {
            port.name: np.frombuffer(content, NUMPY_TYPES[port.datatype]).reshape(tuple(port.shape))
            for port, content in zip(message.outputs, message.raw_output_contents, strict=True)
        }
        return Reply(outputs, message.model_version)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(0)


class Http:
    """One request at a time on each connection; binary bodies and JSON take turns."""

    def __init__(self, netloc: str) -> None:
        self._host, port = netloc.rsplit(":", 1)
        self._port = int(port)
        self._netloc = netloc
        self._idle: list[_Connection] = []
        self._sent = 0

    async def ask(self, question: Question, deadline: float | None = None) -> Reply:
        self._sent += 1
        made = bodies.http_binary if self._sent % 3 else bodies.http_json
        body, headers = made(question.inputs)
        if deadline is not None:
            headers["X-Request-Timeout-Ms"] = f"{deadline * 1000:.0f}"
        try:
            status, received, content = await self.post(bodies.infer_path(question.model), body, headers)
        except OSError as error:
            return Reply(None, "", NO_ANSWER, str(error) or type(error).__name__)
        if status != 200:
            text = content.decode(errors="replace")
            return Reply(None, "", kind(str(status), text), text[:300])
        return _http_reply(received, content)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[bytes, bytes], bytes]:
        """One exchange; ConnectionError if there is no whole answer."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                break
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        try:
            answer = await connection.exchange(bodies.http_request(self._netloc, path, body, headers))
        except BaseException:
            connection.abort()  # cancelled, or broken: nothing that comes on it later may be taken for another's
            raise
        if connection.usable:
            self._idle.append(connection)
        return answer

    async def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()


def _http_reply(headers: Mapping[bytes, bytes], content: bytes) -> Reply:
    size = int(headers.get(b"inference-header-content-length", len(content)))
    document = orjson.loads(content[:size])
    outputs: dict[str, Array] = {}
    for port in document["outputs"]:
        dtype = NUMPY_TYPES[port["datatype"]]
        if "data" in port:
            values = np.array(port["data"], dtype)
        else:
            length = port["parameters"]["binary_data_size"]
            values = np.frombuffer(content[size : size + length], dtype)
            size += length
        outputs[port["name"]] = values.reshape(port["shape"])
    return Reply(outputs, document["model_version"])


class _Connection(asyncio.Protocol):
    """A connection and the exchange that is on it."""

    def __init__(self) -> None:
        self.usable = True
        self._reply: asyncio.Future[tuple[int, dict[bytes, bytes], bytes]] | None = None

    async def exchange(self, request: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        self._reply = asyncio.get_running_loop().create_future()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._transport.write(request)
        return await self._reply

    def abort(self) -> None:
        self.usable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionError(f"the connection was closed: {exc or 'by the server'}"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError):
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.usable = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_result((self._parser.get_status_code(), self._headers, b"".join(self._body)))
