"""What is sent and when: length mixes and schedules, drawn from a seed and the same on every run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sluice.errors import SluiceError

Numbers = np.ndarray[Any, Any]
Arrival = Literal["poisson", "constant"]

LONGEST = 512
MEDIAN, P95 = 24, 124  # of real short texts
_P95_DEVIATIONS = 1.6449
_MOST_LENGTHS = 512
_SHORTEST = 3  # a tokenizer's two marks around one token


class BenchError(SluiceError):
    """The load cannot be generated, or the server cannot be asked, as it was said."""

    reason = "bench"


@dataclass(frozen=True, slots=True)
class Mix:
    """A distribution of sequence lengths, and every length it may give: each needs its own request."""

    name: str
    support: tuple[int, ...]
    draw: Callable[[np.random.Generator, int], Numbers]

    def lengths(self, count: int, seed: int) -> list[int]:
        drawn = self.draw(np.random.default_rng((seed, 1)), count)
        return [int(length) for length in drawn]


def mix(text: str) -> Mix:
    """A mix by its name: lognormal[:MEDIAN:P95[:MOST]], bimodal, constant:LENGTH, or a file of lengths."""
    name, _, rest = text.partition(":")
    try:
        numbers = [int(number) for number in rest.split(":")] if rest else []
    except ValueError:
        numbers = [-1]
    match name, numbers:
        case "lognormal", []:
            return lognormal()
        case "lognormal", [median, p95] if 0 < median < p95:
            return lognormal(median, p95, max(LONGEST, 4 * p95))
        case "lognormal", [median, p95, most] if 0 < median < p95 <= most:
            return lognormal(median, p95, most)
        case "bimodal", []:
            return Mix(text, (*range(16, 33), *range(384, 513)), _bimodal)
        case "constant", [length] if length > 0:
            return Mix(text, (length,), lambda _, count: np.full(count, length))
    if Path(text).is_file():
        return recorded(Path(text))
    raise BenchError(
        f"lengths: '{text}' is neither lognormal[:MEDIAN:P95[:MOST]], bimodal, constant:LENGTH nor a file of lengths"
    )


def lognormal(median: int = MEDIAN, p95: int = P95, most: int = LONGEST) -> Mix:
    """Long lengths are rounded up to one of a bounded number of steps."""
    spread = math.log(p95 / median) / _P95_DEVIATIONS
    step = math.ceil(most / _MOST_LENGTHS)
    shortest = min(_SHORTEST, most)
    support = tuple(sorted({min(most, math.ceil(length / step) * step) for length in range(shortest, most + 1)}))

    def draw(random: np.random.Generator, count: int) -> Numbers:
        drawn = np.clip(random.lognormal(math.log(median), spread, count), shortest, most).astype(int)
        rounded: Numbers = np.minimum(most, -(-drawn // step) * step)
        return rounded

    usual = (median, p95, most) == (MEDIAN, P95, LONGEST)
    return Mix("lognormal" if usual else f"lognormal:{median}:{p95}:{most}", support, draw)


def _bimodal(random: np.random.Generator, count: int) -> Numbers:
    """Short questions among long documents: 80 % U(16, 32) + 20 % U(384, 512)."""
    short, long = random.integers(16, 33, count), random.integers(384, 513, count)
    return np.where(random.random(count) < 0.8, short, long)


def recorded(path: Path) -> Mix:
    """The lengths of a trace in its own order, over and over."""
    try:
        lengths = [int(line) for line in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise BenchError(f"lengths: {path}: {error}") from error
    if not lengths or min(lengths) < 1:
        raise BenchError(f"lengths: {path}: needs whole numbers of at least 1")
    return Mix(path.name, tuple(sorted(set(lengths))), lambda _, count: np.resize(lengths, count))


def send_times(arrival: Arrival, rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds from the start at which to send, for this many seconds."""
    if arrival == "constant":
        return [number / rate for number in range(math.ceil(rate * seconds))]
    random = np.random.default_rng((seed, 2))
    times: list[float] = []
    last = 0.0
    while last < seconds:
        gaps = random.exponential(1 / rate, max(16, math.ceil(rate * seconds * 1.1)))
        times.extend(last + np.cumsum(gaps))
        last = times[-1]
    return [float(time) for time in times if time < seconds]
