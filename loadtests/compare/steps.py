"""What a server is to be measured at next, as a pure function of what was recorded of it so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.compare.climb import Ladder, held_rung, next_rung, tallies
from loadtests.compare.records import Alone, Measurement, Options


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement to make. The seed is the same for every server at the same step, and so is the trace."""

    rate: float
    seconds: float
    seed: int
    rung: int | None = None
    fraction: float | None = None


def next_step(measured: Sequence[Measurement], ladder: Ladder, options: Options, alone: Alone) -> Step | None:
    """Of one server and mix: climb to the rate held, then go to fractions of it; None when all is done."""
    climbed = [each for each in measured if each.rung is not None]
    tried = tallies((each.rung, each.tally(alone)) for each in climbed if each.rung is not None)
    rung = next_rung(ladder, tried, options.rule())
    if rung is not None:
        rate = ladder.rate(rung)
        runs = tried[rung].runs if rung in tried else 0
        return Step(rate, options.seconds(rate, overload=False), _seed(options, rung, runs), rung=rung)
    done = {each.fraction for each in measured}
    held = held_rung(ladder, tried, options.rule())
    base = ladder.rate(ladder.lowest if held is None else held)
    for number, fraction in enumerate(options.fractions):
        if fraction not in done:
            rate = base * fraction
            seed = _seed(options, 1000 + number, held or 0)
            return Step(rate, options.seconds(rate, overload=True), seed, fraction=fraction)
    return None


def _seed(options: Options, place: int, repeat: int) -> int:
    return options.seed * 1_000_003 + (place + 500) * 101 + repeat + 500
