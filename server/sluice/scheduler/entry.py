"""One request waiting in a queue, with its reply handle, and the lane of one version it waits in."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

from sluice.request import InferRequest, Tensor
from sluice.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Work:
    """A request that fits its version, reduced to what batching needs to know."""

    request: InferRequest
    inputs: tuple[Tensor | None, ...]  # in the order of the spec; None = left out, to be filled
    outputs: tuple[str, ...]
    rows: int
    length: int  # along the sequence axis; 1 for models without one
    group: Hashable  # only entries of one group can share a batch
    size: int = 0  # bytes of input
    priority_shift: float = 0.0  # seconds of waiting time its priority is worth, negative = more urgent
    queue_timeout: float | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """Owned by the scheduler loop from submit to answer."""

    work: Work
    reply: asyncio.Future[tuple[Tensor, ...]]
    urgency: float  # the smallest goes first
    sequence: int  # arrival number: breaks ties, and names a group of its own for an entry that must run alone
    group: Hashable
    waiting: bool = False
    losses: int = 0  # workers that died computing it
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.work.rows * self.work.length


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one version's batches and queue."""

    rows: int
    tokens: int
    size: int  # bytes of input
    queue: int
    queue_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries to be computed together."""

    number: int
    key: str  # which loaded version
    spec: ModelSpec
    entries: tuple[Entry, ...]

    @property
    def rows(self) -> int:
        return sum(entry.work.rows for entry in self.entries)

    @property
    def tokens(self) -> int:
        return sum(entry.tokens for entry in self.entries)

    @property
    def padded_tokens(self) -> int:
        return self.rows * max(entry.work.length for entry in self.entries)
