"""Which waiting entries run next, which are refused, and which are given up.

The rule. The entry that must start first to be in time is the *anchor*. Of the windows of its length-sorted group
that hold the anchor and finish before every member is due, run the one that together with what it leaves behind costs
least (window.py). There are no buckets: a bucket is wherever the sorted queue says it is. A batch takes no longer
than leaves time for a later arrival behind it. Several idle workers cut a window into parts where that is faster; the
last idle one waits a moment before a bad batch, if an entry that comes right after its start could not be answered in
time by anybody. An entry that could not be answered in time is refused (door.py). When more urgent work waits than
can be done, a window may pass over entries that are due too soon for it, the anchor among them, if that does more
work in time per second; what is passed over is given up; who must start before such a window ends and is of a tenant
within its share runs first. What cannot be in time any more waits apart, runs when nothing else does or when it has
waited very long, and is given up only when there is too much work. A slow worker leaves an anchor it would be late
with to a faster one. Priority shifts the urgency by a bounded number of seconds, so age beats it in the end; tenants
share what room there is when there is too little of it. Where memory is short, on the device (ceiling.py) or beside
it, batches are smaller than their bounds.

The law of this file: it decides and does nothing else; no I/O and no clock but the `now` it is told. An entry that is
submitted leaves exactly once: in a decision's `entries` or `given_up`, or by `remove`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Generic

from sluice.scheduler.ceiling import Ceiling
from sluice.scheduler.cost import Cost
from sluice.scheduler.decision import USUAL, Decision, Refusal, Tuning
from sluice.scheduler.door import LEAST_WAIT, Door
from sluice.scheduler.forecast import Forecast
from sluice.scheduler.queue import Place, Queue, W
from sluice.scheduler.steps import EXACT, Steps
from sluice.scheduler.window import Bounds, Sight, Window, look

__all__ = ["Bounds", "Decision", "Policy", "Refusal", "Tuning"]

RENEW_EVERY = 64  # batches
# What is late runs at the latest after so many of its patiences, if so many batches have run since the last such one.
LATE_PATIENCES = 5.0
LATE_EVERY = 8
# Of half a target, either way: so the least urgent gets its turn in time even if the most urgent never stop coming.
MOST_SHIFT = 0.8


class Policy(Generic[W]):
    """One live version's."""

    def __init__(self, cost: Cost, target: float, bounds: Bounds, steps: Steps = EXACT, tuning: Tuning = USUAL) -> None:
        self.cost, self.target, self.bounds, self.steps, self.tuning = cost, target, bounds, steps, tuning
        self.ceiling = Ceiling(bounds.tokens)
        self.workers = 1.0
        self.portion = 1.0
        self._timely: Queue[W] = Queue()
        self._late: Queue[W] = Queue()
        self._places: dict[int, Place[W]] = {}
        self._forecast = Forecast(cost, target, bounds, steps)
        self._door: Door[W] = Door(cost, self._forecast, tuning)
        self._busy: dict[Hashable, float] = {}  # workers: until when
        self._own: dict[Hashable, float] = {}  # those that ran batches of this version: from when they are free
        self._batches = 1e-9  # usual batch: faded count and seconds
        self._batch_seconds = 0.0
        self._until_renewal = RENEW_EVERY
        self._since_late = 0  # batches
        self._version = -1
        self._squeezed = 1.0
        self.renew()

    @property
    def shares(self) -> Mapping[Hashable, float]:
        """What each tenant's share weighs; 1 for those not named."""
        return self._door.shares

    @shares.setter
    def shares(self, shares: Mapping[Hashable, float]) -> None:
        self._door.shares = shares

    def renew(self) -> None:
        """Work out anew what depends on the cost model, the number of workers and the limits."""
        self._until_renewal = RENEW_EVERY
        self._version = self.cost.version
        self._margin = self.cost.margin
        workers = max(1.0, self.workers * self.portion)
        # A later arrival must still fit behind a batch that starts just before it, on whichever worker is free first.
        self._longest = max(
            self.tuning.longest * self._forecast.patience * workers / (workers + 1), 1.1 * self._forecast.typical
        )
        limits = self._forecast.bounds = self._limits()
        self._forecast.renew(self._longest)
        self._door.forget_the_gone()
        self._sight = Sight(
            self.cost,
            self.steps,
            limits,
            self._longest,
            self._margin,
            self.tuning.company,
            self.tuning.readiness,
            self._forecast.shares,
        )

    def _limits(self) -> Bounds:
        """The bounds of a batch for the time being: what memory is left for, on the device and beside it."""
        share, bounds = self._squeezed, self.bounds
        rows, tokens, size = (max(1, int(share * most)) for most in (bounds.rows, bounds.tokens, bounds.size))
        return Bounds(rows, min(tokens, self.ceiling.tokens), size)

    def squeeze(self, share: float) -> None:
        """Keep batches to this share of their bounds from now on; 1 = as usual."""
        self._squeezed = min(1.0, max(0.0, share))
        self.renew()

    # The queue

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[W]:
        for place in self._places.values():
            yield place.entry

    def patience(self, rows: int, length: int) -> float:
        """How long after its arrival an answer is in time."""
        return max(self.target, 3 * self._alone(rows, length))

    def _alone(self, rows: int, length: int, worker: Hashable = None) -> float:
        return self.cost.seconds(rows, self.steps.round(length), worker)

    def submit(self, entry: W, now: float) -> Refusal | None:
        """Let it wait, unless what is due before it leaves no time for it."""
        self.steps.arrived(entry.length)
        place = self._place(entry)
        self._forecast.arrived(entry.length, place.work, entry.due - now, now)
        refusal = self._door.refusal(place, self._rate(), now)
        if refusal is None:
            self._add(place)
        return refusal

    def restore(self, entry: W, now: float) -> None:
        """Put back what was taken but not computed."""
        self._add(self._place(entry))

    def remove(self, entry: W) -> None:
        """Somebody else answered it."""
        place = self._places.get(entry.sequence)
        if place is not None and place.entry is entry:
            self._drop(place)

    def clear(self) -> None:
        """Somebody else answered everything: begin with an empty queue, whatever state this one is in."""
        self._timely, self._late = Queue(), Queue()
        self._places.clear()
        self._door.clear()
        self._forecast.clear()

    def urgency(self, now: float) -> tuple[bool, float]:
        """Whether there is nothing but what is late anyway, and the latest start of the most urgent entry: the smaller,
        the more urgent."""
        anchor = self._neglected(now) or self._timely.anchor()
        if anchor is not None:
            return False, anchor.urgency
        late = self._late.anchor()
        return True, late.urgency if late is not None else math.inf

    def _neglected(self, now: float) -> Place[W] | None:
        """Who is late and has waited so long that it runs although timely work waits, lest it wait for ever."""
        late = self._late.anchor()
        if late is None or self._since_late < LATE_EVERY:
            return None
        entry = late.entry
        return late if now - entry.arrival > LATE_PATIENCES * self.patience(entry.rows, entry.length) else None

    def _place(self, entry: W) -> Place[W]:
        half = self.target / 2
        shift = MOST_SHIFT * max(-half, min(half, entry.shift))
        urgency = entry.due - self._margin * self._alone(entry.rows, entry.length) + shift
        work = self._forecast.least(entry.rows, entry.length)
        return Place(entry, entry.due, urgency, work, self._forecast.span(entry.due + shift))

    def _add(self, place: Place[W]) -> None:
        entry = place.entry
        self._places[entry.sequence] = place
        self._timely.add(place)
        self._forecast.add(place)
        self._door.entered(place)

    def _drop(self, place: Place[W]) -> None:
        group = place.group
        assert group is not None
        if place.timely:
            self._forecast.take((place,))
            self._timely.remove(place)
        else:
            self._late.remove(place)
        del self._places[place.entry.sequence]

    def _rate(self) -> float:
        """Least seconds of work done per second. Without a worker, by the one that will come back."""
        return max(self.workers, 1.0) * max(self.portion, 1e-3) * self._forecast.achieved

    def _give_up(self, place: Place[W]) -> W:
        self._drop(place)
        return place.entry

    # The choice

    def choose(self, worker: Hashable, now: float, idle: int = 1) -> Decision[W]:
        """What this idle worker should run; notes that it is busy with it."""
        self._busy.pop(worker, None)
        if self._until_renewal <= 0 or self._version != self.cost.version:
            self.renew()
        given = [self._give_up(place) for place in self._door.leaving()]
        crowded = self._crowded(now)
        neglected = None if crowded else self._neglected(now)
        if neglected is not None:
            return self._run(self._late_window(neglected, worker, now), worker, now, given)
        window, until = self._timely_window(worker, now, idle, crowded, given)
        while (late := self._late.anchor()) is not None and crowded:
            given.append(self._give_up(late))
        if window is None and until is None and late is not None:
            # Nothing timely waits: time for what is late, most urgent first.
            window = self._late_window(late, worker, now)
        if window is None:
            return Decision(given_up=tuple(given), until=until)
        return self._run(window, worker, now, given)

    def _late_window(self, late: Place[W], worker: Hashable, now: float) -> Window[W]:
        assert late.group is not None
        return look(late.group, late.group.find(late), now, worker, self._sight, late=True)

    def _crowded(self, now: float) -> bool:
        """Whether more urgent work waits than can be done in time."""
        forecast = self._forecast
        limit = self.tuning.crowd * max(1.0, self.workers * self.portion) * forecast.patience
        if forecast.waiting <= limit or self.cost.young:
            return False
        return forecast.due_within(forecast.span(now + forecast.patience)) > limit

    def _timely_window(
        self, worker: Hashable, now: float, idle: int, crowded: bool, given: list[W]
    ) -> tuple[Window[W] | None, float | None]:
        for anchor in self._timely:
            entry, left = anchor.entry, anchor.due - now
            needed = self._alone(entry.rows, entry.length, worker)
            # With nobody else waiting there is nothing to lose: then it need not even be likely to be in time.
            if left < (needed if len(self._timely) == 1 else needed * self._margin):
                if self._another_can(anchor, worker, now):
                    continue
                if crowded:
                    given.append(self._give_up(anchor))
                else:
                    self._make_late(anchor)
                continue
            group = anchor.group
            assert group is not None
            window = look(group, group.find(anchor), now, worker, self._sight, compare=crowded)
            if window.bolder is not None and window.bolder.efficiency > self.tuning.bold * window.efficiency:
                spared = self._door.spared(now + self._margin * window.bolder.seconds, self._rate())
                if spared is None:
                    return window.bolder, None
                assert spared.group is not None
                anchor, group = spared, spared.group
                window = look(group, group.find(anchor), now, worker, self._sight)
            until = self._hold(window, worker, now, idle)
            return (None, until) if until is not None else (self._spread_out(window, anchor, worker, idle), None)
        return None, None

    def _another_can(self, anchor: Place[W], worker: Hashable, now: float) -> bool:
        """Whether another worker will be in time with it."""
        rows, length = anchor.entry.rows, self.steps.round(anchor.entry.length)
        return any(
            other != worker
            and self._busy.get(other, math.inf) > now  # one that is overdue may never end
            and max(free, now) + self.cost.seconds(rows, length, other) <= anchor.due
            for other, free in self._own.items()
        )

    def _make_late(self, place: Place[W]) -> None:
        """It will not be in time: let it wait apart, until nothing else does or there is no room for it."""
        entry = place.entry
        self._timely.remove(place)
        self._forecast.take((place,))
        due = place.due + self.patience(entry.rows, entry.length)
        late = Place(entry, due, place.urgency + due - place.due, place.work, place.span)
        late.timely = False
        self._places[entry.sequence] = late
        self._late.add(late)

    def _hold(self, window: Window[W], worker: Hashable, now: float, idle: int) -> float | None:
        """The last idle worker is precious: until when to wait for others to finish, and for company, before a batch
        behind which a new arrival could not be in time."""
        if idle > 1 or window.efficiency >= self.tuning.good:
            return None
        margin, forecast = self._margin, self._forecast
        seconds = margin * window.seconds
        others = [until - now for other, until in self._busy.items() if until > now]
        if len(others) < round(self.workers) - 1:
            return None
        free = min([*others, seconds])
        usual = self.tuning.hold * self._batch_seconds / self._batches
        over = free + max(seconds, forecast.typical, margin * usual) - forecast.patience
        if over <= 0:
            return None
        wait = window.slack - 0.02 * forecast.patience
        if others and free < seconds:
            wait = min(wait, over)
        return now + wait if wait > LEAST_WAIT else None

    def _spread_out(self, window: Window[W], anchor: Place[W], worker: Hashable, idle: int) -> Window[W]:
        """With several workers idle a window is cut into parts to be computed side by side, where that takes less
        time: the part around the anchor is this worker's."""
        count = window.end - window.first
        parts = min(idle, count)
        if parts < 2:
            return window
        group = window.group
        part = (group.find(anchor) - window.first) * parts // count
        # The first place whose part this is, and the first of the next.
        first = window.first - (-part * count // parts)
        end = window.first - (-(part + 1) * count // parts)
        rows = int(sum(group.rows[first:end]))
        length = self.steps.round(group.lengths[end - 1])
        seconds = self.cost.seconds(rows, length, worker)
        if seconds > self.tuning.spread_out * window.seconds:
            return window
        return replace(window, first=first, end=end, rows=rows, length=length, seconds=seconds)

    def _run(self, window: Window[W], worker: Hashable, now: float, given: list[W]) -> Decision[W]:
        group = window.group
        queue = self._timely if group.places[window.first].timely else self._late
        choice = len(group) > 2 * (window.end - window.first)
        gone = queue.cut(group, window.first, window.end)
        self._since_late = self._since_late + 1 if queue is self._timely else 0
        for place in gone:
            del self._places[place.entry.sequence]
        if queue is self._timely:
            self._forecast.take(gone)
            if window.passes_over:
                given.extend(gone[index].entry for index in sorted(window.passes_over))
                gone = [place for index, place in enumerate(gone) if index not in window.passes_over]
            if choice:
                self._forecast.ran(sum([place.work for place in gone]), window.seconds)
        entries = tuple([place.entry for place in gone])
        self._busy[worker] = self._own[worker] = now + window.seconds
        self._batches = 0.98 * self._batches + 1
        self._batch_seconds = 0.98 * self._batch_seconds + window.seconds
        return Decision(entries, window.rows, window.length, window.seconds, tuple(given))

    # What came of it

    def started(self, worker: Hashable, until: float) -> None:
        """A batch chosen ahead of time begins only now."""
        self._busy[worker] = self._own[worker] = until

    def finished(self, worker: Hashable, rows: int, length: int, seconds: float, now: float) -> None:
        """What a batch really took."""
        self._busy.pop(worker, None)
        self._own[worker] = now
        self.cost.observe(worker, rows, length, seconds)
        self._until_renewal -= 1
        if self.ceiling.passed(rows * length, now):
            self.renew()

    def failed(self, worker: Hashable, now: float) -> None:
        """A batch ended without a time worth learning from; the worker may be gone."""
        self._busy.pop(worker, None)
        self._own.pop(worker, None)

    def overflowed(self, tokens: int, now: float, *, alone: bool, again: bool) -> None:
        """A batch of so many padded tokens found no memory on its device, be it of one entry `alone`, or part of one
        that did not fit `again`. Later ones are smaller, unless all of this came of an entry that does not fit alone.
        """
        if not alone:
            self.ceiling.failed(tokens, now, again=again)
        elif again:
            self.ceiling.forgive()
        self.renew()

    def occupied(self, worker: Hashable, until: float | None) -> None:
        """The worker computes something else until then; None: not any more."""
        if until is None:
            self._busy.pop(worker, None)
        else:
            self._busy[worker] = until
        if worker in self._own:
            self._own[worker] = until or 0.0

    def demand(self, now: float) -> float:
        """Workers' time asked for per second, lately."""
        return self._forecast.demand(now)

    def utilisation(self, now: float) -> float:
        """Demand as part of what there is."""
        return self.demand(now) / max(self.workers * self.portion, 1e-9)
