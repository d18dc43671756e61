"""How long the server was short of workers, and after what. No clock: `now` is told."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outage:
    """A time with fewer warm workers than there should be."""

    began: float
    faults: list[str]
    last: float  # when the last of its faults struck
    ended: float = math.nan

    @property
    def seconds(self) -> float:
        """From the last fault: nobody is back before that."""
        return self.ended - self.last


@dataclass
class Recovery:
    """Told of faults and of how many workers are warm, it keeps the outages."""

    full: int
    outages: list[Outage] = field(default_factory=list)
    _open: Outage | None = None

    @property
    def recovering(self) -> bool:
        return self._open is not None

    def struck(self, now: float, fault: str) -> None:
        """Something took a worker away."""
        if self._open is None:
            self._open = Outage(now, [fault], now)
            self.outages.append(self._open)
        else:
            self._open.faults.append(fault)
            self._open.last = max(now, self._open.last)

    def seen(self, now: float, strength: int) -> None:
        """So many workers are warm."""
        if strength < self.full:
            if self._open is None:
                self.struck(now, "unknown")
        elif self._open is not None and now >= self._open.last:
            self._open.ended = now
            self._open = None

    def finished(self) -> list[Outage]:
        return [outage for outage in self.outages if not math.isnan(outage.ended)]

    def windows(self, now: float) -> list[tuple[float, float]]:
        return [(each.began, now if math.isnan(each.ended) else each.ended) for each in self.outages]


def by_kind(outages: Iterable[Outage]) -> dict[str, list[float]]:
    """Seconds to full strength after a fault that nothing else fell into, by its kind."""
    found: dict[str, list[float]] = {}
    for outage in outages:
        if len(outage.faults) == 1:
            found.setdefault(outage.faults[0], []).append(outage.seconds)
    return {kind: sorted(times) for kind, times in sorted(found.items())}
