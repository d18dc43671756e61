"""Malicious and broken HTTP clients: each gets a clear answer or a closed connection, and costs the server little."""

from __future__ import annotations

import gzip
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fuzzed import GOOD, NUMBERS_ASK, Target, target
from wires import connect, http_call, read_reply, send_raw

LENGTH = "Inference-Header-Content-Length"
GET = b"GET /v2/health/live HTTP/1.1\r\n"
INFER = b"POST /v2/models/tagger/infer HTTP/1.1\r\n"
BODY = json.dumps(GOOD.json()).encode()
LIMIT = 8 << 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("nasty")) as one:
        yield one


@pytest.fixture
def nasty(running: Target) -> Iterator[Target]:
    """The server, which must be as good as new after each test."""
    yield running
    running.check()


def infer(nasty: Target, body: Any, headers: dict[str, str] | None = None) -> tuple[int, str]:
    reply = http_call(nasty.server, "POST", GOOD.path(), body, headers)
    return reply.status, reply.json.get("error", "")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\nnonsense\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GET + b"no colon\r\n\r\n", GET + b": no name\r\n\r\n",
        GET + b"a b: c\r\n\r\n", GET + b"x: a\x00b\r\n\r\n", GET + b" folded: line\r\n\r\n",
        INFER + b"Content-Length: -5\r\n\r\n", INFER + b"Content-Length: 5, 5\r\n\r\nabcde",
        INFER + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        INFER + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        INFER + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        INFER + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        INFER + b"Transfer-Encoding: gzip\r\n\r\nabc",
    ],
)  # fmt: skip
def test_malformed_http(nasty: Target, data: bytes) -> None:
    reply = send_raw(nasty.server, data)
    assert reply.status == 400
    assert reply.headers["connection"] == "close"
    assert reply.json["error"]


@pytest.mark.parametrize(
    "data",
    [
        GET + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
        GET + b"x: y\r\n" * 30_000 + b"\r\n",
        b"GET /v2/" + b"z" * 200_000 + b" HTTP/1.1\r\n\r\n",
        GET + b"x: " + b"y" * 200_000,  # never ends
    ],
    ids=["one", "many", "path", "endless"],
)
def test_huge_headers(nasty: Target, data: bytes) -> None:
    reply = send_raw(nasty.server, data)
    assert reply.status == 431
    assert "65536 bytes" in reply.json["error"]


def test_bodies_left_half_sent(nasty: Target) -> None:
    """Many clients that announce much, send some and vanish, by a close or by a reset."""
    head = INFER + b"Content-Length: %d\r\n\r\n" % (LIMIT - 1)
    for number in range(50):
        connection = connect(nasty.server)
        connection.sendall(head + b"x" * (number * 2000))
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def test_a_client_that_leaves_before_its_answer(nasty: Target) -> None:
    request = INFER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    for _ in range(50):
        with connect(nasty.server) as connection:
            connection.sendall(request)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "headers took longer than 1 s"),
        (b"\r\nX: y\r\n", "headers took longer than 1 s"),
        (b"\r\nContent-Length: 100\r\n\r\n{", "body stood still for 1 s"),
        (b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "body stood still for 1 s"),
    ],
    ids=["request line", "headers", "body", "chunk"],
)
def test_slow_clients(nasty: Target, data: bytes, text: str) -> None:
    """They have a second here, then get 408."""
    reply = send_raw(nasty.server, INFER[:-2] + data)
    assert reply.status == 408
    assert text in reply.json["error"]


@pytest.mark.parametrize("layers", [1, 2])
def test_compression_bombs(nasty: Target, layers: int) -> None:
    """Inflated no further than the limit, in one layer or several."""
    body = b" " * (100 << 20) if layers == 1 else b"[" * (20 << 20)
    for _ in range(layers):
        body = gzip.compress(body, 1)
    assert len(body) < LIMIT
    status, text = infer(nasty, body, {"Content-Encoding": ", ".join(["gzip"] * layers)})
    assert status == 413
    assert str(LIMIT) in text


def test_bodies_over_the_limit(nasty: Target) -> None:
    """Refused by their announcement, or as soon as they are too long."""
    reply = send_raw(nasty.server, INFER + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1))
    assert reply.status == 413
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with connect(nasty.server) as connection:
        connection.sendall(INFER + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 9)
        reply = read_reply(connection)
    assert reply.status == 413
    assert str(LIMIT) in reply.json["error"]


