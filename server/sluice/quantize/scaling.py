"""Chooses how a layer's input is rounded to bytes, by what that does to its output on rows seen in calibration.

Two things make bytes too coarse. A few channels can be fifty times as large as the others: dividing them by a factor,
and multiplying their weights with it, shares the trouble between the two sides. And what comes out of an activation is
hardly ever negative, so that half of a symmetric range is never used: the byte that stands for zero is moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.quantize import numbers

Array = np.ndarray[Any, Any]

_STRENGTHS = (0.0, 0.3, 0.45, 0.6)  # how much of a channel's size its weights take
_ZEROS = (128, 64, 32)
_HALVES = (1.0, 0.8, 0.6, 0.45, 0.3)  # of the range that was seen, for one scale for all rows
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Seen:
    """What a value was over all calibration samples."""

    low: float
    high: float
    channels: Array  # the largest magnitude of each position of its last axis
    rows: Array  # some of its rows


@dataclass(frozen=True, slots=True)
class Scaling:
    """Rows divided by `factors`, and then by their own largest magnitude, are values from -1 to 1 and become bytes."""

    factors: Array | None
    zero: int  # the byte that stands for 0

    @property
    def step(self) -> float:
        return 1 / (255 - self.zero)

    def rounded(self, rows: Array) -> Array:
        largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), _TINY)
        whole: Array = np.clip(np.rint(rows / largest / self.step), -self.zero, 255 - self.zero)
        again: Array = whole * self.step * largest
        return again


def by_rows(seen: Seen, matrices: Sequence[Array], bits: int, unsigned: bool) -> Scaling:
    """The best for all layers that take this value together."""
    wanted = [seen.rows @ matrix for matrix in matrices]
    best, least = Scaling(None, _ZEROS[0]), np.inf
    for strength in _STRENGTHS:
        factors = _factors(seen, matrices, strength)
        rows = seen.rows if factors is None else seen.rows / factors
        weights = [_weights(matrix, factors, bits, unsigned) for matrix in matrices]
        for zero in _ZEROS:
            scaling = Scaling(factors, zero)
            rounded = scaling.rounded(rows)
            error = sum(_error(rounded @ weight, want) for weight, want in zip(weights, wanted, strict=True))
            if error < least:
                best, least = scaling, error
    return best


def of_all(seen: Seen, matrices: Sequence[Array]) -> tuple[float, int]:
    """One step and the byte that stands for 0, for every row."""
    wanted = [seen.rows @ matrix for matrix in matrices]
    best, least = (1.0, 0), np.inf
    for share in _HALVES:
        low, high = min(seen.low, 0.0) * share, max(seen.high, 0.0) * share
        step = max((high - low) / 255, 1e-12)
        zero = int(np.clip(np.rint(-low / step), 0, 255))
        rounded = np.clip(np.rint(seen.rows / step), -zero, 255 - zero) * step
        error = sum(_error(rounded @ matrix, want) for matrix, want in zip(matrices, wanted, strict=True))
        if error < least:
            best, least = (step, zero), error
    return best


def _factors(seen: Seen, matrices: Sequence[Array], strength: float) -> Array | None:
    if not strength:
        return None
    channels = np.maximum(seen.channels, 1e-5)
    weights = np.maximum(np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0), 1e-5)
    factors = channels**strength / weights ** (1 - strength)
    even: Array = factors / np.exp(np.log(factors).mean())
    return np.maximum(even, 1e-3).astype(np.float32)


def _weights(matrix: Array, factors: Array | None, bits: int, unsigned: bool) -> Array:
    scaled = matrix if factors is None else matrix * factors[:, None]
    columns = numbers.by_columns_unsigned(scaled) if unsigned else numbers.by_columns(scaled, bits)
    zeros = 0 if columns.zeros is None else columns.zeros.astype(np.float32)
    return (columns.values.astype(np.float32) - zeros) * columns.scales


def _error(found: Array, wanted: Array) -> float:
    return float(np.square(found - wanted).sum() / max(float(np.square(wanted).sum()), 1e-12))
