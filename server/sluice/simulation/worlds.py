"""What batches truly cost in a simulation, and the most that any scheduler could do with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sluice.scheduler.cost import Cost
from sluice.simulation.requests import SimulationError

Numbers = np.ndarray[Any, Any]

# What the scheduler promises a request that alone needs more than a third of the target.
OWN_TIMES = 3
# Largest batch of the bounds; beyond it no device that we know gains anything.
_MOST_ROWS = 512


class World(Protocol):
    """Seconds of a batch by its padded shape, before noise."""

    @property
    def name(self) -> str: ...

    def seconds(self, rows: int, length: int) -> float: ...

    def row_times(self, most: int, length: int) -> Numbers:
        """Seconds of batches of 1, 2, … `most` rows."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A launch, then the larger of a floor and the work, which is linear in tokens but for attention."""

    name: str
    launch: float
    floor: float
    token: float
    attention: float  # for each token and each position it attends to

    def seconds(self, rows: int, length: int) -> float:
        return self.launch + max(self.floor, rows * length * (self.token + self.attention * length))

    def row_times(self, most: int, length: int) -> Numbers:
        work = np.arange(1, most + 1) * (length * (self.token + self.attention * length))
        found: Numbers = self.launch + np.maximum(self.floor, work)
        return found


@dataclass(frozen=True, slots=True)
class Learned:
    """A device as a server learned it."""

    name: str
    cost: Cost

    def seconds(self, rows: int, length: int) -> float:
        return self.cost.seconds(rows, length)

    def row_times(self, most: int, length: int) -> Numbers:
        return np.array([self.cost.seconds(rows, length) for rows in range(1, most + 1)])


@dataclass(frozen=True, slots=True)
class Scaled:
    """Another model on the same device, `factor` times as expensive."""

    base: World
    factor: float

    @property
    def name(self) -> str:
        return f"{self.base.name} × {self.factor:g}"

    def seconds(self, rows: int, length: int) -> float:
        return self.factor * self.base.seconds(rows, length)

    def row_times(self, most: int, length: int) -> Numbers:
        found: Numbers = self.factor * self.base.row_times(most, length)
        return found


# A GPU: 3 ms for anything below about a thousand tokens.
GPU = Roofline("gpu", launch=1e-3, floor=2e-3, token=2e-6, attention=0.5e-9)
# A CPU: batching pays little, padding costs a lot.
CPU = Roofline("cpu", launch=0.5e-3, floor=0.0, token=60e-6, attention=0.02e-6)
WORLDS: Mapping[str, World] = {"gpu": GPU, "cpu": CPU}


def learned(path: Path) -> Learned:
    """The device of a cost file, as a server saves it beside the version."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        # a server keeps the state among the circumstances under which it was learned
        return Learned(path.stem, Cost.restore(kept.get("cost", kept) if isinstance(kept, dict) else kept))
    except OSError as error:
        raise SimulationError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SimulationError(f"{path}: not a learned cost: {error}") from error


@dataclass(slots=True)
class Shares:
    """The least worker's seconds that a request can cost, by length.

    A batch of equals that is answered within the patience of its length shares its time most thinly; nothing that
    has to be in time can be cheaper than its part of the best such batch.
    """

    world: World
    target: float
    _known: dict[tuple[int, int], float] = field(default_factory=dict)

    def patience(self, rows: int, length: int) -> float:
        return max(self.target, OWN_TIMES * self.world.seconds(rows, length))

    def of(self, rows: int, length: int) -> float:
        """Infinite when it cannot be in time even alone."""
        key = (rows, length)
        if key not in self._known:
            most = max(rows, _MOST_ROWS)
            times = self.world.row_times(most, length)
            counts = np.arange(1, most + 1)
            fits = (counts >= rows) & (times <= self.patience(rows, length))
            self._known[key] = float((times / counts)[fits].min()) * rows if fits.any() else math.inf
        return self._known[key]


def bound(costs: Sequence[float], workers: int) -> float:
    """The strict fluid bound: requests a second that `workers` could finish in time, all of them.

    `costs` are the least worker's seconds of each request of a sample. Fluid: no randomness, no queueing, workers that
    always find the best batch of equals ready. No scheduler reaches it where lengths are mixed.
    """
    mean = float(np.mean(costs)) if len(costs) else math.inf
    return workers / mean if mean > 0 and math.isfinite(mean) else 0.0


@dataclass(frozen=True, slots=True)
class OverloadBound:
    """Requests a second in time when more are offered than can be served."""

    alike: float  # every length served in the same proportion
    cheapest: float  # the cheapest first, the dearest never


def overload_bound(costs: Sequence[float], workers: int, rate: float) -> OverloadBound:
    cheapest_first = np.cumsum(np.sort(np.array(costs))) / len(costs)  # worker's seconds per offered request
    served = int(np.searchsorted(cheapest_first * rate, workers))
    return OverloadBound(min(rate, bound(costs, workers)), rate * min(1.0, served / len(costs)))
