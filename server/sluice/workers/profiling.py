"""Measures at warm-up what batches cost: a grid of shapes, small ones first, within a budget of time."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator

from sluice.errors import InvalidRequest, ModelFailed
from sluice.scheduler.cost import Cost
from sluice.scheduler.policy import Bounds
from sluice.spec import ModelSpec, Padding
from sluice.workers.probe import work
from sluice.workers.worker import Worker

log = logging.getLogger("sluice.workers")

# Seconds in all. A CPU that needs 0.2 s for the longest request knows thirty shapes by then, a GPU all of them.
BUDGET = 4.0
# Lengths beside the longest: each kind of text, and far enough apart to tell a floor from a slope.
_LENGTHS = (8, 32, 128)
# What is measured when nobody says how long a request may be.
USUAL_LONGEST = 512
# A learned cost is kept if the shapes tried again took within this factor of what it says, half of them at least, or
# nearly as many seconds: below that, noise decides.
_CREDIBLE = 1.5
_NEARLY = 0.002
# Runs of one shape: the first prepares memory and kernels, and of the others the quickest is the least disturbed.
_RUNS = 3
_ENOUGH = 0.01  # seconds of one run after which it is not repeated a second time


async def profile(worker: Worker, key: str, spec: ModelSpec, bounds: Bounds, longest: int) -> Cost:
    """A cost learned from runs on one worker, which should have nothing else to do."""
    cost = Cost()
    until = time.monotonic() + BUDGET
    refused: set[int] = set()
    for rows, length in _shapes(spec, bounds, longest):
        if length in refused:
            continue
        seconds = await _seconds(worker, key, spec, rows, length)
        if seconds is None:
            refused.add(length)
        else:
            cost.profile(rows, length, seconds)
        if time.monotonic() > until:
            break
    cost.fit()
    return cost


async def credible(cost: Cost, worker: Worker, key: str, spec: ModelSpec, longest: int) -> bool:
    """Whether a cost learned in an earlier life still tells the truth."""
    told = 0
    lengths = {min(length, longest) for length in _LENGTHS} if spec.has_sequence else {1}
    for length in lengths:
        seconds = await _seconds(worker, key, spec, 1, length)
        if seconds is None:
            continue
        expected = cost.seconds(1, length)
        right = 1 / _CREDIBLE < seconds / expected < _CREDIBLE or abs(seconds - expected) < _NEARLY
        told += 1 if right else -1
    return told >= 0


def _shapes(spec: ModelSpec, bounds: Bounds, longest: int) -> Iterator[tuple[int, int]]:
    """By tokens, so that what is cheap and what is usual is known whenever the time is over; but the longest request
    alone comes early, since the target follows from it."""
    lengths = sorted({min(length, longest) for length in (*_LENGTHS, longest)}) if spec.has_sequence else [1]
    rows = [1]
    if spec.batched and spec.padding is not Padding.NEVER:
        while rows[-1] * 2 <= bounds.rows:
            rows.append(rows[-1] * 2)
    alone = [(1, length) for length in lengths]
    together = [(count, length) for count in rows[1:] for length in lengths if count * length <= bounds.tokens]
    yield from alone
    yield from sorted(together, key=lambda shape: shape[0] * shape[1])


async def _seconds(worker: Worker, key: str, spec: ModelSpec, rows: int, length: int) -> float | None:
    """What a run of this shape takes. None if the model refuses such input."""
    made_up = [await asyncio.to_thread(work, spec, rows, length)]
    quickest = math.inf
    try:
        await worker.trial(key, spec, made_up)
        for _ in range(_RUNS - 1):
            _, seconds = await worker.timed_trial(key, spec, made_up)
            quickest = min(quickest, seconds)
            if seconds > _ENOUGH:
                break
    except (ModelFailed, InvalidRequest) as error:
        log.info("no cost is known for %d rows of length %d: %s", rows, length, error.message)
        return None
    return quickest
