"""A whole bench: rate after rate against one server, each warmed up, measured, and set beside its own counters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sluice.bench import bodies
from sluice.bench.generators import Generators
from sluice.bench.samples import Figures, summarize
from sluice.bench.search import Search
from sluice.bench.senders import Wire
from sluice.bench.server import Counters, Model
from sluice.bench.traffic import Arrival, BenchError, Mix, send_times

MOST_REQUESTS = 2_000_000
_SETTLE_TRIES = 20


@dataclass(frozen=True, slots=True)
class Load:
    """What every rate has in common."""

    mix: Mix
    target: float  # seconds
    share: float = 0.99  # of the requests that have to meet it
    arrival: Arrival = "poisson"
    seconds: float = 10.0
    warm_up: float = 2.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One rate: what the clients saw, and what the server counted meanwhile (warm-up included)."""

    figures: Figures
    held: bool
    counters: Counters | None = None


@dataclass(slots=True)
class Result:
    """Every rate tried, in order, and the largest one held (0: none was)."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    searched: bool = False

    @property
    def held_rate(self) -> float:
        failed = [step.figures.rate for step in self.steps if not step.held]
        least = min(failed, default=math.inf) if not self.searched else math.inf
        return max((step.figures.rate for step in self.steps if step.held and step.figures.rate < least), default=0.0)


def measure(generators: Generators, wire: Wire, load: Load, rate: float, seed: int = 0) -> Figures:
    """One rate against anything that can be sent to; the same seed gives the same arrivals and lengths."""
    seconds = load.warm_up + load.seconds
    if rate * seconds > MOST_REQUESTS:
        raise BenchError(f"{rate:g} requests per second for {seconds:g} s are more than {MOST_REQUESTS} requests")
    settle(generators, wire, load)
    times = send_times(load.arrival, rate, seconds, load.seed + seed)
    plan = list(zip(times, load.mix.lengths(len(times), load.seed + seed), strict=True))
    samples = generators.run(wire, plan)
    counted = [sample for sample in samples if sample.due >= load.warm_up]
    return summarize(counted, rate, load.seconds, load.target)


def settle(generators: Generators, wire: Wire, load: Load) -> None:
    """Wait until the server has worked off what it was sent before: a request alone is answered within the target."""
    shortest = min(wire.bodies)
    for _ in range(_SETTLE_TRIES):
        (sample,) = generators.run(wire, [(0.0, shortest)])
        if sample.outcome == "answered" and sample.seconds <= load.target:
            return


def held(figures: Figures, load: Load) -> bool:
    return figures.requests > 0 and figures.share >= load.share


@dataclass(frozen=True, slots=True)
class Bench:
    """One model of one server under one kind of load."""

    model: Model
    load: Load
    wire: Wire
    report: Callable[[Step], None]

    def rates(self, generators: Generators, rates: Sequence[float]) -> Result:
        result = Result()
        for number, rate in enumerate(rates):
            self._step(generators, rate, number, result)
        return _noted(result)

    def search(self, generators: Generators, search: Search) -> Result:
        result = Result(searched=True)
        most = MOST_REQUESTS / (self.load.warm_up + self.load.seconds)
        while (rate := search.next_rate()) is not None:
            if rate > most:
                result.notes.append(f"the search ended at {most:,.0f} requests per second, the most for one rate")
                break
            step = self._step(generators, rate, search.steps, result)
            search.tell(rate, step.held)
        return _noted(result)

    def _step(self, generators: Generators, rate: float, number: int, result: Result) -> Step:
        before = self.model.counters()
        figures = measure(generators, self.wire, self.load, rate, number)
        after = self.model.counters()
        counters = after.since(before) if before is not None and after is not None else None
        step = Step(figures, held(figures, self.load), counters)
        result.steps.append(step)
        self.report(step)
        return step


def _noted(result: Result) -> Result:
    if any(step.figures.saturated for step in result.steps):
        result.notes.append(
            "the generator could not keep its schedule at some rates: give it more --processes or a free core"
        )
    if not result.held_rate:
        result.notes.append("no rate was held")
    return result


def made_bodies(
    model: Model, lengths: Sequence[int], making: bodies.Making, binary: bool, deadline: float
) -> dict[int, bytes]:
    """A request for each length, from the inputs the server's metadata names."""
    inputs = model.inputs()
    made: dict[int, bytes] = {}
    for length in sorted(set(lengths)):
        tensors = bodies.tensors(inputs, length, making)
        if model.server.grpc:
            made[length] = bodies.grpc_message(model.name, model.version, tensors)
            continue
        body, headers = bodies.http_binary(tensors) if binary else bodies.http_json(tensors)
        if deadline:
            headers["X-Request-Timeout-Ms"] = f"{deadline * 1000:g}"
        path = model.server.base + bodies.infer_path(model.name, model.version)
        made[length] = bodies.http_request(model.server.netloc, path, body, headers)
    return made
