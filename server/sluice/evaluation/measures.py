"""How near two versions' answers are, how right one's are, and whether they are numbers; nothing but arithmetic.

Answers come as arrays with one row for each sample. What cannot be said (of no samples, of labels that are all the
same) is nan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_BLOCK = 1024  # rows compared with all others at a time: 4000 samples need 33 MB
_ALIKE = 1e-6  # neighbours as near as this are one as good as the other


def rows(answers: Sequence[Array]) -> Array:
    """The answers of all samples, which have the same size, as one matrix of doubles."""
    return np.stack([np.asarray(answer, np.float64).reshape(-1) for answer in answers])


def cosine(first: Array, second: Array) -> Array:
    """Of each row with its counterpart. Two rows of zeros are alike; what is not finite is like nothing."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        similar = (first * second).sum(axis=1) / sizes
    both_zero = ~first.any(axis=1) & ~second.any(axis=1)
    similar = np.where(both_zero, 1.0, np.where(np.isfinite(similar), similar, 0.0))
    return np.clip(similar, -1.0, 1.0)


def neighbours(first: Array, second: Array) -> float:
    """The share of samples whose nearest other one, by cosine, is the same among both; where several are nearest in
    the first, any of them."""
    count = len(first)
    if count < 3:
        return math.nan  # there is only one other
    before, after = _unit(first), _unit(second)
    agreeing = 0
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        own = np.arange(end - start), np.arange(start, end)
        old, new = before[start:end] @ before.T, after[start:end] @ after.T
        old[own] = new[own] = -math.inf
        chosen = new.argmax(axis=1)
        agreeing += int((old[own[0], chosen] >= old.max(axis=1) - _ALIKE).sum())
    return agreeing / count


def nearest(matrix: Array) -> Array:
    """Which other sample is nearest to each, by cosine."""
    unit = _unit(matrix)
    found = []
    for start in range(0, len(unit), _BLOCK):
        near = unit[start : start + _BLOCK] @ unit.T
        own = np.arange(len(near))
        near[own, own + start] = -math.inf
        found.append(near.argmax(axis=1))
    return np.concatenate(found)


def _unit(matrix: Array) -> Array:
    matrix = np.nan_to_num(np.asarray(matrix, np.float64), posinf=0.0, neginf=0.0)
    sizes = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: Array = np.divide(matrix, sizes, out=np.zeros_like(matrix), where=sizes > 0)
    return unit


def classes(scores: Array) -> Array:
    """The class with the highest score, along the last axis."""
    chosen: Array = np.nan_to_num(np.asarray(scores, np.float64), nan=-math.inf).argmax(axis=-1)
    return chosen


def agreement(first: Array, second: Array) -> float:
    """The share of equal elements."""
    first, second = np.asarray(first), np.asarray(second)
    return float((first == second).mean()) if first.size else math.nan


def accuracy(chosen: Sequence[object], labels: Sequence[object]) -> float:
    """The share of right ones."""
    if not labels:
        return math.nan
    return sum(one == label for one, label in zip(chosen, labels, strict=True)) / len(labels)


def macro_f1(chosen: Sequence[object], labels: Sequence[object]) -> float:
    """The mean over all classes, of labels and answers, of the harmonic mean of precision and recall."""
    kinds = {*labels, *chosen}
    if not kinds:
        return math.nan
    scores = []
    for kind in kinds:
        right = sum(one == label == kind for one, label in zip(chosen, labels, strict=True))
        said, true = sum(one == kind for one in chosen), sum(label == kind for label in labels)
        scores.append(2 * right / (said + true))
    return math.fsum(scores) / len(scores)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """How well one order tells the other: 1 the same, -1 the reverse."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    centred = [values - values.mean() if len(values) else values for values in ranks]
    sizes = [float(np.linalg.norm(values)) for values in centred]
    if len(centred[0]) != len(centred[1]):
        raise ValueError(f"{len(centred[0])} values cannot be compared with {len(centred[1])}")
    if not all(sizes):
        return math.nan
    return float(np.clip(centred[0] @ centred[1] / (sizes[0] * sizes[1]), -1.0, 1.0))


def _ranks(values: Array) -> Array:
    """From 1; equal values share the mean of their ranks."""
    _, kind, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Array = (ends - (counts - 1) / 2)[kind]
    return ranks


@dataclass(frozen=True, slots=True)
class Scan:
    """How many elements are no numbers."""

    elements: int
    nan: int
    infinite: int

    @property
    def finite(self) -> bool:
        return not self.nan and not self.infinite

    def __str__(self) -> str:
        found = [(self.nan, "NaN"), (self.infinite, "infinite")]
        what = " and ".join(f"{count} {kind}" for count, kind in found if count)
        return f"{what} of {self.elements} values" if what else "all finite"


def scan(array: Array) -> Scan:
    """Integers, booleans and texts are always finite."""
    if array.dtype.kind not in "fc":
        return Scan(array.size, 0, 0)
    return Scan(array.size, int(np.isnan(array).sum()), int(np.isinf(array).sum()))


def difference(expected: Array, found: Array) -> float:
    """The largest difference relative to the largest expected value; infinite for other shapes, exact types that
    differ, or where only one of them is finite. This is what the server's probe holds against `tolerance`."""
    if expected.shape != found.shape:
        return math.inf
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, found) else math.inf
    wide, other = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(finite, np.isfinite(other)):
        return math.inf
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(wide[finite]).max()), 1e-6)
    return float(np.abs(wide[finite] - other[finite]).max()) / scale
