"""Both protocols without a client library, and one request written once for both of them."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from servers import Server
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import serialize_byte_tensor, triton_to_np_dtype

PATIENCE = 60.0
SERVICE = "inference.GRPCInferenceService"


@dataclass(frozen=True)
class HttpReply:
    """A whole HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def http_call(
    server: Server, method: str, path: str, body: Any = b"", headers: Mapping[str, str] | None = None
) -> HttpReply:
    """One exchange on a connection of its own; a body that is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection(server.netloc, timeout=PATIENCE)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, dict(headers or {}))
        reply = connection.getresponse()
        return HttpReply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def connect(server: Server) -> socket.socket:
    """A plain connection to the HTTP port."""
    host, _, port = server.netloc.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def read_reply(connection: socket.socket) -> HttpReply:
    """The next answer on a plain connection."""
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    return HttpReply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


def send_raw(server: Server, data: bytes) -> HttpReply:
    """Bytes as they are, and the first answer to them."""
    with connect(server) as connection:
        connection.sendall(data)
        return read_reply(connection)


def channel(server: Server) -> Any:
    """A gRPC channel of its own; to be used in a `with`."""
    return grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)])


def call(
    server: Server, method: str, message: Any, timeout: float = PATIENCE, metadata: tuple[tuple[str, str], ...] = ()
) -> Any:
    """A unary method of the inference service by its name; the answer is of the message type that belongs to it."""
    with channel(server) as opened:
        reply, _ = method_of(opened, method).with_call(message, timeout, metadata)
        return reply


def method_of(opened: Any, method: str) -> Any:
    """A callable for one unary method."""
    answer = getattr(pb, f"{method}Response")
    return opened.unary_unary(f"/{SERVICE}/{method}", lambda message: message.SerializeToString(), answer.FromString)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Until `condition` holds; an error that says what did not happen when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.005)


@dataclass(frozen=True)
class Input:
    """A tensor as JSON would have it: flat data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: tuple[Any, ...]

    def raw(self) -> bytes:
        if self.datatype == "BYTES":
            texts = np.array([text.encode() for text in self.data], dtype=object)
            return bytes(serialize_byte_tensor(texts).item()) if texts.size else b""
        return np.array(self.data, triton_to_np_dtype(self.datatype)).tobytes()


@dataclass(frozen=True)
class Ask:
    """An inference request, for either protocol."""

    model: str
    inputs: tuple[Input, ...]
    version: str = ""
    outputs: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None  # the client's own deadline

    def path(self) -> str:
        return f"/v2/models/{self.model}" + (f"/versions/{self.version}" if self.version else "") + "/infer"

    def json(self) -> dict[str, Any]:
        return {
            "inputs": [
                {"name": one.name, "datatype": one.datatype, "shape": list(one.shape), "data": list(one.data)}
                for one in self.inputs
            ],
            "outputs": [{"name": name, "parameters": dict(parameters)} for name, parameters in self.outputs],
            "parameters": dict(self.parameters),
        }

    def headers(self) -> dict[str, str]:
        return {} if self.timeout is None else {"X-Request-Timeout-Ms": f"{self.timeout * 1000:g}"}

    def message(self) -> Any:
        request = pb.ModelInferRequest(model_name=self.model, model_version=self.version)
        for one in self.inputs:
            request.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
            request.raw_input_contents.append(one.raw())
        for name, parameters in self.outputs:
            set_parameters(request.outputs.add(name=name).parameters, parameters)
        set_parameters(request.parameters, self.parameters)
        return request


def set_parameters(target: Any, values: Mapping[str, Any]) -> None:
    """Write Python values as InferParameters."""
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in values.items():
        setattr(target[name], kinds[type(value)], value)


def tokens(*ids: int, rows: int = 1) -> Ask:
    """A request that the tagger and the lookup answer."""
    shape = (rows, len(ids) // rows)
    inputs = Input("input_ids", "INT64", shape, ids), Input("attention_mask", "INT64", shape, (1,) * len(ids))
    return Ask("tagger", inputs)
