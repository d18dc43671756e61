"""Many texts, one request: their entries run together or not at all, and their outputs become one answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Generic, TypeVar

import numpy as np

from sluice.errors import Overloaded, QueueFull, Unsupported
from sluice.request import Tensor, Timeline, encode_bytes
from sluice.spec import BYTES, ModelSpec

_W = TypeVar("_W")
_R = TypeVar("_R")

# Entries of one request under way at first, and at most.
FIRST_ROOM = 16
MOST_ROOM = 256

# Seconds after which it is worth asking again at a door that says nothing about it.
LEAST_WAIT = 0.05

# However long a door says that one should stay away: others may leave sooner than it thought.
MOST_WAIT = 1.0

# Seconds without any further answer after which a request is refused, although some of its entries are answered.
PATIENCE = 30.0

# Entries that are begun in one turn of the event loop: each takes twenty microseconds then.
_BEGUN = 16

# How long one request may keep the event loop to itself.
_BREATH = 0.0005


class Breath:
    """Gives way to others now and then, while one request with many texts is worked on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    async def take(self) -> None:
        """To be called between two steps that are short."""
        if self._loop.time() - self._since > _BREATH:
            await asyncio.sleep(0)
            self._since = self._loop.time()


async def one_by_one(values: Iterable[_R]) -> list[_R]:
    """All of them, each made when its turn comes, so that others have theirs in between."""
    breath, made = Breath(), []
    for value in values:
        made.append(value)
        await breath.take()
    return made


class Turnstile:
    """Lets few through in one turn of the event loop, in the order in which they come."""

    def __init__(self, at_once: int = 8) -> None:
        self._at_once = at_once
        self._passed = 0
        self._turning = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def through(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)
        if self._passed < self._at_once:
            self._passed += 1
            return
        place = loop.create_future()
        self._waiting.append(place)
        await place

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._at_once:
            place = self._waiting.popleft()
            if not place.done():  # who waited may be gone
                place.set_result(None)
                self._passed += 1
        self._turning = self._passed > 0
        if self._turning:
            loop.call_soon(self._turn, loop)


class Wave(Generic[_W, _R]):
    """The entries of one request, some at a time: each is answered, or none is.

    What the queue refuses while others of the same request are under way is tried again when one of them is done: many
    texts are more than can be answered within the target, and are not wanted sooner than they can be. So a request is
    refused as a whole only if not even one of its texts is let in. Once some are answered, the others come again when
    they are advised to: what was done for it shall not have been for nothing. It is refused even so when that would be
    too late for it, or nothing more was answered for long.
    """

    def __init__(
        self,
        compute: Callable[[_W], Coroutine[Any, Any, _R]],
        deadline: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._compute = compute
        self._deadline = deadline
        self._patience = patience
        self._running: dict[asyncio.Task[_R], tuple[int, _W]] = {}  # which of the entries each is
        self._room = FIRST_ROOM

    async def run(self, works: list[_W], breath: Breath) -> list[_R]:
        """Every result in order; the first failure ends what the others have not finished, and is raised. The list is
        emptied, so that what is answered can be forgotten at once: to forget all in the end takes milliseconds."""
        if len(works) == 1:
            return [await self._compute(works.pop())]
        loop = asyncio.get_running_loop()
        count, waiting, since = len(works), deque(enumerate(works)), loop.time()
        works.clear()
        results: dict[int, _R] = {}
        try:
            while waiting or self._running:
                begun = 0
                while waiting and len(self._running) < self._room:
                    index, work = waiting.popleft()
                    self._running[loop.create_task(self._compute(work))] = index, work
                    begun += 1
                    if begun % _BEGUN == 0:
                        await asyncio.sleep(0)
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                known = len(results)
                refusal = self._land(done, results, waiting)
                if len(results) > known:
                    since = loop.time()
                if refusal is not None and not self._running:  # nothing of it is under way that would make room
                    if not results:
                        raise refusal
                    pause = min(MOST_WAIT, max(LEAST_WAIT, refusal.retry_after or 0.0))
                    again, late = loop.time() + pause, self._deadline
                    if again > since + self._patience or (late is not None and again >= late):
                        raise refusal
                    await asyncio.sleep(pause)
                await breath.take()
        except BaseException:
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)
                for task in self._running:
                    if not task.cancelled():
                        task.exception()  # one reason is enough
            raise
        return [results[index] for index in range(count)]

    def _land(
        self, done: set[asyncio.Task[_R]], results: dict[int, _R], waiting: deque[tuple[int, _W]]
    ) -> Overloaded | QueueFull | None:
        """Note what became of these; why all were refused, if so."""
        refused: list[tuple[int, _W]] = []
        error: Overloaded | QueueFull | None = None
        for task in done:
            index, work = self._running.pop(task)
            failure = task.exception() if not task.cancelled() else asyncio.CancelledError()
            if failure is None:
                results[index] = task.result()
                self._room = min(MOST_ROOM, self._room + 1)
            elif isinstance(failure, Overloaded | QueueFull):
                refused.append((index, work))
                error = failure
            else:
                raise failure
        if refused:
            self._room = max(1, len(self._running))
            waiting.extendleft(sorted(refused, key=itemgetter(0), reverse=True))
        return error if len(refused) == len(done) else None


async def joined(parts: Sequence[tuple[Tensor, ...]], spec: ModelSpec) -> tuple[Tensor, ...]:
    """The outputs of all texts, a row each; what has a length is filled up with zeros to the longest."""
    if len(parts) == 1:
        return parts[0]
    return tuple([await _joined([part[index] for part in parts], spec) for index in range(len(parts[0]))])


async def _joined(tensors: Sequence[Tensor], spec: ModelSpec) -> Tensor:
    first = tensors[0]
    rows = spec.output_by_name[first.name].batch_axis
    if rows is None:
        raise Unsupported(f"output '{first.name}' belongs to no row; send one text at a time")
    arrays = await one_by_one(tensor.array() for tensor in tensors)
    shape = [max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True)]
    shape[rows] = sum(array.shape[rows] for array in arrays)
    whole = np.full(shape, b"", object) if first.datatype == BYTES else np.zeros(shape, arrays[0].dtype)
    breath, at = Breath(), 0
    for array in arrays:
        place = [slice(size) for size in array.shape]
        place[rows] = slice(at, at + array.shape[rows])
        whole[tuple(place)] = array
        at += array.shape[rows]
        await breath.take()
    data = encode_bytes(whole.ravel()) if first.datatype == BYTES else whole.tobytes()
    return Tensor(first.name, first.datatype, whole.shape, data)


def together(timelines: Sequence[Timeline], whole: Timeline) -> None:
    """The request's own timeline from those of its entries: queued when the first was, computed when the last was."""
    if not all(one.computed for one in timelines):
        return
    first, last = min(timelines, key=attrgetter("queued")), max(timelines, key=attrgetter("computed"))
    whole.queued = first.queued
    whole.assembled, whole.started, whole.computed = last.assembled, last.started, last.computed
    whole.compute_seconds = max(map(attrgetter("compute_seconds"), timelines))
