"""What a server whose worker is always being replaced still answers, beside a server that has one worker less.

Both run all the time and are asked in turn, by as many clients as keep every worker busy, each of which asks again as
soon as it is answered. A kill comes as soon as the server is back from the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.chaos.ledger import Outcome
from loadtests.chaos.load import Load
from loadtests.chaos.machine import Server
from loadtests.chaos.models import Texts
from loadtests.chaos.rounds import Setting, Site
from loadtests.chaos.watch import Watch

WORKERS = 2
CLIENTS = 12
SECONDS = 6.0
HANDOVERS = 8
MOST_SECONDS = 120.0  # in all; what does not fit is left out
TURNS = 4
_BACK = 30.0


@dataclass
class Capacity:
    """Right answers per second, a value for each turn."""

    workers: int = WORKERS
    whole: list[float] = field(default_factory=list)  # all workers, nothing broken
    fewer: list[float] = field(default_factory=list)  # a server with one worker less
    recovering: list[float] = field(default_factory=list)  # all but the one that is being replaced
    kills: int = 0
    back: list[float] = field(default_factory=list)  # seconds from each kill to full strength, under this load
    continued: list[float] = field(default_factory=list)  # seconds from a kill to its batch on the other, at rest
    bad: int = 0

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Run:
    """A server under measurement."""

    server: Server
    load: Load
    watch: Watch

    async def rate(self, seconds: float) -> float:
        """Right answers per second while every client asks again as soon as it is answered."""
        begun, end = len(self.load.ledger.requests), time.monotonic() + seconds

        async def ask_on(number: int) -> None:
            chance = random.Random(number)
            while time.monotonic() < end:
                await self.load.ask(self.load.texts.ask(chance), "grpc" if number % 2 else "http")

        await asyncio.gather(*(ask_on(number) for number in range(CLIENTS)))
        answered = self.load.ledger.requests[begun:]
        right = sum(each.outcome is Outcome.RIGHT and each.ended <= end for each in answered)
        return right / seconds

    async def killing(self, seconds: float) -> int:
        """Kill a worker, again as soon as all are back; how often."""
        kills, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.watch.recovery.recovering and (live := self.watch.live()):
                self.watch.killed(live[kills % len(live)], "kill")
                self.server.signal(live[kills % len(live)], signal.SIGKILL)
                kills += 1
            await asyncio.sleep(0.02)
        return kills

    async def continued(self, armed: Path) -> None:
        """Kill the worker that has the only request; the watch sees when the other one begins it."""
        chance = random.Random(0)
        end = time.monotonic() + MOST_SECONDS / 3
        for number in range(HANDOVERS):
            if time.monotonic() > end:
                return
            (armed / f"hold.{number}").touch()
            asking = self.load.spawn(self.load.ask(self.load.question("whim", chance), "http"))
            held = await self.watch.next("hold", _BACK)
            if held is not None:
                self.watch.killed(held.pid, "kill-busy", held)
                self.server.signal(held.pid, signal.SIGKILL)
            await asking
            await self.back()

    async def back(self) -> None:
        end = time.monotonic() + _BACK
        while True:
            await asyncio.sleep(0.05)
            if not self.watch.recovery.recovering or time.monotonic() > end:
                return


@contextlib.asynccontextmanager
async def _running(folder: Path, texts: Texts, workers: int) -> AsyncIterator[_Run]:
    site = Site(folder)
    site.build(texts)
    server = await asyncio.to_thread(site.start, Setting("", workers))
    load, watch, ended = Load(server, texts), Watch(server, site.witness, workers), asyncio.Event()
    load.open()
    looking = asyncio.get_running_loop().create_task(watch.look(ended))
    try:
        yield _Run(server, load, watch)
    finally:
        ended.set()
        await looking
        await load.close()
        await asyncio.to_thread(server.stop)


async def measure(folder: Path, texts: Texts) -> Capacity:
    found = Capacity()
    async with (
        _running(folder / "whole", texts, WORKERS) as whole,
        _running(folder / "fewer", texts, WORKERS - 1) as fewer,
    ):
        end = time.monotonic() + MOST_SECONDS
        for run in (whole, fewer):
            await run.rate(2.0)
        await whole.continued(folder / "whole" / "armed")
        found.continued = sorted(whole.watch.continued)
        rest = len(whole.watch.recovery.outages)
        for _ in range(TURNS):
            if time.monotonic() > end:
                break
            found.fewer.append(await fewer.rate(SECONDS))
            found.whole.append(await whole.rate(SECONDS / 2))
            rate, kills = await asyncio.gather(whole.rate(SECONDS), whole.killing(SECONDS))
            found.recovering.append(rate)
            found.kills += kills
            await whole.back()
        found.back = sorted(outage.seconds for outage in whole.watch.recovery.finished()[rest:])
        found.bad = len(whole.load.ledger.bad()) + len(fewer.load.ledger.bad())
    return found
