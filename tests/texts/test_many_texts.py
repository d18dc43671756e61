"""Requests of many texts: they are one request, whatever becomes of them.

The worker is held by the gate of the echo model, so that texts can only wait."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import graphs
import numpy as np
import pytest
import texts
import tritonclient.grpc as triton_grpc
from servers import Server, end, launch
from traffic import Gate, connect, executions, pending, post, statistics, until
from tritonclient.utils import InferenceServerException

from sluice.text.joining import FIRST_ROOM

MOST = 2048


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate") / "gate")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("many")
    repository = place / "models"
    patient = "max_length = 16\ntarget_latency = 60\n"  # what is held up for seconds is not late
    texts.embedder(repository, settings=patient)
    texts.embedder(repository, "narrow", patient + "max_queue = 2\n")
    texts.reader(repository, more="target_latency = 60\n")
    graphs.python_echo(repository, gate=gate.path)
    started = launch(repository, place / "server.log", "--python-directory", str(repository), "--workers", "1")
    yield started
    end(started)


@pytest.fixture
def busy(server: Server, gate: Gate) -> Iterator[Server]:
    """The server with its worker held, from which every text has gone at the end, uncomputed."""
    before = executions(server, "embedder")
    with gate.holding(server):
        yield server
        until(lambda: pending(server, "embedder") == 0, "the queue is empty while the worker is busy")
    assert server.request("POST", "/embed", {"inputs": "red", "model": "embedder"})[0] == 200
    assert executions(server, "embedder") == before + 1


def words(count: int) -> list[str]:
    """Texts of which hardly two are equal."""
    return [" ".join(texts.WORDS[int(digit)] for digit in str(number)) for number in range(count)]


def text_tensor(*given: str) -> Any:
    tensor = triton_grpc.InferInput("text", [len(given)], "BYTES")
    tensor.set_data_from_numpy(np.array([one.encode() for one in given], object))
    return tensor


def oip(*given: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(given)], "data": given}]}


BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "embedder", "input": words(100)},
    "/embed": {"model": "embedder", "inputs": words(100)},
    "/v1/inference": {"model_id": "embedder", "input": words(100)},
    "/v2/models/embedder/infer": oip(*words(100)),
}


@pytest.mark.parametrize("path", BODIES)
def test_an_http_client_that_goes_takes_all_its_texts_along(busy: Server, path: str) -> None:
    with connect(busy) as client:
        client.sendall(post(path, BODIES[path]))
        until(lambda: pending(busy, "embedder") == FIRST_ROOM, "as many as may wait at first do")


def test_a_grpc_cancel_takes_all_its_texts_along(busy: Server) -> None:
    with triton_grpc.InferenceServerClient(busy.grpc) as client:
        call = client.async_infer("embedder", [text_tensor(*words(100))], callback=lambda result, error: None)
        until(lambda: pending(busy, "embedder") == FIRST_ROOM, "as many as may wait at first do")
        call.cancel()
        until(lambda: pending(busy, "embedder") == 0, "the cancel arrived")


def test_a_deadline_ends_all_its_texts(busy: Server) -> None:
    body = {"model": "embedder", "input": words(100)}
    status, error = busy.request("POST", "/v1/embeddings", body, {"x-request-timeout-ms": "500"})
    assert (status, error["error"]["type"]) == (504, "server_error")
    with triton_grpc.InferenceServerClient(busy.grpc) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("embedder", [text_tensor(*words(100))], client_timeout=0.5)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_one_failure_ends_the_rest(server: Server) -> None:
    def succeeded() -> int:
        return int(statistics(server, "reader")["inference_count"])

    before = succeeded()
    status, error = server.request("POST", "/v2/models/reader/infer", oip("red", "dog", *["cat"] * 200))
    assert (status, "no dogs" in error["error"]) == (500, True)
    assert error["error"].startswith("text[1]: ")
    assert pending(server, "reader") == 0
    assert succeeded() - before < 50  # the first, and what may have run before it was known
    assert server.request("POST", "/v2/models/reader/infer", oip("red", "cat cat"))[0] == 200


def test_as_many_as_may_come_are_answered(server: Server) -> None:
    asked = words(MOST)
    status, found = server.request("POST", "/v1/embeddings", {"model": "embedder", "input": asked})
    assert status == 200, found
    vectors = np.array([texts.vector(one) for one in asked])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose([one["embedding"] for one in found["data"]], vectors, rtol=1e-5, atol=1e-6)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        found = client.infer("embedder", [text_tensor(*asked)]).as_numpy("embedding")
    np.testing.assert_allclose(found, [texts.vector(one) for one in asked], rtol=1e-5)


def test_more_are_refused_over_every_protocol(server: Server) -> None:
    asked = ["red"] * (MOST + 1)
    for path, body in {
        "/v1/embeddings": {"model": "embedder", "input": asked},
        "/v1/inference": {"model_id": "embedder", "input": asked},
        "/v2/models/embedder/infer": oip(*asked),
    }.items():
        status, error = server.request("POST", path, body)
        assert (status, str(MOST) in json.dumps(error)) == (413, True), path
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(InferenceServerException, match="at most 2048") as caught:
            client.infer("embedder", [text_tensor(*asked)])
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_request_may_be_longer_than_the_queue(server: Server, gate: Gate) -> None:
    body = {"model": "narrow", "input": words(50)}
    with connect(server) as client:
        with gate.holding(server):
            client.sendall(post("/v1/embeddings", body))
            until(lambda: pending(server, "narrow") == 2, "the queue is full")
            status, error = server.request("POST", "/v1/embeddings", body)
            assert (status, error["error"]["type"]) == (503, "server_error")
            status, error = server.request("POST", "/embed", {"model": "narrow", "inputs": words(50)})
            assert (status, error["error_type"]) == (429, "Overloaded")
            assert pending(server, "narrow") == 2
        assert client.recv(100).startswith(b"HTTP/1.1 200")
