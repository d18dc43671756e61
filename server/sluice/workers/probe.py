"""Learns at warm-up what the model file does not say: which output axes carry batch and sequence, and whether padding
changes answers.

A probe runs alone, then inside a mixed and padded batch. Answers that differ beyond the tolerance mean that the version
is not padded (equal lengths only), and if even an equal-length batch changes them, not batched at all. Dynamically
quantized models compute their scales over the whole batch, so this is no theoretical concern (the same input alone and
in a batch of 8: cosine 0.983-0.990).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sluice.errors import InvalidRequest, ModelFailed
from sluice.request import InferRequest, Tensor, encode_bytes
from sluice.scheduler.entry import Work
from sluice.spec import BYTES, NUMPY_TYPES, ModelSpec, Padding, TensorSpec
from sluice.workers import assembly
from sluice.workers.worker import Worker

log = logging.getLogger("sluice.workers")

# Three lengths and their rows: unequal, none a divisor of another or equal to a usual fixed dimension, so that the axes
# of the outputs can be told apart by their sizes.
_SHAPES = ((1, 5), (2, 11), (1, 7))
_ALONE = 0
# Small enough to be a valid index of any vocabulary worth serving.
_LARGEST_INTEGER = 9


@dataclass(frozen=True, slots=True)
class Finding:
    """The spec with what was learned, and why batching is restricted, if it is."""

    spec: ModelSpec
    reason: str = ""


async def probe(worker: Worker, key: str, spec: ModelSpec, tolerance: float, asked: Padding | None) -> Finding:
    """Run the probes on one worker; `asked` is what the operator insists on."""
    wide = replace(spec, outputs=tuple(replace(output, default=True) for output in spec.outputs))
    shapes = [(rows if spec.batched else 1, length) for rows, length in _SHAPES]
    for integer in (_LARGEST_INTEGER, 0):
        works = [
            await asyncio.to_thread(work, wide, rows, length, seed, integer)
            for seed, (rows, length) in enumerate(shapes)
        ]
        try:
            if not spec.batched:
                return Finding(await _axes_of_one(worker, key, wide, works, spec))
            return await _batched(_Trials(worker, key, tolerance, wide, works), spec, asked)
        except (ModelFailed, InvalidRequest) as error:
            reason = f"the model refuses made-up input: {error.message}"
    padding = asked or (Padding.EQUAL if spec.batched else Padding.NEVER)
    unseen = tuple(replace(output, foreseen=False) for output in spec.outputs)
    return Finding(replace(spec, outputs=unseen, padding=padding), reason)


@dataclass(frozen=True, slots=True)
class _Trials:
    worker: Worker
    key: str
    tolerance: float
    spec: ModelSpec
    works: Sequence[Work]


async def _axes_of_one(worker: Worker, key: str, wide: ModelSpec, works: Sequence[Work], spec: ModelSpec) -> ModelSpec:
    tried = works[:2] if spec.has_sequence else works[:1]
    sizes = _Sizes(None, [single.length for single in tried] if spec.has_sequence else None)
    seen = [_shapes(await worker.trial(key, wide, [single])) for single in tried]
    learned = (_learned(output, [shapes[output.name] for shapes in seen], sizes) for output in spec.outputs)
    # How outputs follow other open sizes than the length was not tried.
    closed = not any(
        size < 0 and axis != tensor.sequence_axis for tensor in spec.inputs for axis, size in enumerate(tensor.shape)
    )
    outputs = tuple(replace(output, foreseen=output.foreseen and closed) for output in learned)
    return replace(spec, outputs=outputs, padding=Padding.NEVER)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What was sent in each trial; None = there is no such axis."""

    rows: Sequence[int] | None
    lengths: Sequence[int] | None


def _shapes(outputs: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in outputs.items()}


def _learned(output: TensorSpec, seen: Sequence[tuple[int, ...]], sizes: _Sizes) -> TensorSpec:
    """The output as it is rather than as it is declared: exporters leave the sizes of their example in the file, and
    what is wrong there would make every answer fail."""
    rank = len(seen[0])
    if any(len(shape) != rank for shape in seen):
        return replace(output, foreseen=False, batch_axis=None, sequence_axis=None)
    declared = output.shape if len(output.shape) == rank else (-1,) * rank
    # onnxruntime takes no place whose shape is not the declared one, not even if it is the right one.
    true = all(size in (-1, one[axis]) for one in seen for axis, size in enumerate(declared))
    batch_axis = _axis(output.batch_axis, seen, sizes.rows)
    sequence_axis = _axis(output.sequence_axis, seen, sizes.lengths)
    shape = tuple(
        size if axis not in (batch_axis, sequence_axis) and all(one[axis] == size for one in seen) else -1
        for axis, size in enumerate(declared)
    )
    return replace(output, shape=shape, batch_axis=batch_axis, sequence_axis=sequence_axis, foreseen=true)


