"""Which window of a length-sorted group to run around an anchor: the one that leaves the neighbourhood cheapest.

Every window of neighbours that contains the anchor is looked at, by ends that lie the further apart the further away
they are. A window costs its own time and what it leaves behind on either side: the cheapest way to cut those
neighbours into batches, found by dynamic programming over the same ends. So a window that takes a length's company
away, or leaves a few that nobody will fit, pays for it. A neighbour left behind will be joined by others before it
runs, so its batch is priced as a share of one `company` times as large.

When there is too much work, a window that passes over the most urgent is an alternative: it counts only the work of
those that will be in time with it, and is the better one if it does more of that per second.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from sluice.scheduler.cost import Cost
from sluice.scheduler.queue import Group, W
from sluice.scheduler.steps import Steps

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]

REACH = 256  # neighbours looked at, either side
MOST_ENDS = 22  # ends of windows, either side
ROUNDS = 14  # what is left behind is cut into at most one batch more than this; most often fewer do
_GEOMETRIC = np.unique(np.r_[0:10, np.geomspace(10, REACH, MOST_ENDS - 10).round().astype(int)])
# For each number of neighbours the ends to look at: always none of them and all of them.
_ENDS = [np.unique(np.r_[_GEOMETRIC[count > _GEOMETRIC], count]).astype(np.intp) for count in range(REACH + 1)]
_INFINITE = np.float32(np.inf)
# [end, either side, begin] of what is left behind: infinite unless the end lies further out.
_NOT_OUTWARDS = np.where(np.tri(64, dtype=bool).T, _INFINITE, np.float32(0))[:, None, :]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one batch: rows, padded tokens, bytes of input."""

    rows: int
    tokens: int
    size: int


@dataclass(frozen=True, slots=True)
class Window(Generic[W]):
    """Entries `first` to `end` of a group."""

    group: Group[W]
    first: int
    end: int
    rows: int
    length: int
    seconds: float  # predicted
    slack: float  # how much later it could start and still answer everybody in time, margin included
    efficiency: float  # least work it could be done with / time it takes
    passes_over: frozenset[int] = frozenset()  # members left out, counted from the first
    bolder: Window[W] | None = None  # does more work per second by passing over those that are due too soon for it


@dataclass(frozen=True, slots=True)
class Sight:
    """What a look at a group goes by."""

    cost: Cost
    steps: Steps
    bounds: Bounds
    longest: float  # seconds a batch may take, margin included
    margin: float
    company: float
    readiness: float  # what is left behind costs 1/readiness of its time
    shares: Floats  # by length: the least worker's seconds of one row


def look(
    group: Group[W], at: int, now: float, worker: Hashable, sight: Sight, *, late: bool = False, compare: bool = False
) -> Window[W]:
    """The window around the entry at this place that this worker should run now. The entry alone is always a window,
    whatever the bounds and deadlines. `late` entries have no deadline any more; `compare` with what could be done by
    passing over the most urgent."""
    near = _Near(group, at, now, sight)
    right, left = near.right, near.left
    rows = _between(near.before, right, left)
    length = near.padded.take(right).astype(np.float32)[:, None]
    tokens = rows * length
    seconds = sight.cost.times(tokens, length, worker)
    allowed = seconds <= sight.longest / sight.margin
    allowed &= tokens <= near.tokens
    if rows[-1, -1] > sight.bounds.rows:
        allowed &= rows <= sight.bounds.rows
    if near.sizes is not None:
        allowed &= _between(near.sizes, right, left) <= sight.bounds.size
    allowed[0, 0] = True
    bolder = _bolder(near, rows, seconds, allowed, worker, sight) if compare else None
    spare = near.spare()
    if not late:
        allowed &= seconds <= spare * np.float32(1 / sight.margin)
        allowed[0, 0] = True
    total = near.left_behind(worker, sight)
    total += seconds
    total[~allowed] = _INFINITE
    best = int(total.argmin())
    to, since = divmod(best, len(left))
    end, first = int(right[to]) + 1, int(left[since])
    # Ends that lie apart leave out some that would fit where the next end did not.
    fits = _Fit(near, worker, sight, late)
    if to + 1 < len(right) and not allowed[to + 1, since]:
        end = fits.furthest(end, int(right[to + 1]), lambda further: (first, further))
    if since + 1 < len(left) and not allowed[to, since + 1]:
        first = -fits.furthest(-first, -int(left[since + 1]) - 1, lambda further: (-further, end))
    count, longest = near.shape(first, end)
    time = sight.cost.seconds(count, longest, worker)
    efficiency = float(near.work[first:end].sum()) / time
    if bolder is not None and bolder.efficiency <= efficiency:
        bolder = None
    slack = near.spare_of(first, end) - sight.margin * time
    return Window(group, near.start + first, near.start + end, count, longest, time, slack, efficiency, bolder=bolder)


