"""Many texts, one request: their entries run together or not at all, and their outputs become one answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
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


class Wave(Generic[_W, _R]):
    """The entries of one request, some at a time: each is answered, or none is.

    What the queue refuses while others of the same request are under way is tried again when one of them is done: many
    texts are more than can be answered within the target, and are not wanted sooner than they can be. So a request is
    refused as a whole only if not even one of its texts is let in.
    """

    def __init__(self, compute: Callable[[_W], Coroutine[Any, Any, _R]]) -> None:
        self._compute = compute
        self._running: dict[asyncio.Task[_R], int] = {}  # which of the entries each is
        self._room = FIRST_ROOM

    async def run(self, works: Sequence[_W], breath: Breath) -> list[_R]:
        """Every result in order; the first failure ends what the others have not finished, and is raised."""
        loop = asyncio.get_running_loop()
        waiting = deque(range(len(works)))
        results: dict[int, _R] = {}
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._room:
                    index = waiting.popleft()
                    self._running[loop.create_task(self._compute(works[index]))] = index
                    await breath.take()
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                self._land(done, results, waiting)
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
        return [results[index] for index in range(len(works))]

    def _land(self, done: set[asyncio.Task[_R]], results: dict[int, _R], waiting: deque[int]) -> None:
        refused: list[int] = []
        error: BaseException | None = None
        for task in done:
            index = self._running.pop(task)
            failure = task.exception() if not task.cancelled() else asyncio.CancelledError()
            if failure is None:
                results[index] = task.result()
                self._room = min(MOST_ROOM, self._room + 1)
            elif isinstance(failure, Overloaded | QueueFull):
                refused.append(index)
                error = failure
            else:
                raise failure
        if not refused:
            return
        if error is not None and not self._running and len(refused) == len(done):
            raise error  # nothing of it is under way that would make room
        self._room = max(1, len(self._running))
        waiting.extendleft(sorted(refused, reverse=True))


def joined(parts: Sequence[tuple[Tensor, ...]], spec: ModelSpec) -> tuple[Tensor, ...]:
    """The outputs of all texts, a row each; what has a length is filled up with zeros to the longest."""
    if len(parts) == 1:
        return parts[0]
    return tuple(_joined([part[index] for part in parts], spec) for index in range(len(parts[0])))


def _joined(tensors: Sequence[Tensor], spec: ModelSpec) -> Tensor:
    first = tensors[0]
    expected = spec.output_by_name[first.name]
    if expected.batch_axis is None:
        raise Unsupported(f"output '{first.name}' belongs to no row; send one text at a time")
    arrays = [tensor.array() for tensor in tensors]
    longest = [max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True)]
    filled = []
    for array in arrays:
        missing = [
            0 if axis == expected.batch_axis else wanted - size
            for axis, (wanted, size) in enumerate(zip(longest, array.shape, strict=True))
        ]
        if any(missing):
            empty = b"" if first.datatype == BYTES else 0
            array = np.pad(array, [(0, more) for more in missing], constant_values=empty)
        filled.append(array)
    whole = np.concatenate(filled, axis=expected.batch_axis)
    data = encode_bytes(whole.ravel()) if first.datatype == BYTES else np.ascontiguousarray(whole).tobytes()
    return Tensor(first.name, first.datatype, whole.shape, data)


def together(timelines: Sequence[Timeline], whole: Timeline) -> None:
    """The request's own timeline from those of its entries: queued when the first was, computed when the last was."""
    if not all(one.computed for one in timelines):
        return
    whole.queued = min(one.queued for one in timelines)
    whole.assembled = max(one.assembled for one in timelines)
    whole.started = max(one.started for one in timelines)
    whole.computed = max(one.computed for one in timelines)
    whole.compute_seconds = max(one.compute_seconds for one in timelines)
