"""Who is let in when there is too much work, and who, of a tenant beyond its share, has to leave for it.

An entry is refused when the work due before it, and a few entries like itself, cannot be done in the time it has: so
the costly are refused first. With several tenants each is let in up to its fair share of what can be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Generic

from sluice.scheduler.cost import Cost
from sluice.scheduler.decision import Refusal, Tuning
from sluice.scheduler.forecast import Forecast
from sluice.scheduler.queue import Place, W
from sluice.scheduler.tenants import LEAST_WEIGHT, fair_shares

LEAST_WAIT = 1e-4  # seconds not worth waiting


class Door(Generic[W]):
    """One live version's. `rate` is the least seconds of work that is done per second."""

    def __init__(self, cost: Cost, forecast: Forecast, tuning: Tuning) -> None:
        self.shares: Mapping[Hashable, float] = {}
        self._cost, self._forecast, self._tuning = cost, forecast, tuning
        self._places: dict[Hashable, deque[Place[W]]] = {}  # of each tenant; with gone ones, which are skipped
        self._owed = 0.0  # work to be given up for tenants that had less than their share

    def refusal(self, place: Place[W], rate: float, now: float) -> Refusal | None:
        """Why it is not let in; None if it is."""
        forecast, entry, tuning = self._forecast, place.entry, self._tuning
        room = tuning.admit * rate * (entry.due - now)
        room -= min(tuning.like * place.work, room / 2)
        # What is passed over is no tenant's in particular: several have to keep to their shares before it begins.
        several = len(forecast.by_tenant) > 1 or (entry.tenant is not None and entry.tenant not in forecast.by_tenant)
        shared = room / tuning.admit if several else room
        if forecast.waiting <= shared or self._cost.young:
            return None
        ahead = forecast.due_within(place.span)
        if ahead <= shared:
            return None
        if several:
            demands = dict(forecast.by_tenant)
            wanted = demands[entry.tenant] = demands.get(entry.tenant, 0.0) + place.work
            if wanted <= fair_shares(demands, min(ahead, room), self.shares)[entry.tenant]:
                if ahead > room:
                    self._owed += place.work
                return None
        return Refusal(max((ahead - room) / rate, LEAST_WAIT), "too much work waits to answer in time")

    def entered(self, place: Place[W]) -> None:
        """It waits inside now."""
        if place.entry.tenant is not None:
            places = self._places.setdefault(place.entry.tenant, deque())
            places.append(place)
            while not places[0].waiting:
                places.popleft()

    def leaving(self) -> Iterator[Place[W]]:
        """The newest of tenants beyond their share, for those let in although there was no room: each has to be given
        up before the next is asked for."""
        while self._owed > 0:
            held = self._forecast.by_tenant
            if len(held) < 2:
                self._owed = 0.0
                return
            most = max(held, key=lambda tenant: held[tenant] / max(self.shares.get(tenant, 1.0), LEAST_WEIGHT))
            places = self._places.get(most, deque())
            while places and not (places[-1].waiting and places[-1].timely):
                places.pop()
            if not places:
                self._owed = 0.0
                return
            place = places.pop()
            self._owed -= place.work
            yield place

    def spared(self, end: float, rate: float) -> Place[W] | None:
        """Who must start before this time although its tenant asks for no more than its share: the most urgent."""
        most: Place[W] | None = None
        for tenant in self._within_share(rate):
            places = self._places.get(tenant, deque())
            while places and not places[0].waiting:
                places.popleft()
            if places and places[0].urgency < min(end, most.urgency if most is not None else end):
                most = places[0]
        return most

    def _within_share(self, rate: float) -> set[Hashable]:
        """Tenants that ask for no more than their share of what can be done: others give way first."""
        held = self._forecast.by_tenant
        if len(held) < 2:
            return set()
        shares = fair_shares(held, rate * self._forecast.patience, self.shares)
        return {tenant for tenant, work in held.items() if work <= shares[tenant]}

    def forget_the_gone(self) -> None:
        """Tenants of whom nothing waits."""
        self._places = {key: places for key, places in self._places.items() if key in self._forecast.by_tenant}

    def clear(self) -> None:
        """Nobody is inside."""
        self._places.clear()
        self._owed = 0.0
