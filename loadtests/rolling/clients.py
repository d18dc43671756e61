"""tritonclient's clients as applications use them: kept connections, short streams, streams without end.

Each is a thread that sends one request after the other and compares every answer with the truth. The truth needs no
server: the model triples.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from loadtests.rolling.model import FACTOR, NAME
from loadtests.rolling.proxies import Entrance
from loadtests.rolling.replicas import PATIENCE

Array = np.ndarray[Any, Any]

PER_STREAM = 20  # requests of a short stream
# How a server ends a stream that it will not read any further, and what HAProxy 2.6 makes of that.
STREAM_ENDS = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")

OPEN = 4  # requests that a stream without end has under way

# For clients that know all servers themselves: each server's health says whether new calls go there.
HEALTH_CHECKED = '{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}'


class WrongAnswerError(Exception):
    """An answer that is not the truth."""


@dataclass
class Outcomes:
    """What became of the requests of one kind of client."""

    kind: str
    seconds: list[tuple[float, float]] = field(default_factory=list)  # when answered, after how long
    failures: list[str] = field(default_factory=list)
    resent: int = 0  # sent once more because their stream ended without having taken them
    servers: set[str] = field(default_factory=set)  # who answered lately

    def worst(self, windows: Sequence[tuple[float, float]]) -> float:
        """The longest answer that fell into any of the times."""
        inside = (took for at, took in self.seconds if any(begin <= at <= end for begin, end in windows))
        return max(inside, default=0.0)


@dataclass
class Crowd:
    """All clients of a run."""

    entrance: Entrance
    outcomes: dict[str, Outcomes] = field(default_factory=dict)
    stopping: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def working(self, kinds: Sequence[str], each: int = 2) -> Iterator[Crowd]:
        """So many clients of each kind, at work until the block ends."""
        self.outcomes = {kind: Outcomes(kind) for kind in kinds}
        with ThreadPoolExecutor(each * len(kinds)) as pool:
            threads = [
                pool.submit(self._work, kind, seed) for seed, kind in enumerate(itertools.chain(*[kinds] * each))
            ]
            try:
                self.wait_for_more(5)
                yield self
            finally:
                self.stopping = True
            for thread in threads:
                thread.result(PATIENCE)

    def wait_for_more(self, count: int) -> None:
        """Until so many more requests of every kind are answered; a failure ends the wait too."""
        with self._changed:
            wanted = {kind: len(one.seconds) + count for kind, one in self.outcomes.items()}

            def enough() -> bool:
                return all(one.failures or len(one.seconds) >= wanted[kind] for kind, one in self.outcomes.items())

            if not self._changed.wait_for(enough, PATIENCE):
                raise TimeoutError("the clients have stopped to get answers")

    def wait_for_answers_of(self, server: str) -> None:
        """Until clients of every kind were answered by this server from now on; a failure ends the wait too.

        But for streams without end, which stay with the server that they began on.
        """
        with self._changed:
            concerned = [one for kind, one in self.outcomes.items() if KINDS[kind] is not Endless]
            for one in concerned:
                one.servers.clear()
            if not self._changed.wait_for(
                lambda: all(one.failures or server in one.servers for one in concerned), PATIENCE
            ):
                raise TimeoutError(f"server {server} gets no requests")

    def answered(self, kind: str, began: float, server: str) -> None:
        """Each server has a version of its own, by which its answers are known."""
        with self._changed:
            now = time.monotonic()
            self.outcomes[kind].seconds.append((now, now - began))
            self.outcomes[kind].servers.add(server)
            self._changed.notify_all()

    def failed(self, kind: str, error: BaseException) -> None:
        with self._changed:
            self.outcomes[kind].failures.append(f"{type(error).__name__}: {error}")
            self._changed.notify_all()

    def _work(self, kind: str, seed: int) -> None:
        chance = random.Random(seed)
        with KINDS[kind](self, kind) as client:
            while not self.stopping:
                try:
                    client.turn(chance)
                except Exception as error:
                    self.failed(kind, error)


class _Client:
    """What the clients have in common."""

    def __init__(self, crowd: Crowd, kind: str) -> None:
        self.crowd = crowd
        self.kind = kind
        self.client = self.connected()

    def connected(self) -> Any:
        address = self.crowd.entrance.grpc
        if "," not in address:
            return triton_grpc.InferenceServerClient(address)
        # grpc would wait for up to two minutes before it tries a server again that could not be reached.
        options = [("grpc.service_config", HEALTH_CHECKED), ("grpc.max_reconnect_backoff_ms", 500)]
        return triton_grpc.InferenceServerClient(f"ipv4:{address}", channel_args=options)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


class Grpc(_Client):
    """One call after the other on a channel that is kept."""

    def turn(self, chance: random.Random) -> None:
        x, began = made(chance), time.monotonic()
        result = self.client.infer(NAME, tensors(triton_grpc, x), client_timeout=PATIENCE)
        check(x, result)
        self.crowd.answered(self.kind, began, result.get_response().model_version)


class Http(_Client):
    """One request after the other on a connection that is kept."""

    def connected(self) -> Any:
        return triton_http.InferenceServerClient(
            self.crowd.entrance.http, connection_timeout=PATIENCE, network_timeout=PATIENCE
        )

    def turn(self, chance: random.Random) -> None:
        x, began = made(chance), time.monotonic()
        result = self.client.infer(NAME, tensors(triton_http, x))
        check(x, result)
        self.crowd.answered(self.kind, began, result.get_response()["model_version"])


@dataclass
class Asked:
    """A request on a stream that was not answered yet."""

    x: Array
    began: float


class Streams(_Client):
    """ModelStreamInfer calls of some requests each, as they follow one another on a channel that is kept."""

    def turn(self, chance: random.Random) -> None:
        arrived: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.client.start_stream(lambda result, error: arrived.put((result, error)))
        try:
            asked = {}
            for number in range(PER_STREAM):
                asked[str(number)] = Asked(made(chance), time.monotonic())
                self.client.async_stream_infer(NAME, tensors(triton_grpc, asked[str(number)].x), request_id=str(number))
            while asked:
                take(self.crowd, self.kind, asked, *arrived.get(timeout=PATIENCE))
        finally:
            self.client.stop_stream()


class Endless(_Client):
    """A stream that its client never ends. When it ends all the same, what was not answered is sent on the next one."""

    def __init__(self, crowd: Crowd, kind: str) -> None:
        super().__init__(crowd, kind)
        self._asked: dict[str, Asked] = {}
        self._numbers = itertools.count()

    def turn(self, chance: random.Random) -> None:
        arrived: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.client.start_stream(lambda result, error: arrived.put((result, error)))
        try:
            for number, asked in self._asked.items():
                self.crowd.outcomes[self.kind].resent += 1
                self._send(number, asked)
            while self._asked or not self.crowd.stopping:
                while len(self._asked) < OPEN and not self.crowd.stopping:
                    number = str(next(self._numbers))
                    self._asked[number] = Asked(made(chance), time.monotonic())
                    self._send(number, self._asked[number])
                result, error = arrived.get(timeout=PATIENCE)
                if error is not None and error.status() in STREAM_ENDS:
                    return
                take(self.crowd, self.kind, self._asked, result, error)
        finally:
            self.client.stop_stream()

    def _send(self, number: str, asked: Asked) -> None:
        # A stream that has ended under our hands takes nothing more; its end is told by the callback.
        with contextlib.suppress(InferenceServerException):
            self.client.async_stream_infer(NAME, tensors(triton_grpc, asked.x), request_id=number)


KINDS: dict[str, type[Any]] = {
    "HTTP": Http,
    "gRPC": Grpc,
    "gRPC streams": Streams,
    "gRPC endless stream": Endless,
}


def made(chance: random.Random) -> Array:
    shape = (chance.randint(1, 4), chance.randint(1, 32))
    return np.array([[chance.randrange(1 << 40) for _ in range(shape[1])] for _ in range(shape[0])], np.int64)


def tensors(module: Any, x: Array) -> list[Any]:
    tensor = module.InferInput("x", list(x.shape), "INT64")
    tensor.set_data_from_numpy(x)
    return [tensor]


def check(x: Array, result: Any) -> None:
    if not np.array_equal(result.as_numpy("y"), x * FACTOR):
        raise WrongAnswerError(f"{x.tolist()} -> {result.as_numpy('y')}")


def take(crowd: Crowd, kind: str, asked: dict[str, Asked], result: Any, error: Any) -> None:
    """An answer that came over a stream."""
    if error is not None:
        raise error
    response = result.get_response()
    one = asked.pop(response.id)
    check(one.x, result)
    crowd.answered(kind, one.began, response.model_version)
