"""The senders and generators against small servers that behave and misbehave."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from sluice.bench.address import Address
from sluice.bench.generators import Generators, follow
from sluice.bench.samples import Sample
from sluice.bench.senders import Wire

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
ONCE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nbusy"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\nouch!"

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[Wire]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readexactly(len(REQUEST)):
                await handle(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Wire(Address("http", "127.0.0.1", port), {5: REQUEST}, patience=20)
    finally:
        server.close()


def replying(answer: bytes) -> Handler:
    async def handle(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return handle


async def send(wire: Wire, count: int = 6) -> list[Sample]:
    return await follow(wire, [(0.0, 5)] * count, time.monotonic())


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        (OK, "answered", ""),
        (CHUNKED, "answered", ""),
        (ONCE, "answered", ""),
        (BUSY, "refused", "HTTP 429: busy"),
        (BROKEN, "failed", "HTTP 500: ouch!"),
    ],
)
async def test_an_answer_is_told_by_its_status(answer: bytes, outcome: str, detail: str) -> None:
    async with serving(replying(answer)) as wire:
        samples = await send(wire)
    assert {(sample.outcome, sample.detail) for sample in samples} == {(outcome, detail)}


async def test_a_connection_that_breaks_fails_only_its_request() -> None:
    left = [1]

    async def handle(writer: asyncio.StreamWriter) -> None:
        if left:
            left.pop()
            writer.close()
        else:
            writer.write(OK)

    async with serving(handle) as wire:
        samples = await send(wire)
    assert sorted(sample.outcome for sample in samples) == ["answered"] * 5 + ["failed"]


async def test_no_more_connections_than_allowed() -> None:
    writers: set[asyncio.StreamWriter] = set()

    async def handle(writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        writer.write(OK)

    async with serving(handle) as wire:
        samples = await send(Wire(wire.server, wire.bodies, wire.patience, connections=2), 20)
    assert all(sample.outcome == "answered" for sample in samples)
    assert len(writers) == 2


async def test_a_request_without_an_answer_is_given_up() -> None:
    async def handle(writer: asyncio.StreamWriter) -> None:
        pass

    async with serving(handle) as wire:
        samples = await send(Wire(wire.server, wire.bodies, patience=0.2, connections=2), 4)
    assert [sample.outcome for sample in samples] == ["expired"] * 4


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_a_server_that_is_not_there(scheme: str) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    samples = await send(Wire(Address(scheme, "127.0.0.1", port), {5: REQUEST}, patience=10, connections=1))
    assert {sample.outcome for sample in samples} == {"failed" if scheme == "http" else "refused"}


async def test_several_processes_share_a_plan() -> None:
    async with serving(replying(OK)) as wire:
        generators = Generators(2)
        await asyncio.to_thread(generators.start)
        try:
            assert len(generators.pids()) == 2
            plan = [(number / 100, 5) for number in range(9)]
            samples = await asyncio.to_thread(generators.run, wire, plan)
        finally:
            generators.close()
            generators.close()
    assert sorted(sample.due for sample in samples) == [due for due, _ in plan]
    assert all(sample.outcome == "answered" for sample in samples)
