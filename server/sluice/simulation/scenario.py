"""One question for the simulation: which traffic on which workers within which target; and its answer for a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sluice.simulation.events import Death, Fleet, Run, Simulation, Slowdown
from sluice.simulation.figures import Figures, figures
from sluice.simulation.requests import MODEL, Request, SimulationError
from sluice.simulation.rule import Rule, Setting
from sluice.simulation.traffic import Sample, Source
from sluice.simulation.worlds import OverloadBound, Shares, World, bound, overload_bound

RuleMaker = Callable[[Setting], Rule]

_BURST_TARGETS = 20  # how many targets a burst lasts
# A run of fewer targets than this ends before a queue that grows has hurt anybody.
_TARGETS = 60
_FEWEST, _MOST = 6000, 400_000
_BOUND_SAMPLE = 4000
# Drawn beyond the number wanted: an uneven arrival process may need more for the same time.
_SPARE = 1.3


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything but the load and the rule."""

    worlds: Mapping[str, World]  # by model
    source: Source
    workers: int
    target: float
    requests: int = 12000
    seed: int = 0
    noise: float = 0.05
    gap: float = 0.0
    slowdowns: Sequence[Slowdown] = ()
    deaths: Sequence[Death] = ()
    shares: Mapping[Any, float] = field(default_factory=dict)  # weights of tenants
    most_rows: int = 512
    most_tokens: int = 65536

    def setting(self) -> Setting:
        return Setting(
            self.target,
            self.workers,
            self.worlds,
            self.noise,
            self.seed,
            self.most_rows,
            self.most_tokens,
            self.shares,
        )

    def fleet(self) -> Fleet:
        return Fleet(self.workers, self.worlds, self.noise, self.gap, self.slowdowns, self.deaths)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a rule did at a rate."""

    load: float  # part of the strict fluid bound
    rate: float
    figures: Figures
    overload: OverloadBound


class Traffic:
    """A scenario's requests, which differ between rates in their arrivals only."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._costs = {model: Shares(world, scenario.target) for model, world in scenario.worlds.items()}
        _, sample = self._drawn()
        wanted = scenario.requests
        self.costs = [
            self._costs[model].of(rows, length)
            for model, rows, length in zip(
                sample.models[:wanted], sample.rows[:wanted], sample.lengths[:wanted], strict=True
            )
        ]
        self.bound = bound(self.costs, scenario.workers)

    def _drawn(self) -> tuple[np.random.Generator, Sample]:
        scenario = self.scenario
        random = np.random.default_rng(scenario.seed)
        sample = scenario.source.sample(int(scenario.requests * _SPARE) + 100, random)
        unknown = set(sample.models) - set(scenario.worlds)
        if unknown:
            raise SimulationError(f"nothing is known of the model '{min(unknown)}'")
        return random, sample

    def rate(self, load: float) -> float:
        """Requests a second at a part of the bound."""
        if self.bound <= 0:
            raise SimulationError(
                f"the longest request cannot be answered within {self.scenario.target:g} s even alone: no load is held"
            )
        return load * self.bound

    def requests(self, rate: float) -> list[Request]:
        scenario = self.scenario
        random, sample = self._drawn()
        times = scenario.source.times(scenario.requests, rate, _BURST_TARGETS * scenario.target, random)
        made = []
        for number, arrival in enumerate(times[: len(sample.lengths)]):
            model, rows, length = sample.models[number], sample.rows[number], sample.lengths[number]
            deadline = arrival + sample.deadlines[number]
            made.append(
                Request(
                    number,
                    arrival,
                    length,
                    rows,
                    model,
                    deadline,
                    tenant=sample.tenants[number],
                    priority=sample.priorities[number],
                    wanted=min(arrival + self._costs[model].patience(rows, length), deadline),
                )
            )
        return made

    def overload(self, rate: float) -> OverloadBound:
        return overload_bound(self.costs, self.scenario.workers, rate)


def enough(scenario: Scenario, load: float = 1.0) -> Scenario:
    """The scenario with as many requests as tell whether this load, a part of the bound, is held."""
    rate = Traffic(replace(scenario, requests=_BOUND_SAMPLE)).rate(load)
    return replace(scenario, requests=min(_MOST, max(_FEWEST, round(_TARGETS * scenario.target * rate))))


def play(traffic: Traffic, make: RuleMaker, rate: float) -> Run:
    scenario = traffic.scenario
    return Simulation(make(scenario.setting()), traffic.requests(rate), scenario.fleet(), scenario.seed).run()


def answer(traffic: Traffic, make: RuleMaker, rate: float) -> Answer:
    run = play(traffic, make, rate)
    found = figures(run, traffic.scenario.workers)
    return Answer(rate / traffic.bound if traffic.bound else 0.0, rate, found, traffic.overload(rate))


def only(world: World) -> Mapping[str, World]:
    """Of a single model."""
    return {MODEL: world}
