"""Padded lengths: which length a batch is run at, given the longest of its entries."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer[Any]]

# The dynamic programme is quadratic in the distinct lengths it looks at.
MOST_CANDIDATES = 96
MEMORY = 4096  # lengths of past traffic the steps are chosen for
NEW_AFTER = 1024  # arrivals between two choices


class Steps(Protocol):
    """Rounds lengths up; never below the length, and of few values where shapes are costly."""

    def round(self, length: int) -> int: ...

    def round_all(self, lengths: Integers) -> Integers:
        """The same for an array."""

    def arrived(self, length: int) -> None:
        """One more request of this length."""


class Multiples:
    """Up to the next multiple of a number; of 1 means exactly."""

    def __init__(self, of: int) -> None:
        if of < 1:
            raise ValueError(f"steps must be multiples of at least 1, not {of}")
        self.of = of

    def round(self, length: int) -> int:
        return -(-length // self.of) * self.of

    def round_all(self, lengths: Integers) -> Integers:
        rounded: Integers = lengths if self.of == 1 else -(-lengths // self.of) * self.of
        return rounded

    def arrived(self, length: int) -> None:
        """Traffic changes nothing here."""


EXACT = Multiples(1)
MULTIPLES_OF_8 = Multiples(8)


class Learned:
    """At most `count` lengths, chosen anew now and then so that past traffic would have been padded least.

    Until there was traffic they are `count` lengths evenly spread up to `longest`, which always is one of them.
    """

    def __init__(self, count: int, longest: int) -> None:
        if count < 1 or longest < 1:
            raise ValueError(f"cannot choose {count} lengths up to {longest}")
        self.count = count
        self.longest = longest
        self.values: tuple[int, ...] = ()
        self._recent: deque[int] = deque(maxlen=MEMORY)
        self._since = 0
        self._set(tuple(-(-longest * step // count) for step in range(1, count + 1)))

    def round(self, length: int) -> int:
        at = bisect_left(self.values, length)
        # What is longer than all that was foreseen runs as it is: never shorter than the length.
        return self.values[at] if at < len(self.values) else length

    def round_all(self, lengths: Integers) -> Integers:
        at = np.searchsorted(self._array, lengths)
        rounded = self._array[np.minimum(at, len(self._array) - 1)]
        return np.maximum(rounded, lengths)

    def arrived(self, length: int) -> None:
        self._recent.append(min(length, self.longest))
        self._since += 1
        if self._since >= NEW_AFTER:
            self.choose()

    def choose(self) -> None:
        """Take the set of lengths that pads the remembered traffic least."""
        self._since = 0
        if self._recent:
            self._set(least_padding(np.fromiter(self._recent, np.int64), self.count, self.longest))

    def _set(self, values: tuple[int, ...]) -> None:
        self.values = tuple(sorted(set(values)))
        self._array = np.array(self.values, np.int64)


def least_padding(lengths: Integers | Sequence[int], count: int, longest: int) -> tuple[int, ...]:
    """At most `count` lengths, `longest` among them, that pad these lengths least: exact up to `MOST_CANDIDATES`
    distinct lengths, of that many quantiles beyond."""
    values, times = np.unique(np.asarray(lengths, np.int64), return_counts=True)
    if len(values) > MOST_CANDIDATES:
        at = np.unique(np.linspace(0, len(values) - 1, MOST_CANDIDATES).astype(int))
        times = np.add.reduceat(times, np.r_[0, at[:-1] + 1])
        values = values[at]
    if values[-1] < longest:
        values, times = np.r_[values, longest], np.r_[times, 0]
    if len(values) <= count:
        return tuple(values.tolist())
    before = np.r_[0, np.cumsum(times)]
    # padded[i, j]: tokens of the lengths i..j when all are run at the j-th
    padded = ((before[None, 1:] - before[:-1, None]) * values[None, :]).astype(float)
    padded[np.tril_indices(len(values), -1)] = np.inf
    cost, cuts = padded[0].copy(), []
    for _ in range(count - 1):
        through = np.r_[0.0, cost[:-1]][:, None] + padded
        cut = through.argmin(0)
        cuts.append(cut)
        cost = through[cut, np.arange(len(values))]
    chosen, last = [], len(values) - 1
    for cut in reversed(cuts):
        chosen.append(int(values[last]))
        last = int(cut[last]) - 1
        if last < 0:
            break
    else:
        chosen.append(int(values[last]))
    return tuple(sorted(chosen))