def _bolder(
    near: _Near, rows: Floats, seconds: Floats, allowed: Flags, worker: Hashable, sight: Sight
) -> Window[Any] | None:
    """The window that does most work per second if those do not count that could not be in time with the window that
    would be most efficient if nobody had a deadline; None when all could."""
    right, left = near.right, near.left
    within = _between(_sums(near.work), right, left) / seconds
    within *= allowed
    limit = float(seconds.flat[int(within.argmax())]) * sight.margin
    patient = near.dues >= limit
    if patient.all():
        return None
    before, work = _sums(near.rows * patient), _sums(near.work * patient)
    length = near.padded.take(right).astype(np.float32)[:, None]
    rows = _between(before, right, left)
    tokens = rows * length
    seconds = sight.cost.times(np.maximum(tokens, 1), length, worker)
    allowed = (seconds * sight.margin <= limit) & (tokens <= near.tokens) & (rows <= sight.bounds.rows)
    if near.sizes is not None:
        allowed &= _between(near.sizes, right, left) <= sight.bounds.size
    efficiency = _between(work, right, left) / seconds
    efficiency *= allowed
    to, since = divmod(int(efficiency.argmax()), len(left))
    first, end = int(left[since]), int(right[to]) + 1
    members = np.flatnonzero(patient[first:end])
    if not len(members):
        return None
    count, longest = int(before[end] - before[first]), int(near.padded[first + members[-1]])
    time = sight.cost.seconds(count, longest, worker)
    return Window(
        near.group,
        near.start + first,
        near.start + end,
        count,
        longest,
        time,
        0.0,
        float(work[end] - work[first]) / time,
        frozenset((np.flatnonzero(~patient[first:end])).tolist()),
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """Whether a window keeps the bounds and its members' deadlines."""

    near: _Near
    worker: Hashable
    sight: Sight
    late: bool

    def allows(self, first: int, end: int) -> bool:
        rows, length = self.near.shape(first, end)
        time = self.sight.cost.seconds(rows, length, self.worker) * self.sight.margin
        sizes = self.near.sizes
        return (
            rows <= self.sight.bounds.rows
            and rows * length <= self.near.tokens
            and time <= self.sight.longest
            and (self.late or time <= self.near.spare_of(first, end))
            and (sizes is None or sizes[end] - sizes[first] <= self.sight.bounds.size)
        )

    def furthest(self, fits: int, last: int, window: Callable[[int], tuple[int, int]]) -> int:
        """The furthest end up to the last that is allowed, given one that is: by halves."""
        while fits < last:
            middle = (fits + last + 1) // 2
            if self.allows(*window(middle)):
                fits = middle
            else:
                last = middle - 1
        return fits


class _Near:
    """The anchor's neighbours as arrays."""

    def __init__(self, group: Group[Any], at: int, now: float, sight: Sight) -> None:
        step = sight.steps.round(group.lengths[at])
        # A batch beyond twice the largest ever run would be a guess.
        self.tokens = min(sight.bounds.tokens, 2 * sight.cost.largest)
        reach = min(REACH, sight.bounds.rows, self.tokens // step + 1)
        self.group = group
        self.start = start = max(0, at - reach)
        end = min(len(group), at + reach + 1)
        self.at = at = at - start
        lengths: Integers = np.frombuffer(group.lengths, np.int64)[start:end].copy()
        self.rows: Floats = np.frombuffer(group.rows, np.float32)[start:end].copy()
        # Relative to now first: float32 would not tell times of a long life apart.
        self.dues = dues = (np.frombuffer(group.dues, np.float64)[start:end] - now).astype(np.float32)
        self.rightwards = np.minimum.accumulate(dues[at:])  # seconds until the first from the anchor on is due
        self.leftwards = np.minimum.accumulate(dues[at::-1])
        self.before = _sums(self.rows)
        self.work = self.rows * sight.shares.take(lengths, mode="clip")
        self.padded = sight.steps.round_all(lengths)
        self.right = at + _ENDS[end - start - 1 - at]  # last entries
        self.left = at - _ENDS[at]  # first entries
        # Bytes matter seldom: only where all that is near exceeds their bound.
        sizes = np.frombuffer(group.sizes, np.int64)[start:end]
        self.sizes = np.concatenate(([0], np.cumsum(sizes))) if sizes.sum() > sight.bounds.size else None

    def shape(self, first: int, end: int) -> tuple[int, int]:
        """Rows and padded length of a window."""
        return int(self.before[end] - self.before[first]), int(self.padded[end - 1])

    def spare(self) -> Floats:
        """Seconds until the first is due, by window."""
        rightwards = self.rightwards.take(self.right - self.at)
        leftwards = self.leftwards.take(self.at - self.left)
        spare: Floats = np.minimum(rightwards[:, None], leftwards)
        return spare

    def spare_of(self, first: int, end: int) -> float:
        """The same of one window around the anchor."""
        return min(float(self.rightwards[end - 1 - self.at]), float(self.leftwards[self.at - first]))

    def left_behind(self, worker: Hashable, sight: Sight) -> Floats:
        """Seconds of the cheapest cut of the neighbours beyond either end, by window."""
        count = max(len(self.right), len(self.left))
        if count == 1:
            return np.zeros((1, 1), np.float32)
        right, left = _extended(self.right, count), _extended(self.left, count)
        # By where a batch ends, outwards, by side, by where it begins: a minimum along the first axis is the fastest.
        rows = np.empty((count, 2, count), np.float32)
        length = np.empty((count, 2, count), np.float32)
        beyond = self.before.take(right + 1)
        np.subtract(beyond[:, None], beyond, out=rows[:, 0])
        length[:, 0] = self.padded.take(right)[:, None]
        beyond = self.before.take(left)
        np.subtract(beyond, beyond[:, None], out=rows[:, 1])
        length[:, 1] = self.padded.take(left - 1, mode="clip")
        rows *= sight.company
        rows *= length
        np.maximum(rows, 1, out=rows)
        cost = sight.cost.times(rows, length, worker)
        cost *= 1 / (sight.company * sight.readiness)
        cost += _NOT_OUTWARDS[:count, :, :count]
        value = cost[-1].copy()
        value[0, len(self.right) - 1 :] = 0
        value[1, len(self.left) - 1 :] = 0
        for _ in range(ROUNDS):
            np.add(cost, value.T[:, :, None], out=rows)
            cut = np.minimum.reduce(rows, axis=0)
            if not (cut < value).any():
                break
            np.minimum(value, cut, out=value)
        behind: Floats = value[0, : len(self.right), None] + value[1, : len(self.left)]
        return behind


def _sums(values: Floats) -> Floats:
    sums = np.empty(len(values) + 1, np.float32)
    sums[0] = 0
    np.add.accumulate(values, out=sums[1:])
    return sums


def _between(sums: Any, right: Integers, left: Integers) -> Any:
    """Sums over windows, by their last and first entries."""
    return sums.take(right + 1)[:, None] - sums.take(left)


def _extended(ends: Integers, count: int) -> Integers:
    return ends if len(ends) == count else np.concatenate((ends, np.repeat(ends[-1:], count - len(ends))))
