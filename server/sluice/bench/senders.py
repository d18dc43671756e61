"""The two ways to send: bytes over gRPC channels, whole HTTP requests over kept connections."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import grpc
import httptools

from sluice.bench.address import Address
from sluice.bench.samples import Outcome, Sample
from sluice.bench.server import SERVICE

GRPC_CHANNELS = 4
HTTP_CONNECTIONS = 1024
_REFUSALS = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})
_HTTP_OUTCOMES: Mapping[int, Outcome] = {200: "answered", 429: "refused", 503: "refused", 504: "expired"}


@dataclass(frozen=True, slots=True)
class Wire:
    """Where and how requests travel; `bodies` holds the bytes of a request by its length."""

    server: Address
    bodies: Mapping[int, bytes]
    patience: float  # seconds from a request's scheduled time after which it is given up
    deadline: float = 0.0  # gRPC: seconds given to the server as the request's deadline; 0 = its patience
    connections: int = 0  # gRPC: channels; HTTP: most connections; 0 = the protocol's usual number


class Sender(Protocol):
    """Sends requests without waiting for their answers."""

    async def open(self) -> None: ...

    def send(self, sample: Sample, due: float) -> None:
        """Start one request that should have been sent at `due`, in monotonic seconds."""

    async def drained(self) -> None:
        """Returns when every request sent has its outcome."""

    async def close(self) -> None: ...


def sender(wire: Wire) -> Sender:
    return GrpcSender(wire) if wire.server.grpc else HttpSender(wire)


@dataclass(slots=True)
class GrpcSender:
    """Each channel has its own connection; requests take turns on them."""

    wire: Wire
    _channels: list[Any] = field(default_factory=list)
    _calls: list[Any] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _sent: int = 0

    async def open(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        for _ in range(self.wire.connections or GRPC_CHANNELS):
            if self.wire.server.secure:
                credentials = grpc.ssl_channel_credentials()
                channel = grpc.aio.secure_channel(self.wire.server.netloc, credentials, options)
            else:
                channel = grpc.aio.insecure_channel(self.wire.server.netloc, options)
            self._channels.append(channel)
            self._calls.append(channel.unary_unary(f"{SERVICE}/ModelInfer"))

    def send(self, sample: Sample, due: float) -> None:
        self._sent += 1
        call = self._calls[self._sent % len(self._calls)]
        task = asyncio.create_task(self._exchange(call, sample, due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange(self, call: Any, sample: Sample, due: float) -> None:
        left = due + (self.wire.deadline or self.wire.patience) - time.monotonic()
        try:
            await call(self.wire.bodies[sample.length], timeout=max(left, 0.001))
            sample.outcome = "answered"
        except grpc.aio.AioRpcError as error:
            code = error.code()
            expired = code is grpc.StatusCode.DEADLINE_EXCEEDED
            sample.outcome = "expired" if expired else "refused" if code in _REFUSALS else "failed"
            sample.detail = "" if expired else f"{code.name}: {(error.details() or '')[:120]}"
        sample.seconds = time.monotonic() - due

    async def drained(self) -> None:
        while self._tasks:  # woken by the outcomes, ended by the deadline that every call carries
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(0)


class HttpSender:
    """One request at a time on each connection; further ones are opened up to a limit, beyond it requests wait."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._most = wire.connections or HTTP_CONNECTIONS
        self._tls = ssl.create_default_context() if wire.server.secure else None
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._waiting: deque[tuple[Sample, float]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._unfinished = 0
        self._empty = asyncio.Event()

    async def open(self) -> None:
        self._empty.set()

    def send(self, sample: Sample, due: float) -> None:
        self._unfinished += 1
        self._empty.clear()
        self._waiting.append((sample, due))
        if self._idle:
            self._serve(self._idle.pop())
        else:
            self._grow()

    def _grow(self) -> None:
        if self._waiting and len(self._open) + len(self._opening) < self._most:
            task = asyncio.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        server = self._wire.server
        try:
            _, connection = await asyncio.wait_for(
                loop.create_connection(
                    lambda: _Connection(self._ended, self._lost), server.host, server.port, ssl=self._tls
                ),
                self._wire.patience,
            )
        except (OSError, TimeoutError) as error:
            # without any connection nobody else would ever come for those that wait
            hopeless = len(self._waiting) if not self._open and len(self._opening) <= 1 else 1
            for _ in range(min(hopeless, len(self._waiting))):
                sample, due = self._waiting.popleft()
                self._record(sample, due, "failed", f"connect: {error or type(error).__name__}"[:120])
            return
        self._open.add(connection)
        self._serve(connection)

    def _serve(self, connection: _Connection) -> None:
        """Give a free connection what has waited longest; what waited beyond its patience is not sent at all."""
        now = time.monotonic()
        while self._waiting:
            sample, due = self._waiting.popleft()
            if now - due >= self._wire.patience:
                self._record(sample, due, "expired", "no connection was free in time")
                continue
            sample.waited = max(0.0, now - due - sample.late)
            connection.exchange(self._wire.bodies[sample.length], sample, due, due + self._wire.patience - now)
            return
        self._idle.append(connection)

    def _ended(self, connection: _Connection, status: int, detail: str) -> None:
        sample, due = connection.taken()
        self._record(
            sample, due, _HTTP_OUTCOMES.get(status, "failed"), "" if status == 200 else f"HTTP {status}: {detail}"
        )
        if connection.usable:
            self._serve(connection)

    def _lost(self, connection: _Connection, detail: str) -> None:
        """A connection is gone: the server closed it, or we did because its request ran out of patience."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.busy:
            sample, due = connection.taken()
            self._record(sample, due, "failed" if detail else "expired", detail)
        self._grow()

    def _record(self, sample: Sample, due: float, outcome: Outcome, detail: str) -> None:
        sample.outcome, sample.detail = outcome, detail
        sample.seconds = time.monotonic() - due
        self._unfinished -= 1
        if not self._unfinished:
            self._empty.set()

    async def drained(self) -> None:
        await self._empty.wait()  # woken by the last outcome; every request has one within its patience

    async def close(self) -> None:
        for task in self._opening:
            task.cancel()
        for connection in list(self._open):
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection and the request that is on it."""

    def __init__(
        self, ended: Callable[[_Connection, int, str], None], lost: Callable[[_Connection, str], None]
    ) -> None:
        self._ended, self._lost = ended, lost
        self._current: tuple[Sample, float] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._impatient = False
        self.usable = True

    @property
    def busy(self) -> bool:
        return self._current is not None

    def taken(self) -> tuple[Sample, float]:
        """The request that was on it, which is off it now."""
        assert self._current is not None
        current, self._current = self._current, None
        if self._timer is not None:
            self._timer.cancel()
        return current

    def exchange(self, request: bytes, sample: Sample, due: float, patience: float) -> None:
        self._current = (sample, due)
        self._parser = httptools.HttpResponseParser(self)
        self._detail = b""
        self._timer = asyncio.get_running_loop().call_later(patience, self._give_up)
        self._transport.write(request)

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def _give_up(self) -> None:
        self._impatient = True
        self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._lost(self, "" if self._impatient else f"the connection was closed: {exc or 'by the server'}"[:120])

    def data_received(self, data: bytes) -> None:
        if self._current is None:
            self.close()  # an answer that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, body: bytes) -> None:
        if len(self._detail) < 120 and self._parser.get_status_code() != 200:
            self._detail += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer; the real one follows
            return
        if not self._parser.should_keep_alive():
            self.close()
        self._ended(self, status, self._detail[:120].decode(errors="replace"))
