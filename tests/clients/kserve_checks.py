"""What KServe's client expects of a server, checked with the client itself in an environment that lacks Sluice.

Called with the server's HTTP and gRPC addresses and the gate file of the model `echo`, which answers nothing while
that file exists and lets one request wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx  # type: ignore[import-not-found]
import numpy as np
from kserve import (  # type: ignore[import-not-found]
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput  # type: ignore[import-not-found]

Tensor = np.ndarray[Any, Any]

PATIENCE = 60.0  # seconds that a check may take; what hangs must not keep the others from running

# Sent at once to the model that is held up; it can have a few at work and one waiting, so most of them are refused.
CROWD = 20
MOST = 10

IDENTITY: dict[str, Tensor] = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65535]], np.uint16),
    "UINT32": np.array([[0, 4294967295]], np.uint32),
    "UINT64": np.array([[0, 18446744073709551615]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-32768, 32767]], np.int16),
    "INT32": np.array([[-2147483648, 2147483647]], np.int32),
    "INT64": np.array([[-9223372036854775808, 9223372036854775807]], np.int64),
    "FP32": np.array([[0.1, -3e38]], np.float32),
    "FP64": np.array([[0.1, -1e308]], np.float64),
    "BYTES": np.array([["größe".encode(), b""]], np.object_),
}


@dataclass(frozen=True)
class Server:
    """Where the server is, and what holds its model `echo` up."""

    http: str
    grpc: str
    gate: Path

    def figures(self) -> tuple[int, int]:
        """How many requests to `echo` were answered, well and with an error."""
        with urllib.request.urlopen(f"{self.http}/v2/models/echo/stats") as reply:
            (found,) = json.load(reply)["model_stats"]
        return found["inference_stats"]["success"]["count"], found["inference_stats"]["fail"]["count"]

    @contextmanager
    def held(self) -> Iterator[None]:
        self.gate.touch()
        try:
            yield
        finally:
            self.gate.unlink(missing_ok=True)


def rest() -> InferenceRESTClient:
    return InferenceRESTClient(RESTConfig(protocol="v2"))


def filled(name: str, datatype: str, value: Tensor, *, binary: bool) -> InferInput:
    made = InferInput(name, list(value.shape), datatype)
    made.set_data_from_numpy(value, binary_data=binary)
    return made


def identity(*, binary: bool) -> InferRequest:
    """One input of each datatype."""
    inputs = [filled(f"INPUT{i}", kind, value, binary=binary) for i, (kind, value) in enumerate(IDENTITY.items())]
    return InferRequest("identity", inputs, request_id="seven")


def tagger() -> InferRequest:
    value = np.array([[3, 4, 5]])
    ids = InferInput("input_ids", [1, 3], "INT64", data=value)
    return InferRequest("tagger", [ids, InferInput("attention_mask", [1, 3], "INT64", data=np.ones_like(value))])


def echo() -> InferRequest:
    return InferRequest("echo", [InferInput("x", [1, 2], "INT64", data=[7, 8])])


def assert_identity(response: Any) -> None:
    assert (response.id, response.model_name) == ("seven", "identity")
    assert [output.name for output in response.outputs] == [f"OUTPUT{i}" for i in range(len(IDENTITY))]
    for output, (datatype, value) in zip(response.outputs, IDENTITY.items(), strict=True):
        assert (output.datatype, output.shape) == (datatype, [1, 2])
        found = output.as_numpy()
        if datatype == "BYTES":  # the client makes texts of them on some of its ways
            found = np.array([[one.encode() if isinstance(one, str) else one for one in found[0]]], np.object_)
        np.testing.assert_array_equal(found, value)


async def failure(work: Awaitable[Any], kind: type[Exception]) -> Any:
    try:
        await work
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


async def crowd(server: Server, infer: Callable[[], Awaitable[Any]]) -> list[BaseException]:
    """Overloads `echo` and sees that the server was asked once for each request; the refusals."""
    succeeded, failed = server.figures()
    with server.held():
        requests = [asyncio.ensure_future(infer()) for _ in range(CROWD)]
        answers = asyncio.as_completed(requests)
        for _ in range(MOST):
            await failure(next(answers), Exception)
    replies = await asyncio.gather(*requests, return_exceptions=True)
    refusals = [reply for reply in replies if isinstance(reply, BaseException)]
    assert server.figures() == (succeeded + CROWD - len(refusals), failed + len(refusals))
    return refusals


# ---- REST


async def check_rest_health(server: Server) -> None:
    async with rest() as client:
        assert await client.is_server_live(server.http) is True
        assert await client.is_server_ready(server.http) is True
        assert await client.is_model_ready(server.http, "tagger") is True
        assert await client.is_model_ready(server.http, "unknown") is False


async def check_rest_infers_from_numpy(server: Server) -> None:
    async with rest() as client:
        response = await client.infer(server.http, tagger(), model_name="tagger")
    tokens, total = response.outputs
    assert (tokens.name, tokens.as_numpy().tolist()) == ("tokens", [[6, 8, 10]])
    assert (total.name, total.as_numpy().tolist()) == ("total", [[24]])


async def check_rest_infers_from_a_dict(server: Server) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [[7, 8]]}]}
    async with rest() as client:
        response = await client.infer(server.http, body, model_name="echo")
    assert response.outputs[0].data == [7, 8]


async def check_rest_sends_every_datatype_as_json(server: Server) -> None:
    async with rest() as client:
        assert_identity(await client.infer(server.http, identity(binary=False), model_name="identity"))


async def check_rest_sends_every_datatype_binary(server: Server) -> None:
    async with rest() as client:
        assert_identity(await client.infer(server.http, identity(binary=True), model_name="identity"))


async def check_rest_receives_every_datatype_binary(server: Server) -> None:
    request = identity(binary=True)
    request.parameters = {"binary_data_output": True}
    headers: dict[str, str] = {}
    async with rest() as client:
        response = await client.infer(server.http, request, model_name="identity", response_headers=headers)
    assert "inference-header-content-length" in headers
    assert_identity(response)


async def check_rest_receives_one_output_of_two_binary(server: Server) -> None:
    request = tagger()
    request.request_outputs = [RequestedOutput("total", {"binary_data": True})]
    async with rest() as client:
        response = await client.infer(server.http, request, model_name="tagger")
    (total,) = response.outputs
    assert (total.name, total.as_numpy().tolist()) == ("total", [[24]])


async def check_rest_exchanges_fp16(server: Server) -> None:
    value = np.array([[0.5, -65504]], np.float16)
    request = InferRequest("fp16", [filled("INPUT0", "FP16", value, binary=True)])
    request.parameters = {"binary_data_output": True}
    async with rest() as client:
        response = await client.infer(server.http, request, model_name="fp16")
    np.testing.assert_array_equal(response.outputs[0].as_numpy(), value)


async def check_rest_explains_errors(server: Server) -> None:
    lacking = tagger()
    lacking.inputs.pop(0)
    async with rest() as client:
        unknown = await failure(client.infer(server.http, echo(), model_name="unknown"), httpx.HTTPStatusError)
        assert unknown.response.status_code == 404
        assert "Request for unknown model: 'unknown' is not found" in str(unknown)
        invalid = await failure(client.infer(server.http, lacking, model_name="tagger"), httpx.HTTPStatusError)
        assert invalid.response.status_code == 400
        assert "input_ids" in str(invalid)


async def check_rest_overload(server: Server) -> None:
    async with rest() as client:
        refusals = await crowd(server, lambda: client.infer(server.http, echo(), model_name="echo"))
    for refusal in refusals:
        assert isinstance(refusal, httpx.HTTPStatusError)
        assert refusal.response.status_code == 503
        assert "Exceeds maximum queue size" in str(refusal)


async def check_rest_timeout(server: Server) -> None:
    async with rest() as client:
        with server.held():
            await failure(client.infer(server.http, echo(), model_name="echo", timeout=0.2), httpx.ReadTimeout)
        assert (await client.infer(server.http, echo(), model_name="echo")).outputs[0].data == [7, 8]


# ---- gRPC


async def check_grpc_health(server: Server) -> None:
    async with InferenceGRPCClient(server.grpc) as client:
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("tagger") is True
        assert await client.is_model_ready("unknown") is False


async def check_grpc_infers_from_numpy(server: Server) -> None:
    async with InferenceGRPCClient(server.grpc) as client:
        response = await client.infer(tagger(), headers=(("x-caller", "kserve"),))
    tokens, total = response.outputs
    assert (response.model_name, response.model_version) == ("tagger", "1")
    assert (tokens.name, tokens.as_numpy().tolist()) == ("tokens", [[6, 8, 10]])
    assert (total.name, total.as_numpy().tolist()) == ("total", [[24]])


async def check_grpc_sends_every_datatype_typed(server: Server) -> None:
    async with InferenceGRPCClient(server.grpc) as client:
        assert_identity(await client.infer(identity(binary=False)))


async def check_grpc_sends_every_datatype_raw(server: Server) -> None:
    async with InferenceGRPCClient(server.grpc) as client:
        assert_identity(await client.infer(identity(binary=True)))


async def check_grpc_exchanges_fp16(server: Server) -> None:
    value = np.array([[0.5, -65504]], np.float16)
    async with InferenceGRPCClient(server.grpc) as client:
        response = await client.infer(InferRequest("fp16", [filled("INPUT0", "FP16", value, binary=True)]))
    np.testing.assert_array_equal(response.outputs[0].as_numpy(), value)


async def check_grpc_receives_the_outputs_it_asks_for(server: Server) -> None:
    request = tagger()
    request.request_outputs = [RequestedOutput("total")]
    request.model_version = "1"
    async with InferenceGRPCClient(server.grpc) as client:
        response = await client.infer(request)
    (total,) = response.outputs
    assert (total.name, total.as_numpy().tolist()) == ("total", [[24]])


async def check_grpc_sends_large_requests(server: Server) -> None:
    value = np.arange(1_000, 1_001_000).reshape(1, -1)  # 8 MB: beyond what gRPC lets in unless told otherwise
    async with InferenceGRPCClient(server.grpc) as client:
        response = await client.infer(InferRequest("echo", [InferInput("x", list(value.shape), "INT64", data=value)]))
    np.testing.assert_array_equal(response.outputs[0].as_numpy(), value)


async def check_grpc_explains_errors(server: Server) -> None:
    unknown, lacking, mixed = echo(), tagger(), tagger()
    unknown.model_name = "unknown"
    lacking.inputs.pop(0)
    mixed.inputs[0].data = [3, 4, 5]
    async with InferenceGRPCClient(server.grpc) as client:
        error = await failure(client.infer(unknown), grpc.RpcError)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "Request for unknown model: 'unknown' is not found"
        error = await failure(client.infer(lacking), grpc.RpcError)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "input_ids" in error.details()
        error = await failure(client.infer(mixed), grpc.RpcError)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "typed contents beside raw_input_contents" in error.details()


async def check_grpc_overload_is_not_repeated(server: Server) -> None:
    async with InferenceGRPCClient(server.grpc) as client:
        refusals = await crowd(server, lambda: client.infer(echo()))
    for refusal in refusals:
        assert isinstance(refusal, grpc.aio.AioRpcError)
        assert refusal.code() is grpc.StatusCode.UNAVAILABLE
        assert "Exceeds maximum queue size" in (refusal.details() or "")


async def check_grpc_refusals_are_repeated_unless_told_otherwise(_: Server) -> None:
    """Why the check above is worth having: the same client, at a server that just says UNAVAILABLE."""
    calls: list[str] = []
    async with refusing(calls) as address, InferenceGRPCClient(address) as client:
        refusal = await failure(client.infer(echo()), grpc.RpcError)
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE
    assert len(calls) == 3


async def check_grpc_deadline(server: Server) -> None:
    async with InferenceGRPCClient(server.grpc) as client:
        with server.held():
            late = await failure(client.infer(echo(), timeout=0.2), grpc.RpcError)
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await client.infer(echo())).outputs[0].as_numpy().tolist() == [[7, 8]]


@asynccontextmanager
async def refusing(calls: list[str]) -> AsyncIterator[str]:
    """A server that refuses everything, and the address it does so at."""

    async def refuse(_: Any, context: Any) -> None:
        calls.append("refused")
        await context.abort(grpc.StatusCode.UNAVAILABLE, "full")

    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(refuse)}
    other = grpc.aio.server()
    other.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await other.stop(None)


async def main(server: Server) -> None:
    checks = [(name.removeprefix("check_"), check) for name, check in globals().items() if name.startswith("check_")]
    for name, check in checks:
        try:
            async with asyncio.timeout(PATIENCE):
                await check(server)
            found = ""
        except Exception:
            found = traceback.format_exc()
        print(json.dumps({"check": name, "failure": found}), flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # the client logs each error it raises
    asyncio.run(main(Server(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
