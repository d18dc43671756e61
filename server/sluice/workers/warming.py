"""The requests that make a version warm: the shapes it will be asked for, and those its operator wrote down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sluice.errors import ModelError
from sluice.request import InferRequest, Tensor, decode_bytes, encode_bytes
from sluice.scheduler.entry import Work
from sluice.scheduler.policy import Bounds
from sluice.spec import BYTES, NUMPY_TYPES, ModelSpec, Padding
from sluice.store.settings import ModelSettings, WarmUp, WarmUpInput
from sluice.workers.probe import work

# Short, usual and long texts; on a CPU the exact length costs no preparation, so a few stand for all.
_LENGTHS = (8, 32, 128, 256)


def works(spec: ModelSpec, settings: ModelSettings, bounds: Bounds, directory: Path) -> list[Work]:
    """Everything to run once on each worker before the version takes requests."""
    lengths: Sequence[int] = settings.warm_lengths or _LENGTHS
    if not spec.has_sequence:
        lengths = (1,)
    made_up: list[Work] = []
    for length in lengths:
        if settings.max_length is None or length <= settings.max_length:
            made_up.append(work(spec, 1, length))
            full = min(bounds.rows, bounds.tokens // length)
            if spec.batched and spec.padding is not Padding.NEVER and full > 1:
                made_up.append(work(spec, full, length))
    written = [_written(spec, warm_up, directory) for warm_up in settings.warm_up for _ in range(warm_up.repeat)]
    return made_up + written


def _written(spec: ModelSpec, warm_up: WarmUp, directory: Path) -> Work:
    given = {entry.name: _tensor(spec, entry, warm_up, directory) for entry in warm_up.inputs}
    for name in given:
        if name not in spec.input_by_name:
            raise ModelError(f"warm-up '{warm_up.name}': the model has no input '{name}'")
    lengths = [
        given[tensor.name].shape[tensor.sequence_axis]
        for tensor in spec.inputs
        if tensor.name in given and tensor.sequence_axis is not None
    ]
    inputs = tuple(given.get(tensor.name) for tensor in spec.inputs)
    for tensor, value in zip(spec.inputs, inputs, strict=True):
        if value is None and tensor.fill is None:
            raise ModelError(f"warm-up '{warm_up.name}': input '{tensor.name}' is missing")
    names = tuple(output.name for output in spec.outputs if output.default)
    request = InferRequest(spec.name, spec.version, tuple(given.values()))
    return Work(request, inputs, names, warm_up.rows if spec.batched else 1, max(lengths, default=1), group=None)


def _tensor(spec: ModelSpec, entry: WarmUpInput, warm_up: WarmUp, directory: Path) -> Tensor:
    elements = math.prod(entry.shape)
    if entry.source == "file":
        data = _from_file(directory / "warmup" / entry.file, warm_up)
    elif entry.datatype == BYTES:
        data = encode_bytes([b"warm" if entry.source == "random" else b""] * elements)
    elif entry.source == "random" and NUMPY_TYPES[entry.datatype].kind == "f":
        data = np.random.default_rng(0).standard_normal(elements).astype(NUMPY_TYPES[entry.datatype]).tobytes()
    else:
        data = bytes(elements * NUMPY_TYPES[entry.datatype].itemsize)
    size = len(decode_bytes(data, entry.name)) if entry.datatype == BYTES else len(data)
    needed = elements if entry.datatype == BYTES else elements * NUMPY_TYPES[entry.datatype].itemsize
    if size != needed:
        raise ModelError(f"warm-up '{warm_up.name}': input '{entry.name}' does not fill its shape {list(entry.shape)}")
    if not spec.batched:
        return Tensor(entry.name, entry.datatype, entry.shape, data)
    return Tensor(entry.name, entry.datatype, (warm_up.rows, *entry.shape), data * warm_up.rows)


def _from_file(path: Path, warm_up: WarmUp) -> bytes:
    if not path.resolve().is_relative_to(path.parents[1].resolve()):
        raise ModelError(f"warm-up '{warm_up.name}': {path.name} lies outside the model's directory")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"warm-up '{warm_up.name}': cannot read {path}: {error.strerror}") from error
