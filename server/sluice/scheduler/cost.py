"""How long a batch will take: a roofline learned from the batches that ran.

    seconds = max(floor, fixed + per_token · tokens + per_pair · tokens · length) · residual(tokens) · speed[worker]

`tokens` are padded. The four numbers are a non-negative least squares fit of the *relative* error, with outliers
weighed down, over the warm-up runs and the last batches; what is left by size (cache cliffs, tiles) goes into
`residual`, and a worker that is slower or faster than the others into its `speed`. Start optimistic: a pessimistic
guess would call everything hopeless and never learn better.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

MEMORY = 512  # batches remembered
MOST_PROFILED = 256
REFIT_EVERY = 64
LAST = 16  # batches of a worker that tell its speed
YOUNG = 32  # observations below which nothing is refused or given up on the word of this model
MOST_WORKERS = 256
# Residuals in octaves of tokens, looked up in eight steps each: a table instead of a logarithm for every window.
OCTAVES = 32
STEPS_PER_OCTAVE = 8
_MANTISSA_BITS_DROPPED = 20  # of float32's 23: three bits are left, the eight steps
_BELOW_ONE = 127 * STEPS_PER_OCTAVE  # what the bits of 1.0 become
# The subsets of three terms: which are in, and a diagonal that lets the others be.
_CHOSEN = np.array([[bool(subset >> term & 1) for term in range(3)] for subset in range(1, 8)])
_FILLED = np.where(_CHOSEN[:, :, None] & np.eye(3, dtype=bool), 1e-12, np.where(_CHOSEN[:, :, None], 0.0, np.eye(3)))


class Cost:
    """Learned seconds of a batch's shape. Everything is a plain number, so that its state can be kept and restored."""

    def __init__(self) -> None:
        self.floor = 0.0
        self.terms: Floats = np.array([1e-4, 1e-7, 0.0])  # fixed, per token, per token and length
        self.version = 0
        self.observed = 0
        self.spread = 0.1  # standard deviation of the log error, robustly
        self.largest = 256  # tokens of the largest batch ever seen
        self._residual: Floats = np.zeros(OCTAVES)
        self._speed: dict[Hashable, float] = {}  # logarithms
        self._seen: dict[Hashable, int] = {}  # batches of each worker
        self._typical = 0.0
        self._profile: deque[tuple[float, float, float]] = deque(maxlen=MOST_PROFILED)
        self._recent: deque[tuple[Hashable, float, float, float]] = deque(maxlen=MEMORY)
        self._renew()

    # Predictions

    def seconds(self, rows: int, length: int, worker: Hashable = None) -> float:
        """Expected seconds of a batch; of a typical worker when none is named."""
        return self._usual(rows, length) * self.speed(worker)

    def _usual(self, rows: int, length: int) -> float:
        tokens = rows * length
        time: float = max(self.floor, self._fixed + tokens * (self._per_token + self._per_pair * length))
        half, octave = math.frexp(max(tokens, 1))
        step = (octave - 1) * STEPS_PER_OCTAVE + int((2 * half - 1) * STEPS_PER_OCTAVE)
        return time * self._factors[min(step, len(self._factors) - 1)]

    def times(self, tokens: Floats, length: Floats, worker: Hashable = None) -> Floats:
        """The same for float32 arrays of at least one token each."""
        speed = self.speed(worker)
        time: Floats = tokens * (length * (self._per_pair * speed) + self._per_token * speed)
        time += self._fixed * speed
        np.maximum(time, self.floor * speed, out=time)
        time *= self._factor_table.take(tokens.view(np.int32) >> _MANTISSA_BITS_DROPPED, mode="clip")
        return time

    def speed(self, worker: Hashable = None) -> float:
        """How many times as long as usual this worker takes."""
        return math.exp(self._speed.get(worker, self._typical))

    @property
    def margin(self) -> float:
        """Predicted × margin is exceeded once in twenty."""
        return math.exp(1.65 * min(self.spread, 0.4))

    @property
    def young(self) -> bool:
        return self.observed < YOUNG

    # Learning

    def profile(self, rows: int, length: int, seconds: float) -> None:
        """A warm-up run, of no particular worker."""
        if _usable(rows, length, seconds):
            self._profile.append((rows, length, seconds))
            self.largest = max(self.largest, rows * length)
            self.observed += 1

    def observe(self, worker: Hashable, rows: int, length: int, seconds: float) -> None:
        """A batch of live traffic."""
        if not _usable(rows, length, seconds):
            return
        error = math.log(seconds / self.seconds(rows, length, worker))
        self.largest = max(self.largest, rows * length)
        self.spread += 0.02 * (1.25 * min(abs(error), 0.5) - self.spread)
        # A worker new to us is learned fast, a known one slowly and with little trust in what is far off.
        seen = self._seen.pop(worker, 0) + 1
        pace, most = (1 / (seen + 1), 1.0) if seen < 9 else (0.1, 0.3)
        speed = self._speed.pop(worker, self._typical) + pace * max(-most, min(most, error))
        self._speed[worker], self._seen[worker] = speed, seen
        if len(self._speed) > MOST_WORKERS:
            oldest = next(iter(self._speed))
            del self._speed[oldest], self._seen[oldest]
        self._recent.append((worker, rows, length, seconds))
        self.observed += 1
        live = len(self._recent)
        if live in (2, 4, 8, 16, 32) or self.observed % REFIT_EVERY == 0:
            self.fit()

    def fit(self) -> None:
        """Learn the numbers anew from what is remembered."""
        self._forget_other_times()
        live = np.array(self._alike(), float).reshape(-1, 3)
        profile = np.array(self._profile, float).reshape(-1, 3)
        if not len(live) + len(profile):
            return
        profile[:, 2] *= _since_profiled(profile, live)
        rows, length, seconds = np.concatenate((profile, live)).T
        weight = np.ones(len(rows))
        # Warm-up fades as traffic tells more, and goes on speaking where traffic says nothing.
        weight[: len(profile)] = 1 / (1 + len(live) / 64)
        tokens = rows * length
        self.floor, self.terms = _roofline(tokens, length, seconds, weight)
        left = np.log(seconds / np.maximum(self.floor, self._line(tokens, length)))
        self._residual = _smooth(np.log2(tokens), np.clip(left, -0.7, 0.7), weight)
        self._renew()
        self._relearn_speeds()

    def _forget_other_times(self) -> None:
        """When everything has become slower or faster, what was before tells nothing but the profile's shape."""
        off = [math.log(seconds / self._usual(int(rows), int(length))) for _, rows, length, seconds in self._recent]
        last, before = off[-2 * LAST :], off[: -2 * LAST]
        if before and abs(statistics.median(last) - statistics.median(before)) > max(0.2, 3 * self.spread):
            self._recent = deque(list(self._recent)[len(before) :], maxlen=MEMORY)

    def _alike(self) -> list[tuple[float, float, float]]:
        """The last batches as a typical worker would have computed them."""
        speed = {worker: math.exp(own - self._typical) for worker, own in self._speed.items()}
        return [(rows, length, seconds / speed.get(worker, 1.0)) for worker, rows, length, seconds in self._recent]

    def _relearn_speeds(self) -> None:
        """What a worker's last batches took beside what the new numbers say: only the product is ever observed, so
        numbers and speeds learned one after the other would drift apart."""
        last: dict[Hashable, list[float]] = {}
        for worker, rows, length, seconds in reversed(self._recent):
            own = last.setdefault(worker, [])
            if worker in self._speed and len(own) < LAST:
                own.append(math.log(seconds / self._usual(int(rows), int(length))))
        for worker, errors in last.items():
            if len(errors) >= LAST // 4:
                self._speed[worker] = statistics.median(errors)
        self._typical = statistics.median(list(self._speed.values())) if self._speed else 0.0

    def _line(self, tokens: Floats, length: Floats) -> Floats:
        line: Floats = self.terms[0] + tokens * (self.terms[1] + self.terms[2] * length)
        return line

    def _renew(self) -> None:
        self._fixed, self._per_token, self._per_pair = self.terms.tolist()
        octaves = np.arange(OCTAVES * STEPS_PER_OCTAVE)
        fraction = (octaves % STEPS_PER_OCTAVE + 0.5) / STEPS_PER_OCTAVE
        middles = octaves // STEPS_PER_OCTAVE + np.log2(1 + fraction)
        factors = np.exp(np.interp(middles, np.arange(OCTAVES), self._residual))
        self._factors: list[float] = factors.tolist()
        self._factor_table = np.concatenate((np.ones(_BELOW_ONE, np.float32), factors.astype(np.float32)))
        self.version += 1

    # Keeping

    def state(self) -> dict[str, Any]:
        """What to write down so that the next start is warm; workers' speeds are of their own life only."""
        return {
            "samples": [list(sample) for sample in (*self._profile, *self._alike())][-MEMORY:],
            "floor": self.floor,
            "terms": self.terms.tolist(),
            "residual": self._residual.tolist(),
            "spread": self.spread,
            "largest": self.largest,
            "observed": self.observed,
            "typical": self._typical,
        }

    @classmethod
    def restore(cls, state: object) -> Cost:
        """The model that had this state; ValueError when it is none."""
        cost = cls()
        try:
            if not isinstance(state, dict):
                raise TypeError("not an object")
            cost.floor = _number(state["floor"])
            cost.terms = np.array([_number(value) for value in state["terms"]])
            cost._residual = np.array([_number(value, -1.0) for value in state["residual"]])
            cost.spread = _number(state["spread"])
            cost.largest = int(_number(state["largest"], 1))
            cost.observed = int(_number(state["observed"]))
            for sample in state["samples"]:
                rows, length, seconds = (_number(value) for value in sample)
                if not _usable(rows, length, seconds):
                    raise ValueError("a sample of no size or no time")
                cost._recent.append((None, rows, length, seconds))
            cost._typical = _number(state["typical"], -20.0)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not the state of a cost model: {error!r}") from error
        if cost.terms.shape != (3,) or cost._residual.shape != (OCTAVES,) or cost.floor + cost.terms.sum() <= 0:
            raise ValueError("not the state of a cost model: wrong number of terms")
        cost._renew()
        return cost


