"""Sees the workers fall and come back: reads what the whim wrote and asks the system which processes live."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtests.chaos.machine import Server
from loadtests.chaos.recovery import Recovery

IDLE_LOOK, BUSY_LOOK = 0.1, 0.02
_ENDS = frozenset({"exit", "crash", "hang", "spin", "device", "hold"})  # after these the process is of no use
_POISONS = frozenset({"exit", "crash", "hang", "spin"})


@dataclass(frozen=True, slots=True)
class Line:
    """One thing the whim did."""

    pid: int
    at: float
    what: str
    serials: tuple[int, ...]


def parse(text: str) -> Line | None:
    """A line of the witness file; None if it is not whole."""
    words = text.split(" ")
    if len(words) != 4 or not words[0].isdigit():
        return None
    return Line(int(words[0]), float(words[1]), words[2], tuple(int(one) for one in words[3].split(",") if one))


class Watch:
    """The strength of the server, from outside: how many of its processes live, are warm and can work."""

    def __init__(self, server: Server, witness: Path, full: int) -> None:
        self.recovery = Recovery(full)
        self.doings: Counter[str] = Counter()  # what the whim did, how often
        self.deaths: Counter[int] = Counter()  # workers that a request took, by its serial
        self.runs: Counter[int] = Counter()  # how often a request was begun
        self.continued: list[float] = []  # seconds from a kill until another worker began what the killed one had
        self._server = server
        self._file = witness
        self._read = 0
        self._warm: set[int] = set()
        self._doomed: set[int] = set()
        self._faulty: set[int] = set()
        self._killed: dict[int, float] = {}  # serial -> when the worker that had it was killed
        self._hearers: dict[str, list[Callable[[Line], None]]] = defaultdict(list)

    def strength(self) -> int:
        return len(self.live())

    async def look(self, ended: asyncio.Event) -> None:
        """Again and again until told that it is over."""
        while not ended.is_set():
            self.tick()
            await asyncio.sleep(BUSY_LOOK if self.recovery.recovering or self._hearers["hold"] else IDLE_LOOK)

    def tick(self) -> None:
        self._hear()
        self.recovery.seen(time.monotonic(), self.strength())

    def _hear(self) -> None:
        try:
            with self._file.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self._read += whole
        for text in data[:whole].decode().splitlines():
            if (line := parse(text)) is not None:
                self._heard(line)

    def _heard(self, line: Line) -> None:
        self.doings[line.what] += 1
        if line.what == "warm":
            self._warm.add(line.pid)
        elif line.what == "run":
            self._faulty.discard(line.pid)  # a server may think that its device recovered
            for serial in line.serials:
                self.runs[serial] += 1
                if (since := self._killed.pop(serial, None)) is not None:
                    self.continued.append(line.at - since)
        elif line.what in _ENDS:
            (self._faulty if line.what == "device" else self._doomed).add(line.pid)
            if line.what != "hold":  # that one is struck by the kill that follows
                self.recovery.struck(line.at, line.what)
        if line.what in _POISONS and len(line.serials) == 1:
            self.deaths[line.serials[0]] += 1
        hearers, self._hearers[line.what] = self._hearers[line.what], []
        for hear in hearers:
            hear(line)

    async def next(self, what: str, seconds: float) -> Line | None:
        """The next time the whim does this; None if it does not in time."""
        heard: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._hearers[what].append(lambda line: None if heard.done() else heard.set_result(line))
        try:
            async with asyncio.timeout(seconds):
                return await heard
        except TimeoutError:
            return None

    def killed(self, pid: int, fault: str, batch: Line | None = None) -> None:
        """A worker was killed just now, in the middle of this batch."""
        now = time.monotonic()
        self._doomed.add(pid)
        self.recovery.struck(now, fault)
        if batch is not None and self.live():  # somebody is there to go on with it
            self._killed |= dict.fromkeys(batch.serials, now)

    def live(self) -> list[int]:
        """Its workers that are warm and can work: nothing was done to them that they do not survive."""
        held = self._doomed | self._faulty | self._server.stopped
        return [pid for pid in self._server.workers() if pid in self._warm and pid not in held]
