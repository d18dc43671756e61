"""Open-loop load: requests at the times of a schedule, whatever became of others, each answer held to the truth."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from loadtests.chaos import models
from loadtests.chaos.clients import Client, Grpc, Http, Reply
from loadtests.chaos.ledger import Epochs, Ledger, Outcome, Request
from loadtests.chaos.machine import Server
from loadtests.chaos.models import Question
from loadtests.chaos.replies import NO_ANSWER

DEADLINE = 10.0
GRACE = 10.0  # beyond its deadline, after which a request without an answer is lost
PATIENCE = 45.0  # of those without a deadline


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one kind, per second."""

    model: str
    protocol: str
    rate: float


STREAMS = (
    Stream("tagger", "http", 14),
    Stream("tagger", "grpc", 14),
    Stream("whim", "http", 12),
    Stream("whim", "grpc", 12),
    Stream("minilm", "http", 5),
    Stream("minilm", "grpc", 5),
    Stream("spare", "http", 2),
    Stream("spare", "grpc", 2),
)


@dataclass
class Load:
    """Clients of one server, and the account of what they asked."""

    server: Server
    texts: models.Texts
    ledger: Ledger = field(default_factory=Ledger)
    epochs: dict[str, Epochs] = field(default_factory=dict)
    late: float = 0.0  # the most that a request was sent after its time
    _serials: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def open(self) -> None:
        self.clients: dict[str, Client] = {"http": Http(self.server.http), "grpc": Grpc(self.server.grpc)}

    def question(self, model: str, chance: random.Random) -> Question:
        if model == "minilm":
            return self.texts.ask(chance)
        if model == "whim":
            return models.ask_whim(chance, next(self._serials))
        return models.tagger(chance, model)

    def poison(self, chance: random.Random, order: str) -> Question:
        """One that is always the same, as a client's that asks again."""
        return models.ask_whim(chance, next(self._serials), order)

    async def run(self, streams: tuple[Stream, ...], seconds: float, seed: int) -> None:
        """Send all streams for this long; their answers are waited for by `settle`."""
        await asyncio.gather(
            *(self._drive(stream, seconds, random.Random(f"{seed} {stream}")) for stream in streams if stream.rate)
        )

    async def _drive(self, stream: Stream, seconds: float, chance: random.Random) -> None:
        due, end = time.monotonic(), time.monotonic() + seconds
        while (due := due + chance.expovariate(stream.rate)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.late = max(self.late, time.monotonic() - due)
            # One in three says until when it wants its answer; the others wait for one as long as it takes.
            deadline = DEADLINE if chance.random() < 1 / 3 else None
            self.spawn(self.ask(self.question(stream.model, chance), stream.protocol, deadline))

    def spawn(self, asking: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(asking)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ask(self, question: Question, protocol: str, deadline: float | None = None) -> Request:
        """One request and its outcome."""
        request = self.ledger.send(question.model, protocol, time.monotonic(), question.guilty)
        patience = PATIENCE if deadline is None else deadline + GRACE
        try:
            async with asyncio.timeout(patience):
                reply = await self.clients[protocol].ask(question, deadline)
        except TimeoutError:
            self.ledger.end(request, Outcome.LOST, time.monotonic(), "unanswered", f"no answer within {patience:g} s")
        except asyncio.CancelledError:
            self.ledger.end(request, Outcome.CANCELLED, time.monotonic())
            raise
        except Exception as error:  # an answer that cannot be read is not the truth
            self.ledger.end(request, Outcome.WRONG, time.monotonic(), "unreadable", repr(error))
        else:
            self.ledger.end(request, *self._judged(question, request, reply))
        return request

    def _judged(self, question: Question, request: Request, reply: Reply) -> tuple[Outcome, float, str, str]:
        now = time.monotonic()
        if reply.outputs is None:
            return (Outcome.LOST if reply.error == NO_ANSWER else Outcome.ERROR), now, reply.error, reply.detail
        if question.guilty:
            return Outcome.WRONG, now, "answered", "this request cannot be answered"
        if wrong := question.check(reply.outputs, reply.version):
            return Outcome.WRONG, now, "wrong", wrong
        epochs = self.epochs.get(question.model)
        if epochs is not None and int(reply.version) not in epochs.allowed(request.sent, now):
            return Outcome.WRONG, now, "old", f"version {reply.version} answered, which is not served"
        return Outcome.RIGHT, now, "", ""

    async def settle(self) -> None:
        """Until every request has its outcome."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self.ledger.close(time.monotonic())

    async def close(self) -> None:
        for client in self.clients.values():
            await client.close()


async def storm(load: Load, chance: random.Random, count: int = 40, cancelled: float = 0.9) -> None:
    """Requests all at once, most of them cancelled at random moments."""

    async def give_up(asking: asyncio.Task[Any], after: float) -> None:
        await asyncio.sleep(after)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking

    impatient = []
    for number in range(count):
        question = load.question("tagger" if number % 4 else "whim", chance)
        asking = load.spawn(load.ask(question, "grpc" if number % 2 else "http"))
        if chance.random() < cancelled:
            impatient.append(give_up(asking, chance.random() * 0.03))
    await asyncio.gather(*impatient)
