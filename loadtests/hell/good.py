"""Clients that behave: users who ask at a steady rate, know the right answer, and count what came in time."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc.aio

from loadtests.hell.asking import ANSWER, ASK, MESSAGE, right
from loadtests.hell.attacks import INFER

PATIENCE = 1.0  # seconds after which an answer is no use
USERS = 16  # on each protocol
RATE = 80.0  # requests a second on each protocol
_KEPT = 25  # requests on one connection; new ones have to be let in as well
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Tally:
    """What became of the good clients' requests in one window."""

    sent: int = 0
    good: int = 0  # right and in time
    wrong: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def fail(self, reason: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def latency(self, share: float) -> float:
        """A percentile of the good answers, in seconds."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


class WrongAnswerError(Exception):
    """The server answered, but not what is right."""


class HttpUser:
    """One keep-alive connection after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asked = 0

    async def ask(self) -> None:
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._open
        writer.write(ASK)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head[9:12].decode())
        if not body.endswith(ANSWER):
            raise WrongAnswerError
        self._asked += 1
        if self._asked % _KEPT == 0:
            await self.leave()

    async def leave(self) -> None:
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None


class GrpcUser:
    """One channel after the other, none of which shares a connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._channel: grpc.aio.Channel | None = None
        self._asked = 0

    async def ask(self) -> None:
        if self._channel is None:
            options = [("grpc.use_local_subchannel_pool", 1)]
            self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options)
        if not right(await self._channel.unary_unary(INFER)(MESSAGE, timeout=PATIENCE)):
            raise WrongAnswerError
        self._asked += 1
        if self._asked % _KEPT == 0:
            await self.leave()

    async def leave(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None


User = HttpUser | GrpcUser


async def behave(http: int, grpc_port: int, seconds: float) -> dict[str, Tally]:
    """Users of both protocols for a while."""
    tallies = {"http": Tally(), "grpc": Tally()}
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for number in range(USERS):
            group.create_task(_use(lambda: HttpUser(http), number, end, tallies["http"]))
            group.create_task(_use(lambda: GrpcUser(grpc_port), number, end, tallies["grpc"]))
    return tallies


async def _use(make: Callable[[], User], number: int, end: float, tally: Tally) -> None:
    """Ask at fixed times; a user whose answer is late misses its next times, and those count as not answered."""
    user = make()
    every = USERS / RATE
    due = time.monotonic() + number / RATE
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tally.sent += 1
        await _timed(user.ask, user.leave, tally)
        due += every
        while due < time.monotonic() - every:
            due += every
            tally.sent += 1
            tally.fail("late")
    await user.leave()


async def _timed(ask: Callable[[], Awaitable[None]], leave: Callable[[], Awaitable[None]], tally: Tally) -> None:
    started = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            await ask()
    except WrongAnswerError:
        tally.wrong += 1
    except TimeoutError:
        tally.fail("late")
        await leave()
    except grpc.aio.AioRpcError as error:
        tally.fail(error.code().name.lower())
    except (OSError, asyncio.IncompleteReadError) as error:
        tally.fail(str(error) or type(error).__name__)
        await leave()
    else:
        tally.good += 1
        tally.seconds.append(time.monotonic() - started)
