"""The server's life: live, started and ready in their order, a stop that costs no request, and nothing left behind."""

import base64
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from servers import Server, StartServer
from traffic import PATIENCE, Gate, Load, connect, echo, gone, int64, named_memory, post, until

SLOW_MODEL = '''
import time
from pathlib import Path


class Model:
    """Loads only once a file is there."""

    def load(self, directory, parameters):
        while not Path(parameters["key"]).exists():
            time.sleep(0.002)

    def run(self, inputs):
        return {"y": inputs["x"]}
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repository = tmp_path / "models"
    graphs.tagger(repository)
    return repository


@pytest.fixture
def gate(tmp_path: Path, repository: Path) -> Gate:
    gate = Gate(tmp_path / "gate")
    graphs.python_echo(repository, gate=gate.path)
    return gate


@pytest.fixture
def slow(repository: Path, tmp_path: Path) -> Path:
    """A model that loads only when the file returned exists."""
    key = tmp_path / "key"
    directory = graphs.python_echo(repository, "slow")
    (directory / "1" / "model.py").write_text(SLOW_MODEL)
    with (directory / "model.toml").open("a") as file:
        file.write(f'[parameters]\nkey = "{key}"\n')
    return key


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def serve(repository: Path, *flags: str) -> list[str]:
    command = [sys.executable, "-m", "sluice.cli.main", "serve", "--repository", str(repository), "--workers", "2"]
    return [*command, "--python-directory", str(repository), *flags]


@contextlib.contextmanager
def starting(repository: Path, log: Path) -> Iterator[Server]:
    """A server that may still be loading; its ports are known beforehand."""
    http, grpc, metrics = (free_port() for _ in range(3))
    ports = ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            serve(repository, *ports), stdout=subprocess.DEVNULL, stderr=errors, text=True, cwd=log.parent
        )
    server = Server(
        process, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", f"http://127.0.0.1:{metrics}/metrics", log
    )
    try:
        until(lambda: answers(server), "the server listens")
        yield server
    finally:
        server.stop()


def answers(server: Server) -> bool:
    try:
        connect(server).close()
    except OSError:
        return False
    return True


def health(server: Server) -> tuple[int, int, int]:
    """The statuses of live, started, ready."""
    paths = ("live", "started", "ready")
    statuses = [server.request("GET", f"/v2/health/{path}")[0] for path in paths]
    return statuses[0], statuses[1], statuses[2]


def at_work(server: Server) -> list[psutil.Process]:
    """The workers of a server that runs. Their memory has no name, so that none can be left behind."""
    workers = server.workers()
    assert workers
    assert not named_memory(server.process.pid, *(worker.pid for worker in workers))
    return workers


def nothing_left(server: Server, workers: list[psutil.Process]) -> None:
    """No processes, no sockets."""
    until(lambda: all(gone(worker) for worker in workers), "the workers are gone")
    for address in (server.netloc, server.grpc, server.metrics.split("/")[2]):
        host, port = address.split(":")
        socket.create_server((host, int(port))).close()


def test_live_comes_first_and_ready_last(repository: Path, slow: Path, tmp_path: Path) -> None:
    with starting(repository, tmp_path / "server.log") as server:
        until(lambda: server.request("GET", "/v2/models/tagger/ready")[0] == 200, "the quick model is loaded")
        assert health(server) == (200, 503, 503)
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert client.is_model_ready("tagger")
            assert not client.is_model_ready("slow")
        states = {row["name"]: row["state"] for row in server.request("POST", "/v2/repository/index", {})[1]}
        assert states == {"tagger": "READY", "slow": "LOADING"}
        status, body = echo(server, 1, model="slow")
        assert (status, "not at ready state" in body["error"]) == (503, True)
        slow.touch()
        until(lambda: health(server) == (200, 200, 200), "everything is loaded")
        assert echo(server, 1, model="slow")[0] == 200


def test_a_stop_while_models_load(repository: Path, slow: Path, tmp_path: Path) -> None:
    with starting(repository, tmp_path / "server.log") as server:
        until(lambda: server.request("GET", "/v2/models/tagger/ready")[0] == 200, "the quick model is loaded")
        workers = at_work(server)
        assert server.stop(signal.SIGTERM) == 0
        nothing_left(server, workers)
    assert not slow.exists()


def test_a_stop_before_anything_is_loaded(repository: Path, tmp_path: Path) -> None:
    with starting(repository, tmp_path / "server.log") as server:
        assert server.stop(signal.SIGTERM) == 0
        assert "Traceback" not in server.output()


def test_a_stop_under_load_costs_no_request(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, "--lame-duck", "2")
    workers = at_work(server)
    load = Load(server, heed=True)
    with load.running(clients=3):
        server.process.send_signal(signal.SIGTERM)
        # Each client goes on until it is told that the server is unready, or a request fails.
        assert server.process.wait(PATIENCE) == 0
    assert not load.failures
    assert set(load.answers) == {2}
    nothing_left(server, workers)
    assert "Traceback" not in server.output()


def test_a_stop_that_nobody_expects_only_refuses_connections(repository: Path, start_server: StartServer) -> None:
    """What was sent is answered; then the connection goes, and there is no other."""
    server = start_server(repository)
    load = Load(server)
    with load.running(clients=8):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    assert set(load.answers) == {2}
    unconnected = ("failed to connect to all addresses", "ConnectionRefusedError")
    assert [failure for failure in load.failures if not any(one in failure for one in unconnected)] == []
    # grpc has nothing to say about how it was stopped
    assert {json.loads(line)["logger"] for line in server.output().splitlines()} == {"sluice.app", "sluice.catalog"}


def test_a_stream_is_answered_up_to_the_stop(repository: Path, gate: Gate, start_server: StartServer) -> None:
    server = start_server(repository, "--python-directory", str(repository), "--workers", "1")
    arrived: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    gate.path.touch()
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        for number in range(3):
            inputs = int64(triton_grpc, x=np.full((1, 1), number, np.int64))
            client.async_stream_infer("echo", inputs, request_id=str(number))
        until(gate.reached.exists, "a worker computes")
        until(lambda: server.metric("nv_inference_pending_request_count", model="echo") == 2, "two others wait")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not answers(server), "no more connections are accepted")
        gate.open()
        results = [arrived.get(timeout=PATIENCE) for _ in range(4)]
        client.stop_stream()
    assert [error for _, error in results[:3]] == [None] * 3
    assert {int(result.get_response().id): int(result.as_numpy("y")[0, 0]) for result, _ in results[:3]} == {
        0: 0,
        1: 1,
        2: 2,
    }
    assert results[3][1].status() == "StatusCode.UNAVAILABLE"
    assert server.process.wait(PATIENCE) == 0


def test_a_stream_may_end_by_itself_while_the_server_stops(
    repository: Path, gate: Gate, start_server: StartServer
) -> None:
    server = start_server(repository, "--python-directory", str(repository), "--workers", "1")
    arrived: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    gate.path.touch()
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        client.async_stream_infer("echo", int64(triton_grpc, x=np.ones((1, 1), np.int64)))
        until(gate.reached.exists, "a worker computes")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not answers(server), "no more connections are accepted")
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(client.stop_stream)
            gate.open()
            ended.result(PATIENCE)
        assert server.process.wait(PATIENCE) == 0
    assert [error for _, error in (arrived.get_nowait() for _ in range(arrived.qsize()))] == [None]


def test_nobody_is_let_in_before_it_is_ready_if_so_wished(repository: Path, slow: Path, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    names = ("--http-port", "--grpc-port", "--metrics-port")
    flags = [part for name, port in zip(names, ports, strict=True) for part in (name, str(port))]
    log = tmp_path / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            serve(repository, *flags, "--no-listen-early", "--lame-duck", "0"),
            stdout=subprocess.DEVNULL, stderr=errors, text=True, cwd=tmp_path,
        )  # fmt: skip
    addresses = [f"127.0.0.1:{port}" for port in ports]
    server = Server(process, f"http://{addresses[0]}", addresses[1], f"http://{addresses[2]}/metrics", log)
    try:
        until(lambda: "'tagger' version 1 is ready" in server.output(), "the quick model is loaded")
        assert not answers(server)
        slow.touch()
        until(lambda: answers(server), "it listens")
        assert echo(server, 1, model="slow")[0] == 200
    finally:
        assert server.stop(signal.SIGTERM) == 0


def test_unready_first_and_serving_on(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, "--lame-duck", "3600")
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        assert client.is_server_ready()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.request("GET", "/v2/health/ready")[0] == 503, "the server is unready")
        assert not client.is_server_ready()
        assert not client.is_model_ready("tagger")
        assert client.is_server_live()
    assert health(server) == (200, 200, 503)
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    assert server.request("POST", "/v2/models/tagger/infer", body)[0] == 200
    assert server.stop(signal.SIGTERM) != 0


def test_what_was_accepted_is_answered(repository: Path, gate: Gate, start_server: StartServer) -> None:
    server = start_server(repository, "--python-directory", str(repository), "--workers", "1", "--lame-duck", "0")
    gate.path.touch()
    with ThreadPoolExecutor(2) as pool, connect(server) as client:
        running = pool.submit(echo, server, 1)
        until(gate.reached.exists, "a worker computes")
        client.sendall(post("/v2/models/tagger/infer", {"inputs": [
            {"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}
        ]}))  # fmt: skip
        until(lambda: server.metric("nv_inference_pending_request_count", model="tagger") == 1, "another waits")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not answers(server), "no more connections are accepted")
        gate.open()
        assert running.result()[0] == 200
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.process.wait(PATIENCE) == 0


def test_what_does_not_finish_in_time_is_given_up(repository: Path, gate: Gate, start_server: StartServer) -> None:
    flags = ["--python-directory", str(repository), "--workers", "1", "--lame-duck", "0", "--drain-timeout", "0.1"]
    server = start_server(repository, *flags)
    workers = at_work(server)
    gate.path.touch()
    with connect(server) as client:
        client.sendall(post("/v2/models/echo/infer", {"inputs": [
            {"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [1]}
        ]}))  # fmt: skip
        until(gate.reached.exists, "a worker computes")
        assert server.stop(signal.SIGTERM) == 0
        assert client.recv(1000).startswith(b"HTTP/1.1 503")
    assert "requests not finished within 0.1 s: 1" in server.output()
    nothing_left(server, workers)


def test_a_second_signal_ends_it_at_once(
    repository: Path, gate: Gate, tmp_path: Path, start_server: StartServer
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = ("--python-directory", str(repository), "--lame-duck", "3600")
    server = start_server(repository, *options, environment={"TMPDIR": str(temporary)})
    workers = at_work(server)
    content = base64.b64encode((repository / "tagger" / "1" / "model.onnx").read_bytes()).decode()
    brought = {"parameters": {"config": "{}", "file:2/model.onnx": content}}
    assert server.request("POST", "/v2/repository/models/brought/load", brought)[0] == 200
    assert list(temporary.glob("sluice-*"))
    gate.path.touch()
    with connect(server) as client:
        client.sendall(post("/v2/models/echo/infer", {"inputs": [
            {"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [1]}
        ]}))  # fmt: skip
        until(gate.reached.exists, "a worker computes")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.request("GET", "/v2/health/ready")[0] == 503, "the server is unready")
        assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    nothing_left(server, workers)
    assert not list(temporary.glob("sluice-*"))


def test_an_interrupt_skips_the_lame_duck(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, "--lame-duck", "3600")
    workers = at_work(server)
    assert server.stop(signal.SIGINT) == 0
    nothing_left(server, workers)


def test_an_interrupt_of_the_whole_process_group(repository: Path, start_server: StartServer) -> None:
    """As a terminal's Ctrl-C does: the workers hear it as well, and leave it to the server."""
    server = start_server(repository)
    load = Load(server)
    with load.running(clients=1):
        for process in server.workers():
            os.kill(process.pid, signal.SIGINT)
        load.wait_for_more()
    assert not load.failures
    assert server.metric("sluice_worker_restarts_total") == 0
    assert server.stop(signal.SIGINT) == 0


def test_silent_connections_do_not_hold_the_stop_up(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository)
    with connect(server) as silent, connect(server) as torn:
        torn.sendall(b"POST /v2/models/tagger/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            assert client.is_server_ready()
            silent.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert silent.recv(1000).startswith(b"HTTP/1.1 200")
            torn.close()
            assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("port", ["http", "grpc", "metrics"])
def test_a_port_that_is_taken_is_told(repository: Path, tmp_path: Path, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        ports = {"http": "0", "grpc": "0", "metrics": "0", port: str(number)}
        flags = [part for name, value in ports.items() for part in (f"--{name}-port", value)]
        result = subprocess.run(
            serve(repository, *flags), capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE
        )
    assert result.returncode == 1
    message = f"error: server.{port}_port: cannot listen on 127.0.0.1:{number}: Address already in use\n"
    assert result.stderr == message


def test_a_repository_that_is_not_there_stops_the_start(start_server: StartServer, tmp_path: Path) -> None:
    """An unmounted disk must not look like a server that is ready for nothing."""
    with pytest.raises(AssertionError, match=r"models\.repository") as failure:
        start_server(tmp_path / "nowhere")
    assert "Traceback" not in str(failure.value)


def test_a_model_named_explicitly_is_required_for_ready(start_server: StartServer, tmp_path: Path) -> None:
    graphs.tagger(tmp_path / "models")
    server = start_server(tmp_path / "models", "--load", "tagger", "--load", "absent")
    assert server.request("GET", "/v2/models/tagger/ready")[0] == 200
    assert server.request("GET", "/v2/health/ready")[0] == 503
