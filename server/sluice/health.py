"""Live, started, ready: computed from the parts' states at the moment of asking, never remembered."""

from __future__ import annotations

import asyncio
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

    def version_ready(self, name: str, version: str) -> bool:
        """Requests for it are served now; raises UnknownModel."""


class Health:
    """Answers every health question of both protocols."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started = False
        self._stopping = False
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
        return self._started and not self._stopping and self._parts.capable()

    def model_ready(self, name: str, version: str = "") -> bool:
        return self._parts.version_ready(name, version) and not self._stopping

    def notify(self) -> None:
        """A part's state may have changed: wake those who watch."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self) -> None:
        """Until the next notification."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)
