"""Whatever ends a client's wait removes its queued work at once, and nothing dead is computed.

The worker is held by the gate of the echo model, so that requests to the tagger can only wait."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import graphs
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as aio_grpc
import tritonclient.http as triton_http
import tritonclient.http.aio as aio_http
from servers import Server, end, launch
from traffic import Gate, connect, executions, int64, pending, post, statistics, until
from tritonclient.utils import InferenceServerException

BODY = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]}]}
INFER = "/v2/models/tagger/infer"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate") / "gate")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("models")
    graphs.tagger(repository)
    (repository / "tagger" / "model.toml").write_text("max_queue = 5\n")
    graphs.python_echo(repository, gate=gate.path)
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = launch(repository, log, "--python-directory", str(repository), "--workers", "1")
    yield server
    end(server)


@pytest.fixture
def busy(server: Server, gate: Gate) -> Iterator[Server]:
    """The server with its worker held. At the end nothing waits, and none of the test's requests was computed."""
    before = executions(server, "tagger")
    with gate.holding(server):
        yield server
        until(lambda: pending(server, "tagger") == 0, "the queue is empty while the worker is busy")
    status, _ = server.request("POST", INFER, BODY)  # behind whatever might have been left in the queue
    assert status == 200
    assert executions(server, "tagger") == before + 1


def queued(server: Server, count: int = 1) -> None:
    until(lambda: pending(server, "tagger") == count, f"{count} requests wait")


def inputs(client: Any = triton_grpc) -> list[Any]:
    return int64(client, input_ids=np.array([[1, 2]], np.int64))


def failures(server: Server, reason: str) -> float:
    return server.metric("sluice_request_failures_total", model="tagger", reason=reason)


def test_a_grpc_deadline(busy: Server) -> None:
    before = failures(busy, "deadline") + failures(busy, "cancelled")
    with triton_grpc.InferenceServerClient(busy.grpc) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("tagger", inputs(), client_timeout=0.2)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    until(lambda: failures(busy, "deadline") + failures(busy, "cancelled") == before + 1, "it is counted")


def test_a_grpc_cancel(busy: Server) -> None:
    before = failures(busy, "cancelled")
    with triton_grpc.InferenceServerClient(busy.grpc) as client:
        call = client.async_infer("tagger", inputs(), callback=lambda result, error: None)
        queued(busy)
        call.cancel()
        until(lambda: pending(busy, "tagger") == 0, "the cancel arrived")
    assert failures(busy, "cancelled") == before + 1


def test_a_grpc_channel_that_is_closed(busy: Server) -> None:
    async def ask_and_leave() -> None:
        async with aio_grpc.InferenceServerClient(busy.grpc) as client:
            task = asyncio.create_task(client.infer("tagger", inputs()))
            await asyncio.to_thread(queued, busy)
        with contextlib.suppress(InferenceServerException, asyncio.CancelledError):
            await task

    asyncio.run(ask_and_leave())


def test_an_http_disconnect(busy: Server) -> None:
    before = failures(busy, "cancelled")
    with connect(busy) as client:
        client.sendall(post(INFER, BODY))
        queued(busy)
    until(lambda: failures(busy, "cancelled") == before + 1, "the disconnect is seen")


def test_an_http_client_that_resets(busy: Server) -> None:
    client = connect(busy)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.sendall(post(INFER, BODY))
    queued(busy)
    client.close()


def test_an_http_task_that_is_cancelled(busy: Server) -> None:
    async def ask_and_leave() -> None:
        async with aio_http.InferenceServerClient(busy.netloc) as client:
            task = asyncio.create_task(client.infer("tagger", inputs(triton_http)))
            await asyncio.to_thread(queued, busy)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(until, lambda: pending(busy, "tagger") == 0, "the cancel arrived")

    asyncio.run(ask_and_leave())


@pytest.mark.parametrize("header", ["x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms"])
def test_an_http_deadline(busy: Server, header: str) -> None:
    status, body = busy.request("POST", INFER, BODY, {header: "50"})
    assert status == 504, body


def test_the_timeout_parameter_over_http(busy: Server) -> None:
    status, body = busy.request("POST", INFER, {**BODY, "parameters": {"timeout": 50_000}})
    assert (status, body) == (503, {"error": "Request timeout expired"})


def test_the_timeout_parameter_over_grpc(busy: Server) -> None:
    with triton_grpc.InferenceServerClient(busy.grpc) as client:
        with pytest.raises(InferenceServerException, match="Request timeout expired") as caught:
            client.infer("tagger", inputs(), timeout=50_000)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"


def test_the_timeout_does_not_count_once_the_request_runs(server: Server, gate: Gate) -> None:
    body = {
        "inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [5]}],
        "parameters": {"timeout": 100_000},
    }
    gate.path.touch()
    gate.reached.unlink(missing_ok=True)
    with connect(server) as client:
        client.sendall(post("/v2/models/echo/infer", body))
        until(gate.reached.exists, "it runs")
        with connect(server) as other:  # whose own, equal timeout ends after that of the first
            other.sendall(post("/v2/models/echo/infer", body))
            assert other.recv(1000).startswith(b"HTTP/1.1 503")
        gate.open()
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_full_queue_refuses_and_empties_again(busy: Server) -> None:
    with contextlib.ExitStack() as clients:
        for number in range(5):
            client = clients.enter_context(connect(busy))
            client.sendall(post(INFER, BODY))
            queued(busy, number + 1)
        status, body = busy.request("POST", INFER, BODY)
        assert status == 503
        assert "Exceeds maximum queue size" in body["error"]
        with (
            triton_grpc.InferenceServerClient(busy.grpc) as client,
            pytest.raises(InferenceServerException, match="Exceeds maximum queue size") as caught,
        ):
            client.infer("tagger", inputs())
        assert caught.value.status() == "StatusCode.UNAVAILABLE"


def test_half_of_the_queue_leaves_and_the_other_half_is_answered(server: Server, gate: Gate) -> None:
    before = statistics(server, "tagger")
    with contextlib.ExitStack() as opened:
        with gate.holding(server):
            clients = [opened.enter_context(connect(server)) for _ in range(4)]
            for number, client in enumerate(clients):
                client.sendall(post(INFER, BODY))
                queued(server, number + 1)
            for client in clients[::2]:
                client.close()
            queued(server, 2)
        for client in clients[1::2]:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
    after = statistics(server, "tagger")
    assert after["inference_count"] - before["inference_count"] == 2


def test_a_request_that_is_dead_on_arrival_is_not_queued(server: Server) -> None:
    before = statistics(server, "tagger")["inference_stats"]["queue"]["count"]
    status, _ = server.request("POST", INFER, BODY, {"x-request-timeout-ms": "0"})
    assert status == 504
    assert statistics(server, "tagger")["inference_stats"]["queue"]["count"] == before
