"""Made-up traffic: how long requests are, what else marks them, and when they arrive, drawn from one seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from sluice.simulation.requests import MODEL, PRIORITY, SimulationError

Numbers = np.ndarray[Any, Any]
Value = TypeVar("Value")
Draw = Callable[[np.random.Generator, int], Numbers]

MEDIAN, P95, LONGEST = 24, 128, 512  # of real short texts
_P95_DEVIATIONS = 1.6449
_CONSTANT = 64


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of sequence lengths."""

    name: str
    longest: int
    draw: Draw


def lengths(text: str) -> Lengths:
    """By name: lognormal[:MEDIAN:P95[:MOST]], bimodal, constant[:LENGTH], or a file with a length on each line."""
    name, _, rest = text.partition(":")
    numbers = [int(part) if part.isdecimal() else -1 for part in rest.split(":")] if rest else []
    match name, numbers:
        case "lognormal", []:
            return _lognormal(text, MEDIAN, P95, LONGEST)
        case "lognormal", [median, p95] if 0 < median < p95:
            return _lognormal(text, median, p95, max(LONGEST, 4 * p95))
        case "lognormal", [median, p95, most] if 0 < median < p95 <= most:
            return _lognormal(text, median, p95, most)
        case "bimodal", []:
            return Lengths(text, LONGEST, _bimodal)
        case "constant", []:
            return Lengths(text, _CONSTANT, lambda _, count: np.full(count, _CONSTANT))
        case "constant", [length] if length > 0:
            return Lengths(text, length, lambda _, count: np.full(count, length))
    if Path(text).is_file():
        return _from_file(Path(text))
    raise SimulationError(
        f"lengths: '{text}' is neither lognormal[:MEDIAN:P95[:MOST]], bimodal, constant[:LENGTH] nor a file of lengths"
    )


def _lognormal(name: str, median: int, p95: int, most: int) -> Lengths:
    spread = math.log(p95 / median) / _P95_DEVIATIONS

    def draw(random: np.random.Generator, count: int) -> Numbers:
        drawn: Numbers = np.clip(np.exp(random.normal(math.log(median), spread, count)), 1, most).astype(int)
        return drawn

    return Lengths(name, most, draw)


def _bimodal(random: np.random.Generator, count: int) -> Numbers:
    """Short questions among long documents: 80 % U(16, 32) + 20 % U(384, 512)."""
    short = random.random(count) < 0.8
    return np.where(short, random.integers(16, 33, count), random.integers(384, 513, count))


def _from_file(path: Path) -> Lengths:
    try:
        found = np.array([int(line) for line in path.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise SimulationError(f"lengths: {path}: {error}") from error
    if not len(found) or found.min() < 1:
        raise SimulationError(f"lengths: {path}: needs whole numbers of at least 1")
    return Lengths(path.name, int(found.max()), lambda random, count: random.choice(found, count))


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests but for their arrivals, column by column; a deadline is seconds after the arrival."""

    lengths: Sequence[int]
    rows: Sequence[int]
    models: Sequence[str]
    tenants: Sequence[str | None]
    priorities: Sequence[int]
    deadlines: Sequence[float]


class Source(Protocol):
    """Where requests come from."""

    @property
    def name(self) -> str: ...

    @property
    def longest(self) -> int: ...

    def sample(self, count: int, random: np.random.Generator) -> Sample: ...

    def times(self, count: int, rate: float, unit: float, random: np.random.Generator) -> list[float]:
        """About so many arrivals; `unit` is the typical length of a burst in seconds."""

    @property
    def own_rate(self) -> float | None:
        """The rate it arrives at when none is asked for."""

    @property
    def model_names(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Generated:
    """Drawn at random; the mappings say which share of the requests has which value."""

    lengths: Lengths
    arrivals: str = "poisson"
    rows: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})
    models: Mapping[str, float] = field(default_factory=lambda: {MODEL: 1.0})
    tenants: Mapping[str, float] = field(default_factory=dict)
    priorities: Mapping[int, float] = field(default_factory=lambda: {PRIORITY: 1.0})
    deadlines: Mapping[float, float] = field(default_factory=dict)
    own_rate: float | None = None

    @property
    def name(self) -> str:
        return f"{self.arrivals}, {self.lengths.name}"

    @property
    def longest(self) -> int:
        return self.lengths.longest

    @property
    def model_names(self) -> Sequence[str]:
        return tuple(self.models)

    def sample(self, count: int, random: np.random.Generator) -> Sample:
        drawn = self.lengths.draw(random, count)
        tenants = _pick(self.tenants, count, random) if self.tenants else [None] * count
        return Sample(
            drawn.tolist(),
            _pick(self.rows, count, random),
            _pick(self.models, count, random),
            [*tenants],
            _pick(self.priorities, count, random),
            _pick(self.deadlines or {math.inf: 1.0}, count, random),
        )

    def times(self, count: int, rate: float, unit: float, random: np.random.Generator) -> list[float]:
        found: list[float] = ARRIVALS[self.arrivals](count, rate, unit, random).tolist()
        return found


def _pick(shares: Mapping[Value, float], count: int, random: np.random.Generator) -> list[Value]:
    values = list(shares)
    if len(values) == 1:
        return values * count
    weights = np.array([shares[value] for value in values], float)
    chosen = random.choice(len(values), count, p=weights / weights.sum())
    return [values[number] for number in chosen]


def _poisson(count: int, rate: float, unit: float, random: np.random.Generator) -> Numbers:
    return np.cumsum(random.exponential(1 / rate, count))


def _constant(count: int, rate: float, unit: float, random: np.random.Generator) -> Numbers:
    return np.arange(count) / rate


def _step(count: int, rate: float, unit: float, random: np.random.Generator) -> Numbers:
    """Half the rate, then one and a half times it, then half again, a third of the time each."""
    third = count / rate / 3
    return _pieces([third, third, third], [0.5 * rate, 1.5 * rate, 0.5 * rate], random)


def _bursts(count: int, rate: float, unit: float, random: np.random.Generator) -> Numbers:
    """Half the rate for two units on average, twice the rate for one: a Markov-modulated Poisson process."""
    spans: list[float] = []
    rates: list[float] = []
    left, high = count / rate, False
    while left > 0:
        span = min(left, float(random.exponential(unit * (1 if high else 2))))
        spans.append(span)
        rates.append(rate * (2.0 if high else 0.5))
        left, high = left - span, not high
    return _pieces(spans, rates, random)


def _diurnal(count: int, rate: float, unit: float, random: np.random.Generator) -> Numbers:
    """Two days, between a fifth of the rate at night and 1.8 times it at noon."""
    pieces = 96
    phase = (np.arange(pieces) + 0.5) / pieces * 2
    rates = rate * (1 - 0.8 * np.cos(2 * math.pi * phase))
    return _pieces([count / rate / pieces] * pieces, rates.tolist(), random)


def _pieces(spans: Sequence[float], rates: Sequence[float], random: np.random.Generator) -> Numbers:
    """Poisson arrivals at a rate for each span."""
    starts = np.concatenate(([0.0], np.cumsum(spans)))
    parts = [
        np.sort(random.uniform(start, start + span, random.poisson(rate * span)))
        for start, span, rate in zip(starts[:-1], spans, rates, strict=True)
    ]
    return np.concatenate(parts)


ARRIVALS: Mapping[str, Callable[[int, float, float, np.random.Generator], Numbers]] = {
    "poisson": _poisson,
    "constant": _constant,
    "bursts": _bursts,
    "step": _step,
    "diurnal": _diurnal,
}