def test_chunks_of_nothing_but_framing(nasty: Target) -> None:
    """A body hidden in megabytes of chunk extensions."""
    chunk = b"1;" + b"x" * 1000 + b"\r\n \r\n"
    with connect(nasty.server) as connection:
        connection.sendall(INFER + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 500)
        assert read_reply(connection).status == 400


def test_a_body_of_one_byte_chunks_is_just_slow(nasty: Target) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
    with connect(nasty.server) as connection:
        connection.sendall(INFER + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert read_reply(connection).status == 200


def test_a_flood_of_pipelined_requests(nasty: Target) -> None:
    """All that are understood are answered in order; a flood beyond the bound ends the connection."""
    request = INFER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with connect(nasty.server) as connection:
        connection.sendall(request * 100)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 100:
            received += connection.recv(1 << 16)
    with connect(nasty.server) as connection:
        connection.sendall((GET + b"\r\n") * 5000)
        assert read_reply(connection).status == 200


def binary(sizes: list[Any], data: bytes) -> tuple[bytes, dict[str, str]]:
    """The tagger's two inputs as binary data of the given sizes."""
    inputs = [
        {"name": one.name, "datatype": "INT64", "shape": [2, 3], "parameters": {"binary_data_size": size}}
        for one, size in zip(GOOD.inputs, sizes, strict=True)
    ]
    text = json.dumps({"inputs": inputs}).encode()
    return text + data, {LENGTH: str(len(text))}


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ([48, 49], r"inputs[1].parameters.binary_data_size"),
        ([96, 96], r"inputs[1].parameters.binary_data_size"),
        ([2**63, 0], r"inputs[0].parameters.binary_data_size"),
        ([-1, 97], r"inputs[0].parameters.binary_data_size"),
        ([1.5, 48], r"inputs[0].parameters.binary_data_size"),
        ([True, 48], r"inputs[0].parameters.binary_data_size"),
        ([48, 40], "8 bytes of binary data that no input claims"),
        ([40, 56], "'input_ids' has 40 bytes"),
    ],
)
def test_binary_sizes_that_lie(nasty: Target, sizes: list[Any], text: str) -> None:
    body, headers = binary(sizes, bytes(96))
    status, error = infer(nasty, body, headers)
    assert status == 400
    assert text in error


@pytest.mark.parametrize("length", ["1", "99999999", "-1", "9" * 30, "1e3", ""])
def test_header_lengths_that_lie(nasty: Target, length: str) -> None:
    body, _ = binary([48, 48], bytes(96))
    assert infer(nasty, body, {LENGTH: length})[0] == 400


@pytest.mark.parametrize("size", [4, 0xFFFFFFFF, 0x7FFFFFFF])
def test_text_lengths_that_lie(nasty: Target, size: int) -> None:
    element = struct.pack("<I", size) + b"abc"
    inputs = [{"name": "INPUT0", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 7}}]
    text = json.dumps({"inputs": inputs}).encode()
    reply = http_call(nasty.server, "POST", "/v2/models/texts/infer", text + element, {LENGTH: str(len(text))})
    assert reply.status == 400
    assert "'INPUT0'" in reply.json["error"]


def test_text_that_is_not_utf8(nasty: Target) -> None:
    """BYTES may be anything, but not for an ONNX model."""
    inputs = [{"name": "INPUT0", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 6}}]
    text = json.dumps({"inputs": inputs}).encode()
    body = text + struct.pack("<I", 2) + b"\xff\xfe"
    reply = http_call(nasty.server, "POST", "/v2/models/texts/infer", body, {LENGTH: str(len(text))})
    assert reply.status == 400
    assert "'INPUT0'" in reply.json["error"]


HUGE = "1" * 400
TOO_LONG = "7" * 50_000
PARAMETER = '"parameters": {}'


