"""One request waiting in a queue, with its reply handle, and the batch it becomes part of."""

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
    priority: float = 0.0  # from -1, the most urgent level there is, to 1, the least
    queue_timeout: float | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """Owned by the scheduler loop from submit to answer. What the policy reads of it stands first."""

    rows: int
    length: int
    size: int
    group: Hashable
    arrival: float
    due: float  # when its answer is wanted
    shift: float  # seconds that its priority is worth, negative = more urgent
    tenant: Hashable
    sequence: int  # arrival number: breaks ties, and names a group of its own for an entry that must run alone
    work: Work
    reply: asyncio.Future[tuple[Tensor, ...]]
    waiting: bool = True
    losses: int = 0  # workers that died computing it
    lone_losses: int = 0  # of these, those that computed nothing else
    overflowed: bool = False  # a batch that it was in found no memory on its device
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one version's queue."""

    queue: int
    queue_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries to be computed together."""

    number: int
    key: str  # which loaded version
    spec: ModelSpec
    entries: tuple[Entry, ...]
    length: int  # what all are padded to
    seconds: float  # predicted

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.entries)

    @property
    def tokens(self) -> int:
        return sum(entry.tokens for entry in self.entries)

    @property
    def padded_tokens(self) -> int:
        return self.rows * self.length