def _axis(declared: int | None, seen: Sequence[tuple[int, ...]], sizes: Sequence[int] | None) -> int | None:
    """The axis whose size followed `sizes` from trial to trial, the declared one if it did."""
    if sizes is None:
        return None
    follows = [axis for axis, found in enumerate(zip(*seen, strict=True)) if list(found) == list(sizes)]
    return declared if declared in follows else next(iter(follows), None)


async def _batched(trials: _Trials, spec: ModelSpec, asked: Padding | None) -> Finding:
    lone = [trials.works[_ALONE]]
    alone = await trials.worker.trial(trials.key, trials.spec, lone)
    mixed = await trials.worker.trial(trials.key, trials.spec, trials.works)
    rows, length = sum(one.rows for one in trials.works), max(one.length for one in trials.works)
    sizes = _Sizes([lone[0].rows, rows], [lone[0].length, length] if spec.has_sequence else None)
    seen = [_shapes(alone), _shapes(mixed)]
    learned = tuple(_learned(output, [shapes[output.name] for shapes in seen], sizes) for output in spec.outputs)
    spec = replace(spec, outputs=learned)
    if asked is not None:
        return Finding(replace(spec, padding=asked))
    trouble = _difference(spec, trials, alone, mixed)
    if not trouble:
        return Finding(replace(spec, padding=Padding.ANY))
    if spec.has_sequence:
        first = trials.works[_ALONE]
        equal = [first, *(work(trials.spec, one.rows, first.length, seed) for seed, one in enumerate(trials.works, 10))]
        together = await trials.worker.trial(trials.key, trials.spec, equal)
        if not _difference(spec, replace(trials, works=equal), alone, together):
            return Finding(replace(spec, padding=Padding.EQUAL), trouble)
    return Finding(replace(spec, padding=Padding.NEVER), trouble)


def _difference(spec: ModelSpec, trials: _Trials, alone: dict[str, Tensor], batch: dict[str, Tensor]) -> str:
    """How the first work's answer in the batch differs from its answer alone; empty when it does not."""
    first = trials.works[_ALONE]
    rows = sum(one.rows for one in trials.works)
    for output in spec.outputs:
        expected, whole = alone[output.name].array(), batch[output.name].array()
        if output.batch_axis is None or whole.shape[output.batch_axis] != rows:
            return f"output '{output.name}' of shape {list(whole.shape)} has no axis for the {rows} rows of a batch"
        found = assembly.cut(output, whole, 0, first.rows, first.length)
        if found.shape != expected.shape:
            return (
                f"output '{output.name}' has shape {list(found.shape)} in a padded batch, {list(expected.shape)} alone"
            )
        off = _distance(output.datatype, expected, found)
        if off > trials.tolerance:
            return f"output '{output.name}' differs by {off:.2g} in a batch (tolerance {trials.tolerance:g})"
    return ""


def _distance(datatype: str, expected: assembly.Array, found: assembly.Array) -> float:
    """Largest difference relative to the largest expected value; infinite for unequal values of exact types."""
    if expected.size == 0:
        return 0.0
    if datatype not in ("FP16", "BF16", "FP32", "FP64"):
        return 0.0 if np.array_equal(expected, found) else math.inf
    if datatype == "BF16":
        expected, found = (
            (array.astype(np.uint32) << 16).view(np.float32) for array in (expected, np.ascontiguousarray(found))
        )
    wide, other = expected.astype(np.float64), found.astype(np.float64)
    if not np.array_equal(np.isfinite(wide), np.isfinite(other)):
        return math.inf
    finite = np.isfinite(wide)
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(wide[finite]).max()), 1e-6)
    return float(np.abs(wide[finite] - other[finite]).max()) / scale


def work(spec: ModelSpec, rows: int, length: int, seed: int = 0, integer: int = _LARGEST_INTEGER) -> Work:
    """A made-up request of the given size."""
    generator = np.random.default_rng(seed)
    inputs = tuple(_made_up(tensor, rows, length, generator, integer) for tensor in spec.inputs)
    request = InferRequest(spec.name, spec.version, tuple(tensor for tensor in inputs if tensor is not None))
    names = tuple(output.name for output in spec.outputs if output.default)
    return Work(request, inputs, names, rows, length if spec.has_sequence else 1, group=None)


def _made_up(tensor: TensorSpec, rows: int, length: int, generator: np.random.Generator, integer: int) -> Tensor | None:
    if tensor.fill is not None:
        return None
    sizes = {tensor.batch_axis: rows, tensor.sequence_axis: length}
    shape = tuple(sizes.get(axis, 1 if size < 0 else size) for axis, size in enumerate(tensor.shape))
    if tensor.datatype == BYTES:
        return Tensor(tensor.name, BYTES, shape, encode_bytes([b"0"] * math.prod(shape)))
    dtype = NUMPY_TYPES[tensor.datatype]
    if tensor.datatype == "BF16":
        array = (generator.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    elif dtype.kind == "f":
        array = generator.standard_normal(shape).astype(dtype)
    elif dtype.kind == "b":
        array = np.ones(shape, dtype)
    else:
        array = generator.integers(min(1, integer), integer, shape, endpoint=True).astype(dtype)
    return Tensor(tensor.name, tensor.datatype, shape, array.tobytes())
