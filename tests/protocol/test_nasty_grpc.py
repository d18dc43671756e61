"""Malicious and broken gRPC clients: each gets a clear status, and costs the server little."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from fuzzed import GOOD, Target, target
from grpc import StatusCode
from tritonclient.grpc import service_pb2 as pb
from wires import SERVICE, channel

LIMIT = 8 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INFER = f"/{SERVICE}/ModelInfer"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("nasty")) as one:
        yield one


@pytest.fixture
def nasty(running: Target) -> Iterator[Target]:
    """The server, which must be as good as new after each test."""
    yield running
    running.check()


def refused(nasty: Target, data: bytes, **options: Any) -> tuple[StatusCode, str]:
    with channel(nasty.server) as opened, pytest.raises(grpc.RpcError) as caught:
        opened.unary_unary(INFER)(data, **options)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        PREFACE + b"\xff" * 1000,
        PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x40\x00\x01\x05\x00\x00\x00\x01",
    ],
    ids=["zeros", "HTTP/1", "frames of nonsense", "half a header frame"],
)  # fmt: skip
def test_what_is_not_grpc(nasty: Target, data: bytes) -> None:
    """Sent, and the connection closed without waiting."""
    host, _, port = nasty.server.grpc.rpartition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(data)


def widened(change: Callable[[Any], object]) -> bytes:
    message = GOOD.message()
    change(message)
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda message: message.inputs[0].shape.extend([1] * 1_000_000), "'input_ids': its shape has 1000002 dim"),
        (lambda message: message.inputs[0].shape.__setitem__(0, 2**62), "'input_ids'.* too large"),
        (lambda message: message.inputs[0].shape.__setitem__(0, -2), "'input_ids'.* negative dimension"),
        (lambda message: message.inputs[0].shape.__setitem__(slice(0, 2), [0, 2**62]), "'input_ids'"),
        (lambda message: message.raw_input_contents.extend([b""] * 100_000), "more than 10000 inputs"),
        (lambda message: message.raw_input_contents.extend([b""] * 5000), "raw_input_contents has 5002 entries"),
        (lambda message: [message.inputs.add() for _ in range(100_000)], "more than 10000 inputs"),
        (lambda message: [message.parameters[str(n)].SetInParent() for n in range(2000)], "2000 parameters"),
        (lambda message: message.parameters["timeout"].__setattr__("uint64_param", 2**64 - 1), ""),
        (lambda message: message.parameters["timeout"].__setattr__("double_param", 1e300), "'timeout'"),
        (lambda message: message.parameters["priority"].__setattr__("int64_param", -(2**63)), "'priority'"),
        (lambda message: message.__setattr__("model_name", "x" * 1_000_000), "unknown model"),
        (lambda message: message.__setattr__("model_version", "not a number"), "version not a number"),
    ],
)  # fmt: skip
def test_absurd_requests(nasty: Target, change: Callable[[Any], object], text: str) -> None:
    data = widened(change)
    if not text:
        with channel(nasty.server) as opened:
            assert opened.unary_unary(INFER)(data)
        return
    code, details = refused(nasty, data)
    assert code in (StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND)
    assert re.search(text, details)
    assert len(details.encode()) < 4096  # what clients accept as a status


def test_messages_over_the_limit(nasty: Target) -> None:
    """Sent as they are, or small only because they are compressed."""
    data = widened(lambda message: message.raw_input_contents.append(bytes(LIMIT)))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate):
        code, details = refused(nasty, data, compression=compression)
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert str(LIMIT) in details


def test_metadata_over_the_limit(nasty: Target) -> None:
    code, _ = refused(nasty, GOOD.message().SerializeToString(), metadata=[("x", "y" * 200_000)])
    assert code is StatusCode.RESOURCE_EXHAUSTED


def test_texts_in_typed_contents_by_the_million(nasty: Target) -> None:
    """Two bytes of message make an element of each."""
    message = pb.ModelInferRequest(model_name="texts")
    tensor = message.inputs.add(name="INPUT0", datatype="BYTES", shape=[1_500_000, 1])
    tensor.contents.bytes_contents.extend([b""] * 1_500_000)
    code, details = refused(nasty, message.SerializeToString())
    assert code is StatusCode.INVALID_ARGUMENT
    assert "'INPUT0'" in details


def test_streams_left_in_the_middle(nasty: Target) -> None:
    """Clients that send requests and vanish without reading an answer."""
    requests = [GOOD.message()] * 200
    for _ in range(10):
        with channel(nasty.server) as opened:
            stream = opened.stream_stream(f"/{SERVICE}/ModelStreamInfer", pb.ModelInferRequest.SerializeToString)
            calls = stream(iter(requests))
            next(calls)
            calls.cancel()
