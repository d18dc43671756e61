"""Many texts, one request: their entries run together or not at all, and their outputs become one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from sluice.errors import Unsupported
from sluice.request import Tensor, Timeline, encode_bytes
from sluice.spec import BYTES, ModelSpec

_T = TypeVar("_T")


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


async def all_or_none(awaitables: Iterable[Coroutine[Any, Any, _T]], breath: Breath) -> list[_T]:
    """Every result in order; the first failure ends what the others have not finished, and is raised."""
    tasks: list[asyncio.Task[_T]] = []
    try:
        for each in awaitables:
            tasks.append(asyncio.get_running_loop().create_task(each))
            await breath.take()
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        raise


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
