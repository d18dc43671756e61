"""Answers used again: a request that was answered a moment ago, or is being answered, is not computed a second time.

What counts as the same is the version, all that the model gets to see, and, unless the operator says otherwise, the
tenant. Requests of several texts are looked up text by text. Answers are kept in memory, the least used go first; a
store that replicas share can stand behind it, whose failures cost nobody an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from sluice.config.settings import ResponseCache
from sluice.errors import DeadlineExceeded, Overloaded, QueueFull, QueueTimeout
from sluice.request import Parameter, Tensor
from sluice.scheduler.entry import Work
from sluice.scheduler.quarantine import fingerprint

Outputs = tuple[Tensor, ...]

# What a reply's parameter is called that says where the answer came from.
PARAMETER = "sluice_cache"

# Bytes that an answer takes beside its data: its key, objects and places in tables.
_OVERHEAD = 600

# Bytes of input beyond which its key is made in a thread: a tenth of a millisecond's worth is not worth the way there.
_LARGE = 256 << 10


class How(Enum):
    """Where an answer came from."""

    COMPUTED = "miss"
    KEPT = "hit"
    SHARED = "shared"  # with another request that was being computed


@dataclass(frozen=True, slots=True)
class Identity:
    """What a version is called in keys."""

    text: str
    is_shared: bool  # replicas that serve the same files call it so, too


def marks(ways: Sequence[How]) -> dict[str, Parameter]:
    """What the reply says of where its answers came from."""
    if not ways:
        return {}
    return {PARAMETER: ways[0].value if len(set(ways)) == 1 else "partial"}


class Store(Protocol):
    """Where replicas keep answers for one another. It never raises and never takes long."""

    async def get(self, key: bytes) -> Outputs | None: ...

    async def put(self, key: bytes, outputs: Outputs, seconds: float) -> None: ...

    async def close(self) -> None: ...


class Memory:
    """Answers by key, at most so many bytes of them, each for so many seconds."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._kept: OrderedDict[bytes, tuple[float, int, Outputs]] = OrderedDict()  # until when, bytes
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now: float) -> Outputs | None:
        found = self._kept.get(key)
        if found is None:
            return None
        if found[0] <= now:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return found[2]

    def put(self, key: bytes, outputs: Outputs, now: float) -> None:
        size = _OVERHEAD + sum(memoryview(one.data).nbytes for one in outputs)
        if key in self._kept:
            self._drop(key)
        if size > self._most:
            return
        self._kept[key] = (now + self._seconds, size, outputs)
        self.size += size
        while self.size > self._most:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self.size = 0

    def _drop(self, key: bytes) -> None:
        self.size -= self._kept.pop(key)[1]


@dataclass(slots=True, eq=False)
class _Flight:
    """An answer being computed, and how many wait for it."""

    task: asyncio.Task[tuple[Outputs, How]]
    waiting: int = 0


@dataclass(slots=True)
class Reuse:
    """One server's. Without it every request is computed."""

    settings: ResponseCache
    store: Store | None = None
    memory: Memory = field(init=False)
    _flights: dict[bytes, _Flight] = field(init=False, default_factory=dict)
    _writing: set[asyncio.Task[None]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.memory = Memory(self.settings.bytes, self.settings.ttl)

    async def outputs(
        self, identity: Identity, work: Work, compute: Callable[[Work], Awaitable[Outputs]]
    ) -> tuple[Outputs, How]:  # fmt: skip
        """The answer to `work` of the version that `identity` names."""
        if work.size > _LARGE:
            key = await asyncio.to_thread(self._key, identity.text, work)
        else:
            key = self._key(identity.text, work)
        alone = False
        while True:
            kept = self.memory.get(key, time.monotonic())
            if kept is not None:
                return kept, How.KEPT
            flight = None if alone else self._flights.get(key)
            first = flight is None
            if flight is None:
                flight = self._begin(key, identity.is_shared, work, compute)
            try:
                outputs, how = await self._wait(key, flight, work)
            except (DeadlineExceeded, QueueTimeout):
                # Another's patience ended, not necessarily ours.
                if first or (work.request.deadline is not None and work.request.deadline <= time.monotonic()):
                    raise
                continue
            except (Overloaded, QueueFull):
                # Another's was not urgent enough, or came too late, which ours need not be.
                if first:
                    raise
                alone = True
                continue
            return outputs, how if first else How.SHARED

    def _key(self, identity: str, work: Work) -> bytes:
        tenant = "" if self.settings.across_tenants else work.request.tenant
        digest = hashlib.blake2b(repr((identity, tenant)).encode(), digest_size=16)
        return digest.digest() + fingerprint(work)

    def _begin(self, key: bytes, shared: bool, work: Work, compute: Callable[[Work], Awaitable[Outputs]]) -> _Flight:
        flight = _Flight(asyncio.get_running_loop().create_task(self._compute(key, shared, work, compute)))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda task: self._landed(key, flight, task))
        return flight

    async def _compute(
        self, key: bytes, shared: bool, work: Work, compute: Callable[[Work], Awaitable[Outputs]]
    ) -> tuple[Outputs, How]:  # fmt: skip
        store = self.store if shared else None
        if store is not None and (found := await store.get(key)) is not None:
            self.memory.put(key, found, time.monotonic())
            return found, How.KEPT
        outputs = await compute(work)
        self.memory.put(key, outputs, time.monotonic())
        if store is not None:
            writing = asyncio.get_running_loop().create_task(store.put(key, outputs, self.settings.ttl))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)
        return outputs, How.COMPUTED

    def _landed(self, key: bytes, flight: _Flight, task: asyncio.Task[tuple[Outputs, How]]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it

    async def _wait(self, key: bytes, flight: _Flight, work: Work) -> tuple[Outputs, How]:
        flight.waiting += 1
        deadline = work.request.deadline
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left):
                return await asyncio.shield(flight.task)
        except TimeoutError:
            raise DeadlineExceeded("Deadline Exceeded") from None
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                if self._flights.get(key) is flight:
                    del self._flights[key]  # whoever comes now begins anew
                flight.task.cancel()

    async def close(self) -> None:
        for writing in self._writing:
            writing.cancel()
        if self.store is not None:
            await self.store.close()
