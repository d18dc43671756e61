"""Compares an exported graph with the program it was made of: the same numbers at several sizes, or an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sluice.convert.making import first_line, start
from sluice.convert.torch_export import BATCH, Program, leaves, quiet
from sluice.errors import ModelError

TOLERANCE = 1e-4  # of the largest value
_HALF = 1e-2  # the same, for numbers of 16 bits

Array = np.ndarray[Any, Any]
Bounds = Mapping[str, tuple[int, int]]  # the least and the largest that a named size may be


def check(program: Program, path: Path, bounds: Bounds) -> None:
    """ModelError unless the ONNX file gives what the program gives."""
    session = start(path)
    names = [port.name for port in session.get_outputs()]
    for sizes in trials(program.sizes, bounds):
        tried = program.resized(sizes)
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items()) or "the examples"
        wanted = _asked(tried, shown)
        inputs = {name: example.numpy() for name, example in zip(tried.names, tried.examples, strict=True)}
        given = {port.name for port in session.get_inputs()}
        try:
            found = session.run(names, {name: array for name, array in inputs.items() if name in given})
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise ModelError(f"the exported model does not run with {shown}: {first_line(error)}") from error
        for name, right, ours in zip(names, wanted, found, strict=True):
            _compare(name, right, ours, shown)


def trials(sizes: Mapping[str, int], bounds: Bounds) -> Iterator[dict[str, int]]:
    """As exported, a single row, and more rows that are shorter; only the first if sizes depend on each other."""
    one = {name: 1 if name == BATCH else size for name, size in sizes.items()}
    more = {name: size + 1 if name == BATCH else max(1, size // 2) for name, size in sizes.items()}
    seen: list[dict[str, int]] = []
    for each in (dict(sizes), one, more) if all(name.isidentifier() for name in sizes) else (dict(sizes),):
        within = {name: _within(size, bounds.get(name)) for name, size in each.items()}
        if within not in seen:
            seen.append(within)
            yield within


def _within(size: int, bounds: tuple[int, int] | None) -> int:
    return size if bounds is None else max(bounds[0], min(size, bounds[1]))


def _asked(program: Program, shown: str) -> list[Array]:
    import torch

    try:
        with torch.no_grad(), quiet():
            return [tensor.detach().numpy() for tensor in leaves(program.call(*program.examples))]
    except Exception as error:  # whatever the program raises
        hint = "a size that is not free must be said as a number"
        raise ModelError(f"the program itself does not run with {shown}: {first_line(error)}; {hint}") from error


def _compare(name: str, right: Array, ours: Array, shown: str) -> None:
    if right.shape != ours.shape or right.dtype != ours.dtype:
        what = f"{list(ours.shape)} {ours.dtype}, and not {list(right.shape)} {right.dtype}"
        raise ModelError(f"output {name} of the exported model is {what}, with {shown}")
    if right.dtype.kind != "f":
        if not np.array_equal(right, ours):
            raise ModelError(f"output {name} of the exported model is not what torch gives, with {shown}")
        return
    if not np.array_equal(np.isfinite(right), np.isfinite(ours)):
        raise ModelError(f"output {name} of the exported model has values that are not finite, with {shown}")
    right, ours = np.where(np.isfinite(right), right, 0), np.where(np.isfinite(ours), ours, 0)
    difference = float(np.abs(right - ours).max(initial=0))
    bound = (_HALF if right.dtype.itemsize == 2 else TOLERANCE) * max(1.0, float(np.abs(right).max(initial=0)))
    if difference > bound:
        raise ModelError(f"output {name} of the exported model differs from torch's by {difference:.2g}, with {shown}")
