"""What the policy answers, and the numbers of its rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from sluice.scheduler.queue import W


@dataclass(frozen=True, slots=True)
class Tuning:
    """Numbers of the rule, found by simulation."""

    longest: float = 0.85  # part of the patience left by the other workers that one batch may take
    company: float = 3.0  # how many times its size what is left behind will have when it runs
    readiness: float = 0.93  # what is left behind costs 1/readiness of its time
    admit: float = 1.6  # room for refusals, of what the forecast says can be done: some will be passed over
    like: float = 2.0  # how many of its like an entry must find room for, in at most half the room
    crowd: float = 0.4  # patience's worth of urgent work, for each worker, from which entries are given up
    bold: float = 1.1  # how many times as much work per second must be done to pass over entries for it
    hold: float = 1.25  # usual batches that a later arrival is expected to wait for
    good: float = 0.9  # efficiency from which a batch is not held
    spread_out: float = 0.8  # batches side by side that take less than this part of one are preferred


USUAL = Tuning()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not admitted: too much work stands ahead."""

    retry_after: float
    reason: str


@dataclass(frozen=True, slots=True)
class Decision(Generic[W]):
    """What one idle worker should do now."""

    entries: tuple[W, ...] = ()
    rows: int = 0
    length: int = 0
    seconds: float = 0.0
    given_up: tuple[W, ...] = ()
    until: float | None = None
