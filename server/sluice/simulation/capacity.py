"""What so many workers hold: the largest rate at which requests are answered within the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sluice.simulation.rules import Kind
from sluice.simulation.scenario import Scenario, Traffic, enough
from sluice.simulation.search import Trials, Wanted, largest

# A finer step than a comparison of rules needs: 1/256 of the bound.
_STEPS = 8


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of a number of workers; rates are requests a second, 0 where nothing is held."""

    workers: int
    rate: float
    fair_rate: float  # with the worst class of lengths held, too
    bound: float  # what no scheduler could exceed
    p50: float  # at the fair rate
    p99: float
    utilisation: float
    mean_batch: float
    padding: float


def capacities(
    scenario: Scenario,
    workers: Sequence[int],
    kind: Kind,
    wanted: Wanted,
    tell: Callable[[Capacity], None] = lambda _: None,
) -> list[Capacity]:
    """`wanted` with its worst class; the rate alone goes without it. No requests means enough of them."""
    found = []
    for count in workers:
        asked = replace(scenario, workers=count)
        traffic = Traffic(asked if scenario.requests else enough(asked))
        trials = Trials(traffic, kind)
        anyhow = largest(trials, Wanted(wanted.in_time), _STEPS)
        fair = largest(trials, wanted, _STEPS)
        shown = fair.answer or anyhow.answer
        figures = shown.figures if shown is not None else None
        found.append(
            Capacity(
                count,
                traffic.rate(anyhow.load),
                traffic.rate(fair.load),
                traffic.bound,
                figures.p50 if figures else 0.0,
                figures.p99 if figures else 0.0,
                figures.utilisation if figures else 0.0,
                figures.mean_batch if figures else 0.0,
                figures.padding if figures else 0.0,
            )
        )
        tell(found[-1])
    return found