def _since_profiled(profile: Floats, live: Floats) -> float:
    """How many times as long as at warm-up everything takes now."""
    if not len(live) or not len(profile):
        return 1.0
    rows, length, seconds = live[-4 * LAST :].T[:, :, None]
    size = rows * length / (profile[:, 0] * profile[:, 1])
    near = (size > 0.7) & (size < 1.4) & (length > 0.5 * profile[:, 1]) & (length < 2 * profile[:, 1])
    return float(np.median((seconds / profile[:, 2])[near])) if near.any() else 1.0


def _usable(rows: float, length: float, seconds: float) -> bool:
    return rows >= 1 and length >= 1 and 0 < seconds < math.inf


def _number(value: object, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e15:
        raise ValueError(f"{value!r} is not a number from {least} up")
    return float(value)


def _roofline(tokens: Floats, length: Floats, seconds: Floats, weight: Floats) -> tuple[float, Floats]:
    """Floor and terms: with a knee where that explains the samples better than without."""
    columns = np.stack([np.ones_like(tokens), tokens, tokens * length], 1)
    low = float(np.quantile(seconds, 0.02)) if len(seconds) > 50 else float(seconds.min())
    fits = [_alternate(columns, seconds, weight, seconds > bar) for bar in (0.0, 1.3 * low)]
    losses = [_loss(seconds, weight, np.maximum(floor, columns @ terms)) for floor, terms in fits]
    return fits[0] if losses[0] <= 1.05 * losses[1] else fits[1]


def _loss(seconds: Floats, weight: Floats, predicted: Floats) -> float:
    """What is off, where being far off counts little more than being off."""
    return float((weight * np.log1p((np.log(seconds / np.maximum(predicted, 1e-12)) / 0.1) ** 2)).sum())


def _alternate(columns: Floats, seconds: Floats, weight: Floats, beyond: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
    """Alternate between which samples lie beyond the knee and what fits them, and, outside of that, between how far
    off each sample is and how much it may say."""
    trust, floor, terms = weight, 0.0, np.array([float(seconds.min()), 0.0, 0.0])
    for _ in range(3):
        for _ in range(4):
            if beyond.sum() >= 3:
                terms = _non_negative(columns[beyond] / seconds[beyond, None], trust[beyond])
            if not beyond.all():
                floor = float(trust[~beyond].sum() / (trust[~beyond] / seconds[~beyond]).sum())
            now_beyond = columns @ terms > floor
            if (now_beyond == beyond).all():
                break
            beyond = now_beyond
        error = np.abs(np.log(seconds / np.maximum(np.maximum(floor, columns @ terms), 1e-12)))
        usual = max(0.02, float(np.median(error)))
        # Weights of Cauchy: what is ten times as far off as usual says a hundredth.
        trust = weight / (1 + (error / (3 * usual)) ** 2)
    return floor, terms


def _non_negative(columns: Floats, weight: Floats) -> Floats:
    """The three non-negative factors that bring weighted rows nearest to one, by looking at every subset: each column
    more has to earn its place by 2 % of the squared error."""
    scale = np.maximum(columns.max(0), 1e-300)
    columns = columns / scale
    weighted = columns * weight[:, None]
    gram, target, total = weighted.T @ columns, weighted.sum(0), float(weight.sum())
    # One system for each subset, in which the columns left out are factors of nothing.
    systems = np.where(_CHOSEN[:, :, None] & _CHOSEN[:, None, :], gram, 0.0) + _FILLED * max(total, 1e-12)
    factors = np.linalg.solve(systems, np.where(_CHOSEN, target, 0.0)[:, :, None])[:, :, 0]
    error = total - 2 * factors @ target + ((factors @ gram) * factors).sum(1)
    error = np.maximum(error, 0.0) * (1 + 0.02 * _CHOSEN.sum(1))
    error[(factors < 0).any(1)] = np.inf
    best: Floats = factors[int(error.argmin())] / scale
    return best


def _smooth(octaves: Floats, left: Floats, weight: Floats) -> Floats:
    """The mean of what is left at each octave, drawn to nothing where there are few samples."""
    near = np.maximum(0.0, 1 - np.abs(np.arange(OCTAVES)[:, None] - octaves)) * weight
    smooth: Floats = (near @ left) / (near.sum(1) + 2.0)
    return smooth
