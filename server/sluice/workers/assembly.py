"""Writes the entries of a batch into a slot, padded, and cuts each entry's own outputs out of it again.

Nothing is copied but once: request bytes → slot, slot → reply bytes. BYTES tensors lie in the slot in their wire form;
only those that need padding or are cut at another axis than the first are taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.request import Tensor, encode_bytes
from sluice.scheduler.entry import Work
from sluice.spec import BYTES, NUMPY_TYPES, ModelSpec, TensorSpec
from sluice.workers.slots import aligned, array_at
from sluice.workers.wire import Place, Wanted

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything of one batch lies in its slot."""

    inputs: tuple[Place, ...]
    outputs: tuple[Wanted, ...]
    encoded: Mapping[str, bytes]  # BYTES inputs, whose size is known only once they are joined
    size: int


def plan(spec: ModelSpec, works: Sequence[Work], *, length: int | None = None, place_outputs: bool = True) -> Plan:
    """Lay the batch out, padded to `length` or its longest entry's. Outputs whose shape follows from the spec get a
    place to be written in; the others, and all when `place_outputs` is false because the spec is still being learned,
    are placed by the worker."""
    rows, length = sum(work.rows for work in works), length or max(work.length for work in works)
    offset, inputs, outputs, encoded = 0, [], [], {}
    for index, tensor in enumerate(spec.inputs):
        given = next((work.inputs[index] for work in works if work.inputs[index] is not None), None)
        shape = _resized(tensor, given.shape if given else tensor.shape, rows, length)
        if tensor.datatype == BYTES:
            encoded[tensor.name] = _joined(tensor, shape, works, index)
            size = len(encoded[tensor.name])
        else:
            size = math.prod(shape) * NUMPY_TYPES[tensor.datatype].itemsize
        inputs.append(Place(tensor.name, tensor.datatype, shape, offset, size))
        offset = aligned(offset + size)
    for name in dict.fromkeys(name for work in works for name in work.outputs):
        tensor = spec.output_by_name[name]
        shape = _resized(tensor, tensor.shape, rows, length)
        if place_outputs and tensor.foreseen and tensor.datatype != BYTES and -1 not in shape:
            size = math.prod(shape) * NUMPY_TYPES[tensor.datatype].itemsize
            outputs.append(Wanted(name, Place(name, tensor.datatype, shape, offset, size)))
            offset = aligned(offset + size)
        else:
            outputs.append(Wanted(name, None))
    return Plan(tuple(inputs), tuple(outputs), encoded, offset)


def _resized(tensor: TensorSpec, shape: tuple[int, ...], rows: int, length: int) -> tuple[int, ...]:
    resized = list(shape)
    if tensor.batch_axis is not None:
        resized[tensor.batch_axis] = rows
    if tensor.sequence_axis is not None:
        resized[tensor.sequence_axis] = length
    return tuple(resized)


def write(spec: ModelSpec, works: Sequence[Work], planned: Plan, memory: memoryview) -> None:
    """Fill the slot with the inputs of all entries."""
    for index, (tensor, place) in enumerate(zip(spec.inputs, planned.inputs, strict=True)):
        if tensor.datatype == BYTES:
            memory[place.offset : place.offset + place.size] = planned.encoded[place.name]
            continue
        batch = array_at(memory, place)
        row = 0
        for work in works:
            _write_entry(tensor, batch, row, work, work.inputs[index])
            row += work.rows


def _write_entry(tensor: TensorSpec, batch: Array, row: int, work: Work, given: Tensor | None) -> None:
    mine = cut(tensor, batch, row, work.rows, work.length)
    if given is None:
        mine[...] = tensor.fill
    else:
        mine[...] = given.array()
    axis = tensor.sequence_axis
    if axis is not None and work.length < batch.shape[axis]:
        rest = [slice(None)] * batch.ndim
        if tensor.batch_axis is not None:
            rest[tensor.batch_axis] = slice(row, row + work.rows)
        rest[axis] = slice(work.length, None)
        batch[tuple(rest)] = tensor.pad


def _joined(tensor: TensorSpec, shape: tuple[int, ...], works: Sequence[Work], index: int) -> bytes:
    tensors = [work.inputs[index] for work in works]
    if tensor.sequence_axis is None and (tensor.batch_axis == 0 or len(works) == 1):
        return b"".join(given.data for given in tensors if given is not None)
    batch = np.full(shape, b"", dtype=object)
    row = 0
    for work, given in zip(works, tensors, strict=True):
        if given is not None:
            cut(tensor, batch, row, work.rows, work.length)[...] = given.array()
        row += work.rows
    return encode_bytes(batch.reshape(-1))


def cut(tensor: TensorSpec, batch: Array, row: int, rows: int, length: int) -> Array:
    """The part of a batch that belongs to the entry whose rows begin at `row`."""
    index = [slice(None)] * batch.ndim
    if tensor.batch_axis is not None:
        index[tensor.batch_axis] = slice(row, row + rows)
    if tensor.sequence_axis is not None:
        index[tensor.sequence_axis] = slice(0, length)
    return batch[tuple(index)]


def read(
    spec: ModelSpec, works: Sequence[Work], outputs: Sequence[Place], memory: memoryview
) -> list[tuple[Tensor, ...]]:
    """Each entry's own outputs, in the order it asked for, copied out of the slot."""
    arrays = {place.name: array_at(memory, place) for place in outputs}
    answers: list[tuple[Tensor, ...]] = []
    row = 0
    for work in works:
        answers.append(
            tuple(
                as_tensor(name, spec.output_by_name[name].datatype, _own(spec, name, arrays[name], row, work))
                for name in work.outputs
            )
        )
        row += work.rows
    return answers


def _own(spec: ModelSpec, name: str, array: Array, row: int, work: Work) -> Array:
    tensor = spec.output_by_name[name]
    return cut(tensor, array, row, work.rows, work.length)


def as_tensor(name: str, datatype: str, array: Array) -> Tensor:
    """A tensor with its own copy of the array's elements."""
    data = encode_bytes(array.reshape(-1)) if datatype == BYTES else array.tobytes()
    return Tensor(name, datatype, array.shape, data)
