"""What tests of a whole server share: requests whose answers are known, devices held busy, and waiting for a state."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from servers import Server

PATIENCE = 60.0

Array = np.ndarray[Any, Any]


def until(condition: Callable[[], bool], what: str) -> None:
    """Ask again and again until it is true. Each condition here asks a server or the system, which paces the asking."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"


def named_memory(*pids: int) -> list[str]:
    """What these processes share under a name, which is what could be left behind."""
    maps = [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [line for line in maps if "/dev/shm/" in line]


def gone(process: psutil.Process) -> bool:
    """It ended; that nobody has reaped an orphan yet is not its fault."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True)
class Gate:
    """The file that holds `graphs.python_echo` up while it exists."""

    path: Path

    @property
    def reached(self) -> Path:
        return self.path.with_suffix(".held")

    def open(self) -> None:
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def holding(self, server: Server, workers: int = 1) -> Iterator[None]:
        """Keep this many workers, which are all there are, busy until the end of the block."""
        self.path.touch()
        with ThreadPoolExecutor(workers) as pool:
            answers: list[Future[tuple[int, Any]]] = []
            try:
                for number in range(workers):
                    self.reached.unlink(missing_ok=True)
                    answers.append(pool.submit(echo, server, 1))
                    until(self.reached.exists, f"{number + 1} workers are held")
                # While it is answered the batches that are held become overdue: nothing is staged behind them.
                server.metric("sluice_workers", state="running")
                yield
            finally:
                self.open()
            assert [answer.result()[0] for answer in answers] == [200] * workers
            for _ in range(4 * workers):  # lest the server come to expect batches that take so long
                assert echo(server, 1)[0] == 200


def echo(server: Server, *values: int, model: str = "echo") -> tuple[int, Any]:
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, len(values)], "data": list(values)}]}
    return server.request("POST", f"/v2/models/{model}/infer", body)


def pending(server: Server, model: str) -> int:
    return int(server.metric("nv_inference_pending_request_count", model=model))


def statistics(server: Server, model: str) -> dict[str, Any]:
    status, body = server.request("GET", f"/v2/models/{model}/stats")
    assert status == 200, body
    found: dict[str, Any] = body["model_stats"][-1]
    return found


def executions(server: Server, model: str) -> int:
    return int(statistics(server, model)["execution_count"])


@dataclass(frozen=True)
class Tagged:
    """A request to `graphs.tagger` that no other request's answer would fit."""

    ids: Array
    mask: Array
    priority: int
    factor: int = 2

    @classmethod
    def random(cls, generator: random.Random, longest: int = 40) -> Tagged:
        rows, length = generator.randint(1, 4), generator.randint(1, longest)
        ids = np.array([[generator.randrange(1 << 40) for _ in range(length)] for _ in range(rows)], np.int64)
        mask = np.array([[generator.randint(0, 1) for _ in range(length)] for _ in range(rows)], np.int64)
        return cls(ids, mask, generator.randint(0, 10))

    def check(self, tokens: Array | None, total: Array | None) -> None:
        np.testing.assert_array_equal(tokens, self.ids * self.factor)
        np.testing.assert_array_equal(total, (self.ids * self.mask * self.factor).sum(axis=1, keepdims=True))


def int64(client: Any, **arrays: Array) -> list[Any]:
    """The arrays as inputs of one of tritonclient's modules."""
    inputs = []
    for name, array in arrays.items():
        tensor = client.InferInput(name, list(array.shape), "INT64")
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def post(path: str, body: Any, headers: str = "") -> bytes:
    """A whole HTTP request as it goes over the wire."""
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(content)}\r\n\r\n".encode() + content


def connect(server: Server) -> socket.socket:
    host, port = server.netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


@dataclass
class Load:
    """Clients over both protocols that send one request after the other until told to stop."""

    server: Server
    model: str = "tagger"
    heed: bool = False  # ask whether the server is ready before each request, and stop when it is not
    answers: list[int] = field(default_factory=list)  # total of [[1]] in each answer: which version answered
    failures: list[str] = field(default_factory=list)
    stopping: bool = False
    _more: threading.Condition = field(default_factory=threading.Condition)

    def _client(self, module: Any, url: str) -> None:
        with module.InferenceServerClient(url) as client:
            inputs = int64(module, input_ids=np.ones((1, 1), np.int64), attention_mask=np.ones((1, 1), np.int64))
            try:
                while not self.stopping and (not self.heed or client.is_server_ready()):
                    result = client.infer(self.model, inputs)
                    with self._more:
                        self.answers.append(int(result.as_numpy("total")[0, 0]))
                        self._more.notify_all()
            except Exception as error:
                with self._more:
                    self.failures.append(f"{module.__name__}: {type(error).__name__}: {error}")
                    self._more.notify_all()

    @contextlib.contextmanager
    def running(self, clients: int = 2) -> Iterator[Load]:
        """`clients` on each protocol, at work from the start of the block to its end."""
        with ThreadPoolExecutor(2 * clients) as pool:
            started = [pool.submit(self._client, triton_grpc, self.server.grpc) for _ in range(clients)]
            started += [pool.submit(self._client, triton_http, self.server.netloc) for _ in range(clients)]
            try:
                self.wait_for_more()
                yield self
            finally:
                self.stopping = True
        for one in started:
            one.result()

    def wait_for_more(self, count: int = 20) -> None:
        """Until so many more requests were answered."""
        with self._more:
            wanted = len(self.answers) + count
            assert self._more.wait_for(lambda: len(self.answers) >= wanted or self.failures, PATIENCE)
