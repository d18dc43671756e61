"""What waits, what that will take, and what can still be done in time.

Work is counted in *least seconds*: what an entry costs a worker at least, in the best batch of its own length. What
is achieved of that ideal, the *yield*, is learned from batches that were formed under choice. The ideal comes from
the cost model, never from observed throughput: to observe what refusal lets through would lock a server into
refusing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sluice.scheduler.cost import Cost
from sluice.scheduler.queue import Place
from sluice.scheduler.steps import Steps
from sluice.scheduler.window import Bounds

Floats = npt.NDArray[np.floating[Any]]

SPANS = 16  # of a target's time: how finely what is due is counted
RECENT = 64
DEMAND_TARGETS = 20.0  # targets that demand is averaged over
LEAST_DEMAND_SECONDS = 2.0
_BATCHES = np.unique(np.geomspace(1, 512, 24).round())
_GRID = 48
_MOST_TABLED = 1 << 16


class Forecast:
    """One version's work: waiting, by the time it is due; asked for lately; and the room for it."""

    def __init__(self, cost: Cost, target: float, bounds: Bounds, steps: Steps) -> None:
        self.cost, self.target, self.bounds, self.steps = cost, target, bounds, steps
        self.patience = target  # usual time from arrival to due
        self.waiting = 0.0
        self.by_tenant: dict[Hashable, float] = {}
        self.achieved = 0.7
        self.shares: Floats = np.zeros(1, np.float32)
        self.typical = 0.0  # seconds of a usual request alone, margin included
        self._table: list[float] = []
        self._spans: dict[int, float] = {}
        self._per_second = SPANS / target
        self._recent: deque[int] = deque([32], maxlen=RECENT)
        self._longest = 512
        self._asked = 0.0
        self._asked_at = -math.inf
        self._began: float | None = None
        self._memory = max(LEAST_DEMAND_SECONDS, DEMAND_TARGETS * target)

    # What entries cost

    def renew(self, longest_batch: float) -> None:
        """Work out anew what each length costs at least, in batches of at most so many seconds."""
        count = min(_MOST_TABLED, 1 << (self._longest - 1).bit_length())
        grid = np.unique(np.geomspace(1, count, _GRID).round())
        self._table = np.interp(np.arange(count + 1), grid, self._least(grid, longest_batch)).tolist()
        self.shares = np.array(self._table, np.float32)
        margin = self.cost.margin
        alone = sorted(self.cost.seconds(1, self.steps.round(length)) for length in self._recent)
        self.typical = margin * alone[len(alone) // 2]

    def _least(self, lengths: Floats, longest_batch: float) -> Floats:
        steps = self.steps.round_all(lengths.astype(np.int64)).astype(np.float32)[:, None]
        tokens = (steps * _BATCHES).astype(np.float32)
        seconds = self.cost.times(tokens, steps)
        allowed = (seconds * self.cost.margin <= longest_batch) & (tokens <= self.bounds.tokens)
        allowed &= self.bounds.rows >= _BATCHES
        allowed[:, 0] = True
        least: Floats = np.where(allowed, seconds / _BATCHES, np.inf).min(1)
        return least

    def least(self, rows: int, length: int) -> float:
        """The least worker's seconds this can cost."""
        if length > self._longest:
            self._longest = length
        table = self._table
        return rows * (table[length] if length < len(table) else table[-1] * (length / (len(table) - 1)))

    # What waits

    def span(self, due: float) -> int:
        return int(due * self._per_second)

    def add(self, place: Place[Any]) -> None:
        """It waits from now on."""
        work, tenant = place.work, place.entry.tenant
        self._spans[place.span] = self._spans.get(place.span, 0.0) + work
        self.waiting += work
        if tenant is not None:
            self.by_tenant[tenant] = self.by_tenant.get(tenant, 0.0) + work

    def take(self, places: Sequence[Place[Any]]) -> float:
        """They do not wait any more: how much work they are."""
        gone: dict[int, float] = {}
        for place in places:
            work, span = place.work, place.span
            gone[span] = gone.get(span, 0.0) + work
            if place.entry.tenant is not None:
                _less(self.by_tenant, place.entry.tenant, work)
        for span, work in gone.items():
            _less(self._spans, span, work)
        total = sum(gone.values())
        self.waiting = self.waiting - total if self._spans else 0.0
        return total

    def clear(self) -> None:
        """Nothing waits any more."""
        self.waiting = 0.0
        self.by_tenant.clear()
        self._spans.clear()

    def due_within(self, span: int) -> float:
        """Work due no later than this span of time."""
        return sum([work for at, work in self._spans.items() if at <= span])

    # What is asked for

    def arrived(self, length: int, work: float, patience: float, now: float) -> None:
        """One more request, whether or not it is refused."""
        self._recent.append(length)
        self.patience += 0.02 * (min(patience, 2 * self.patience) - self.patience)
        self._asked = self._asked * self._faded(now) + work
        self._asked_at = now
        if self._began is None:
            self._began = now

    def _faded(self, now: float) -> float:
        return math.exp(min(0.0, self._asked_at - now) / self._memory)

    def demand(self, now: float) -> float:
        """Workers' seconds asked for per second."""
        if self._began is None:
            return 0.0
        # What the memory holds when full, or has been filled with so far.
        over = self._memory * max(0.1, 1 - math.exp((self._began - now) / self._memory))
        return self._asked * self._faded(now) / (over * self.achieved)

    def ran(self, work: float, seconds: float) -> None:
        """A batch formed under choice: how near it came to the ideal."""
        self.achieved += 0.05 * (min(1.0, max(0.3, work / seconds)) - self.achieved)


def _less(sums: dict[Any, float], key: Hashable, work: float) -> None:
    left = sums.get(key, 0.0) - work
    if left > 1e-12:
        sums[key] = left
    else:
        sums.pop(key, None)
