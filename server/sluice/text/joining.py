"""Many texts, one request: their entries run together or not at all, and their outputs become one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from sluice.errors import Unsupported
from sluice.request import Tensor, Timeline, encode_bytes
from sluice.spec import BYTES, ModelSpec

_T = TypeVar("_T")


async def all_or_none(awaitables: Iterable[Awaitable[_T]]) -> list[_T]:
    """Every result in order; the first failure ends what the others have not finished, and is raised."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
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
