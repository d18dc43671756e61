"""Whether something that should stand still moves: a line through the last half of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Drift:
    """A straight line through samples, and what it gains from its first to its last, as a share of the mean."""

    start: float
    end: float
    at_start: float
    at_end: float
    share: float


def drift(points: Points, of: float = 0.5) -> Drift:
    """Of the last share of the time; a series of fewer than three points does not drift."""
    if len(points) < 3:
        return Drift(0.0, 0.0, 0.0, 0.0, 0.0)
    first, last = points[0][0], points[-1][0]
    begin = last - of * (last - first)
    xs, ys = np.array([point for point in points if point[0] >= begin], float).T
    if len(xs) < 3 or np.ptp(xs) == 0:
        return Drift(0.0, 0.0, 0.0, 0.0, 0.0)
    slope, level = np.polyfit(xs - xs[0], ys, 1)
    at_end = level + slope * (xs[-1] - xs[0])
    mean = float(np.mean(ys))
    share = float(at_end - level) / mean if mean else 0.0
    return Drift(float(xs[0]), float(xs[-1]), float(level), float(at_end), share)
