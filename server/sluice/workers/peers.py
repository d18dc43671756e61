"""Tells a worker that fails where others succeed from a version that fails everywhere.

A pure object: outcomes of batches come in with `now`, fading over seconds, and it says which worker is worse than what
its peers make one expect. Only versions that other workers computed lately as well say anything about a worker.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

_FADING = 10.0  # seconds in which an outcome loses all but a third of its weight
# Weight of outcomes below which nothing is said: less than what opens a version's own circuit, so that one bad worker
# does not take the version out of service.
_LEAST = 8.0
_SHARE = 0.5  # of a worker's batches must fail
_FACTOR = 3.0  # and so many times what the peers make one expect


@dataclass(slots=True)
class _Outcomes:
    failures: float = 0.0
    all: float = 0.0
    at: float = -math.inf

    def fade(self, now: float) -> None:
        left = math.exp((self.at - now) / _FADING)
        self.failures *= left
        self.all *= left
        self.at = now


class Peers:
    """The outcomes of every worker's batches, by version."""

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[Hashable, _Outcomes]] = {}

    def add(self, worker: Hashable, key: str, failed: bool, now: float) -> None:
        outcomes = self._outcomes.setdefault(key, {}).setdefault(worker, _Outcomes())
        outcomes.fade(now)
        outcomes.all += 1.0
        outcomes.failures += failed

    def suspicion(self, worker: Hashable, now: float) -> str:
        """Why this worker looks broken; empty when it does not."""
        failures = total = expected = 0.0
        for workers in self._outcomes.values():
            own = workers.get(worker)
            if own is None:
                continue
            for outcomes in workers.values():
                outcomes.fade(now)
            others = [outcomes for other, outcomes in workers.items() if other != worker]
            theirs = sum(outcomes.all for outcomes in others)
            if theirs < 1.0:
                continue
            failures += own.failures
            total += own.all
            expected += own.all * sum(outcomes.failures for outcomes in others) / theirs
        if total < _LEAST or failures < _SHARE * total or failures < _FACTOR * expected:
            return ""
        return f"{failures / total:.0%} of its batches failed lately, {expected / total:.0%} of the others'"

    def forgive(self, worker: Hashable) -> None:
        """What it did is over: it was replaced or has proven itself."""
        for workers in self._outcomes.values():
            workers.pop(worker, None)

    def drop(self, key: str) -> None:
        """The version is gone."""
        self._outcomes.pop(key, None)
