"""Live, started, ready: computed from the parts' states at the moment of asking, never remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Condition(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"  # something is wrong, and the server serves
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Part:
    """Something whose condition an operator wants to know."""

    kind: str  # "worker", "device", "model", "memory", "disk", …
    name: str
    condition: Condition
    reason: str = ""  # why it is not ok, or what there is to say


class Parts(Protocol):
    """What health is computed from."""

    def capable(self) -> bool:
        """A worker runs, and every live version is held by one at least."""

    def lacking(self) -> list[str]:
        """Why it is not capable."""

    def version_ready(self, name: str, version: str) -> bool:
        """Requests for it are served now; raises UnknownModel."""


Source = Callable[[], Iterable[Part]]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that health has to say."""

    ready: bool
    reasons: list[str]  # why it is not; empty if it is
    parts: list[Part]
    uptime: float  # seconds


class Health:
    """Answers every health question of both protocols.

    Of `vital` parts, a failed one alone makes the server unready. What the `others` mean for readiness is for
    `Parts.capable` to say: one worker of many may fail.
    """

    def __init__(self, parts: Parts, vital: Sequence[Source] = (), others: Sequence[Source] = ()) -> None:
        self._parts = parts
        self._vital = vital
        self._others = others
        self._born = time.monotonic()
        self._started = False
        self._stopping = False
        self._seen = False  # whether it was ready at the last look
        self._waiting: set[asyncio.Future[None]] = set()

    def mark_started(self) -> None:
        """The models of the start are loaded, or reported."""
        self._started = True
        self.notify()

    def mark_stopping(self) -> None:
        self._stopping = True
        self.notify()

    def live(self) -> bool:
        """The event loop turns: whoever gets this answer got it from the loop."""
        return True

    def started(self) -> bool:
        return self._started

    def stopping(self) -> bool:
        return self._stopping

    def ready(self) -> bool:
        return self._started and not self._stopping and self._parts.capable() and not self._failing()

    def report(self) -> Report:
        """The whole of it, for people: whether it is ready, why not, and the condition of every part."""
        parts = [*_all(self._vital), *_all(self._others)]
        ready = self.ready()
        return Report(ready, [] if ready else self._reasons(), parts, time.monotonic() - self._born)

    def _failing(self) -> list[Part]:
        return [part for part in _all(self._vital) if part.condition is Condition.FAILED]

    def _reasons(self) -> list[str]:
        reasons = []
        if not self._started:
            reasons.append("the models of the start are still being loaded")
        if self._stopping:
            reasons.append("the server is stopping")
        if not self._started or self._stopping:
            return reasons
        failing = [f"{part.kind} {part.name}: {part.reason or part.condition}" for part in self._failing()]
        return failing + self._parts.lacking()

    def model_ready(self, name: str, version: str = "") -> bool:
        return self._parts.version_ready(name, version) and not self._stopping

    def notify(self) -> None:
        """A part's state may have changed: wake those who watch."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def look(self) -> None:
        """Notify if the server has become ready or unready: of what changes with time alone nobody else tells."""
        ready = self.ready()
        if ready != self._seen:
            self._seen = ready
            self.notify()

    async def changed(self) -> None:
        """Until the next notification."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


def _all(sources: Sequence[Source]) -> list[Part]:
    return [part for source in sources for part in source()]
