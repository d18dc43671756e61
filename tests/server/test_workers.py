"""Workers die and come back, and nobody who asked for something notices; when the server dies, nothing outlives it."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from servers import Server, StartServer
from traffic import Gate, Load, connect, echo, gone, int64, named_memory, pending, post, until
from tritonclient.utils import InferenceServerException

from sluice.scheduler.blame import DEATHS_ALONE, MOST_DEATHS

WORKERS = 2


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def repository(tmp_path: Path, gate: Gate) -> Path:
    repository = tmp_path / "models"
    graphs.tagger(repository)
    graphs.python_echo(repository, gate=gate.path)
    return repository


@pytest.fixture
def server(repository: Path, start_server: StartServer) -> Server:
    """Each test its own, because a worker that dies again and again is brought back later and later."""
    return start_server(repository, "--python-directory", str(repository), "--workers", str(WORKERS))


def restarts(server: Server) -> int:
    return int(server.metric("sluice_worker_restarts_total"))


def all_run(server: Server) -> bool:
    return server.metric("sluice_workers", state="running") == WORKERS


def standbys(server: Server) -> int:
    parts = server.request("GET", "/v2/health/ready?verbose")[1]["parts"]
    return sum("a standby is ready" in part["reason"] for part in parts)


@contextlib.contextmanager
def always_ready(server: Server) -> Iterator[None]:
    """Readiness of the server and of its models, asked all the time, is never taken back."""
    ended, refusals = threading.Event(), list[Any]()

    def ask() -> None:
        while not ended.is_set():
            for path in ("/v2/health/ready", "/v2/models/tagger/ready", "/v2/models/echo/ready"):
                status, body = server.request("GET", path)
                if status != 200:
                    refusals.append((path, status, body))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            ended.set()
        asking.result()
    assert not refusals


def test_a_killed_worker_costs_no_request(server: Server) -> None:
    load = Load(server)
    with always_ready(server), load.running():
        victim = server.workers()[0]
        victim.kill()
        until(lambda: restarts(server) == 1, "the death is noticed")
        until(lambda: all_run(server), "the worker is replaced")
        assert victim.pid not in {worker.pid for worker in server.workers()}
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {2}


def test_a_standby_takes_the_place_of_a_killed_worker(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, "--python-directory", str(repository), "--standby")
    until(lambda: standbys(server) == WORKERS, "every worker has a second process")
    load = Load(server)
    with always_ready(server), load.running():
        for number, victim in enumerate(server.workers()[:WORKERS], start=1):  # those that were started first
            until(lambda: len(server.workers()) == 2 * WORKERS, "every worker has a second process")
            victim.kill()
            until(lambda number=number: restarts(server) == number, "the death is noticed")  # type: ignore[misc]
            load.wait_for_more()
        until(lambda: all_run(server) and standbys(server) == WORKERS, "every process is replaced")
        load.wait_for_more()
    assert server.output().count("its second process took over") == WORKERS
    assert not load.failures
    assert set(load.answers) == {2}


def test_workers_replaced_for_their_memory_cost_no_request(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, "--python-directory", str(repository), "--max-memory", "1")
    load = Load(server)
    with always_ready(server), load.running():
        until(lambda: server.metric("sluice_worker_restarts_total", cause="memory") == WORKERS, "all are replaced")
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {2}
    assert restarts(server) == WORKERS
    until(lambda: len(server.workers()) == WORKERS, "those that were replaced are gone")


def test_an_idle_worker_that_stands_still_is_replaced(repository: Path, start_server: StartServer) -> None:
    patience = {"SLUICE_WORKERS__HANG_TIMEOUT": "0.5"}
    server = start_server(repository, "--python-directory", str(repository), environment=patience)
    for victim in server.workers():
        victim.suspend()
    until(lambda: server.metric("sluice_worker_restarts_total", cause="hung") >= WORKERS, "it is noticed")
    until(lambda: all_run(server), "both are replaced")
    assert echo(server, 5)[0] == 200


def test_the_batch_of_a_killed_worker_is_computed_again(server: Server, gate: Gate) -> None:
    gate.path.touch()
    with ThreadPoolExecutor(WORKERS) as pool:
        answers = []
        for length in range(1, WORKERS + 1):  # of unequal shapes, so that each worker computes one
            gate.reached.unlink(missing_ok=True)
            answers.append(pool.submit(echo, server, *[7] * length))
            until(gate.reached.exists, "a worker computes it")
        gate.reached.unlink()
        server.workers()[0].kill()
        until(gate.reached.exists, "its batch is computed again")
        gate.open()
        outcomes = [answer.result() for answer in answers]
    assert [status for status, _ in outcomes] == [200] * WORKERS
    assert [body["outputs"][0]["data"] for _, body in outcomes] == [[7], [7, 7]]
    until(lambda: restarts(server) >= 1 and all_run(server), "the worker is replaced")
    until(lambda: server.request("GET", "/v2/health/ready")[0] == 200, "the server is ready again")


def test_a_request_that_kills_workers_is_given_up_and_no_other(server: Server) -> None:
    load = Load(server)
    with load.running(1):
        with (
            triton_grpc.InferenceServerClient(server.grpc) as client,
            pytest.raises(InferenceServerException, match="died") as caught,
        ):
            client.infer("echo", int64(triton_grpc, x=np.array([[999]], np.int64)))
        assert caught.value.status() == "StatusCode.INTERNAL"
        until(lambda: all_run(server), "every worker is back")
        load.wait_for_more()
    assert restarts(server) == DEATHS_ALONE
    assert not load.failures
    assert echo(server, 5)[0] == 200


def test_requests_beside_a_killer_are_answered(server: Server) -> None:
    numbers = [1, 2, 999, 3, 4]
    with ThreadPoolExecutor(len(numbers)) as pool:
        answers = list(pool.map(lambda number: echo(server, number)[0], numbers))
    assert answers == [200, 200, 500, 200, 200]
    assert restarts(server) <= MOST_DEATHS


def test_a_worker_that_stands_still_does_not_stop_the_others(server: Server, gate: Gate) -> None:
    victim = server.workers()[0]
    victim.suspend()
    gate.path.touch()
    gate.reached.unlink(missing_ok=True)
    with ThreadPoolExecutor(3) as pool:
        # Of unequal shapes, so that they share no batch: one for each worker, and one that waits.
        echoes = [pool.submit(echo, server, *range(length)) for length in (1, 2, 3)]
        until(lambda: pending(server, "echo") == 1 and gate.reached.exists(), "both workers are at work")
        gate.open()
        load = Load(server)
        with load.running():
            load.wait_for_more(100)
        victim.resume()
        assert [answer.result()[0] for answer in echoes] == [200] * 3
    assert not load.failures
    assert restarts(server) == 0


def test_nothing_outlives_a_killed_server(repository: Path, gate: Gate, start_server: StartServer) -> None:
    server = start_server(repository, "--python-directory", str(repository))
    workers = server.workers()
    assert len(workers) == WORKERS
    gate.path.touch()
    gate.reached.unlink(missing_ok=True)
    with connect(server) as client:
        body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
        client.sendall(post("/v2/models/echo/infer", body))
        until(gate.reached.exists, "a worker computes")
        assert not named_memory(server.process.pid, *(worker.pid for worker in workers))
        os.kill(server.process.pid, signal.SIGKILL)
        # While the gate is still shut: a computation that goes on does not keep a worker alive.
        until(lambda: all(gone(worker) for worker in workers), "the workers are gone")
        gate.open()
        server.process.wait()
    for address in (server.netloc, server.grpc, server.metrics.split("/")[2]):
        host, port = address.split(":")
        socket.create_server((host, int(port))).close()


def test_a_batch_that_computes_for_ever_fails_alone(start_server: StartServer, tmp_path: Path) -> None:
    """Its worker is taken for hung and replaced; other models are served again, and the client is told."""
    repository, gate = tmp_path / "models", tmp_path / "gate"
    graphs.python_echo(repository, gate=gate, more="instances = 1")
    graphs.tagger(repository)
    flags = ("--python-directory", str(repository), "--compute-timeout", "0.5")
    server = start_server(repository, *flags)
    gate.touch()
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    status, reply = server.request("POST", "/v2/models/echo/infer", body)
    assert (status, "longer than 0.5 s" in reply["error"]) == (500, True)
    gate.unlink()
    status, reply = server.request("POST", "/v2/models/echo/infer", body)
    assert (status, "killed workers lately" in reply["error"]) == (422, True)
    assert echo(server, 2)[0] == 200
    assert restarts(server) <= DEATHS_ALONE + 1  # one hung in the warm-up, which stands before the gate as well


def test_a_version_that_no_worker_can_load_again_is_out_of_service(start_server: StartServer, tmp_path: Path) -> None:
    """Its requests are refused with the reason instead of waiting for ever, and it can be loaded again."""
    repository = tmp_path / "models"
    graphs.tagger(repository)
    graphs.lookup(repository)
    server = start_server(repository)
    moved = (repository / "lookup").rename(tmp_path / "lookup")
    for worker in server.workers():
        worker.kill()
    until(lambda: restarts(server) == WORKERS, "the deaths are noticed")
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    status, reply = server.request("POST", "/v2/models/lookup/infer", body)
    assert (status, "not at ready state" in reply["error"]) == (503, True)
    rows = {row["name"]: row for row in server.request("POST", "/v2/repository/index", {})[1]}
    assert rows["lookup"]["state"] == "UNAVAILABLE"
    assert rows["lookup"]["reason"]
    assert server.request("POST", "/v2/models/tagger/infer", body)[0] == 200
    moved.rename(repository / "lookup")
    assert server.request("POST", "/v2/repository/models/lookup/load", {})[0] == 200
    assert server.request("POST", "/v2/models/lookup/infer", body)[0] == 200