def with_parameter(name: str, value: str) -> str:
    return f'"parameters": {{"{name}": {value}}}'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[1, 2,", "[NaN, 2,"), ("[1, 2,", "[1.5, 2,"), ("[1, 2,", "[1e3, 2,"), ("[1, 2,", "[null, 2,"),
        ("[1, 2,", "[true, 2,"), ("[1, 2,", '["1", 2,'), ("[1, 2,", f"[{HUGE}, 2,"), ("[1, 2,", f"[{TOO_LONG}, 2,"),
        ("[2, 3]", "[NaN, 3]"), ("[2, 3]", "[-2, -3]"), ("[2, 3]", "[2.0, 3]"), ("[2, 3]", f"[{HUGE}, 3]"),
        ("[2, 3]", "[9223372036854775807, 9223372036854775807]"), ("[2, 3]", "[0, 0]"), ("[2, 3]", "[]"),
        ("[2, 3]", str([1] * 1_000_000)), ("[2, 3]", "[4294967296, 4294967296]"), ("[2, 3]", f"[{TOO_LONG}]"),
        ("[1, 2, 3, 4, 5, 6]", "[" * 100_000), ("[1, 2, 3, 4, 5, 6]", "[" * 100_000 + "]" * 100_000),
        ("[1, 2, 3, 4, 5, 6]", '{"a":' * 100_000), ("[1, 2, 3, 4, 5, 6]", "[[[1, 2, 3, 4, 5, 6]]]"),
        ("[1, 2, 3, 4, 5, 6]", "[[1, 2, 3], [4, 5]]"), ("[1, 2, 3, 4, 5, 6]", "[[], []]"),
        (PARAMETER, with_parameter("timeout", HUGE)), (PARAMETER, with_parameter("priority", HUGE)),
        (PARAMETER, with_parameter("timeout", "1e300")), (PARAMETER, with_parameter("timeout", "NaN")),
        (PARAMETER, with_parameter("a", TOO_LONG)), (PARAMETER, with_parameter("a", "{}")),
        (PARAMETER, with_parameter("a", '"\\ud800"')), (PARAMETER, with_parameter("a", "[" * 1000)),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_numbers_and_nesting_that_nobody_means(nasty: Target, old: str, new: str) -> None:
    body = json.dumps(GOOD.json())
    assert old in body
    status, text = infer(nasty, body.replace(old, new, 1).encode())
    assert status == 400
    assert text


def test_floats_beyond_the_datatype(nasty: Target) -> None:
    body = json.dumps(NUMBERS_ASK.json())
    for datatype in ("FP32", "FP64"):
        plain = f'"datatype": "{datatype}", "shape": [1, 2], "data": [1,'
        assert plain in body
        wrong = body.replace(plain, plain[:-2] + "1e400,").encode()
        reply = http_call(nasty.server, "POST", NUMBERS_ASK.path(), wrong)
        assert reply.status == 400
        assert ".data" in reply.json["error"]


def test_very_many_of_everything(nasty: Target) -> None:
    """Inputs, outputs and parameters by the hundred thousand."""
    good = GOOD.json()
    one, output = good["inputs"][0], {"name": "total"}
    many = {f"parameter{number}": number for number in range(100_000)}
    for body in ({"inputs": [one] * 50_000}, {**good, "outputs": [output] * 200_000}):
        assert infer(nasty, body)[0] == 400
    assert infer(nasty, {**good, "parameters": many})[0] in (200, 400)


@pytest.mark.parametrize("value", [2**32, 2**63, 2**64, 10**400, -1])
def test_log_levels_that_no_client_could_read(nasty: Target, value: int) -> None:
    reply = http_call(nasty.server, "POST", "/v2/logging", {"log_verbose_level": value})
    assert reply.status == 400
    assert http_call(nasty.server, "GET", "/v2/logging").json["log_verbose_level"] == 0


@pytest.mark.parametrize(
    "file", ["../outside", "/etc/outside", "1/../../outside", ".hidden/x", "", "1/" + "x/" * 50, "1/\0"]
)
def test_files_sent_with_a_load_stay_where_they_belong(nasty: Target, file: str) -> None:
    parameters = {"config": "{}", f"file:{file}": "AAAA"}
    reply = http_call(nasty.server, "POST", "/v2/repository/models/sent/load", {"parameters": parameters})
    assert reply.status == 400
    assert not Path("/etc/outside").exists()
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize("name", ["..", "../..", "%2e%2e", "..%2f..%2fetc", "a%2fb", "%00", "x" * 5000])
def test_model_names_that_lead_elsewhere(nasty: Target, name: str) -> None:
    for path in (f"/v2/models/{name}/infer", f"/v2/repository/models/{name}/load"):
        assert http_call(nasty.server, "POST", path, replace(GOOD).json()).status in (400, 404)
