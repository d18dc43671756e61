"""Entries for the policy's tests, without anything of the server."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from sluice.scheduler.cost import Cost
from sluice.scheduler.policy import Bounds, Policy, Tuning
from sluice.scheduler.steps import EXACT, Steps

BOUNDS = Bounds(rows=64, tokens=4096, size=1 << 30)
TARGET = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """An entry as the policy sees it."""

    sequence: int
    length: int = 10
    arrival: float = 0.0
    due: float = TARGET
    rows: int = 1
    size: int = 1
    group: Hashable = None
    shift: float = 0.0
    tenant: Hashable = None


def seconds(rows: int, length: int) -> float:
    """A device's true time: 3 ms up to 1000 tokens, then 2 µs and more for each."""
    return 1e-3 + max(2e-3, rows * length * (2e-6 + 0.5e-9 * length))


def slow_seconds(rows: int, length: int) -> float:
    """A device on which batching gains little: 0.2 ms for each token."""
    return 0.5e-3 + rows * length * 2e-4


def learned(device: object = seconds) -> Cost:
    """A cost model that was warmed up without noise."""
    cost = Cost()
    assert callable(device)
    for length in (8, 32, 128, 512):
        for rows in (1, 2, 4, 8, 16, 32, 64, 128):
            cost.profile(rows, length, device(rows, length))
    cost.fit()
    return cost


def policy(
    cost: Cost | None = None,
    target: float = TARGET,
    bounds: Bounds = BOUNDS,
    steps: Steps = EXACT,
    tuning: Tuning | None = None,
) -> Policy[Request]:
    return Policy(learned() if cost is None else cost, target, bounds, steps, tuning or Tuning())
