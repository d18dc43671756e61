"""The search for the largest rate held, as a pure function of what was measured so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CLEARLY = 0.95  # a share below which a rate is not tried again at once, but only if the search would end at it
_LAST_TRIES = 2  # of the rung that ends the search: one run may have been disturbed


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rates that are tried: rungs of equal ratio, of which rung 0 is the ceiling."""

    ceiling: float
    growth: float
    lowest: int
    highest: int

    def rate(self, rung: int) -> float:
        return self.ceiling * self.growth**rung


@dataclass(frozen=True, slots=True)
class Tally:
    """All that was sent at one rung."""

    requests: int = 0
    in_time: int = 0
    runs: int = 0
    best: float = 0.0  # share of its best run

    @classmethod
    def of(cls, requests: int, in_time: int) -> Tally:
        """One run."""
        return cls(requests, in_time, 1, in_time / requests if requests else 0.0)

    @property
    def share(self) -> float:
        return self.in_time / self.requests if self.requests else 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.in_time + other.in_time,
            self.runs + other.runs,
            max(self.best, other.best),
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """A rung is held when one of its runs held it; one that narrowly fails is tried again, up to `tries` times."""

    share: float
    tries: int

    def failed(self, tally: Tally) -> bool:
        return not self.held(tally) and (tally.runs >= self.tries or tally.best < CLEARLY)

    def held(self, tally: Tally) -> bool:
        return tally.best >= self.share


def tallies(runs: Iterable[tuple[int, Tally]]) -> dict[int, Tally]:
    """The runs at each rung, together."""
    found: dict[int, Tally] = {}
    for rung, tally in runs:
        found[rung] = found.get(rung, Tally()) + tally
    return found


def bracket(ladder: Ladder, tried: Mapping[int, Tally], rule: Rule) -> tuple[int, int]:
    """The highest rung held below the lowest one failed, and that; one beyond an end where there is none."""
    failed = min((rung for rung, tally in tried.items() if rule.failed(tally)), default=ladder.highest + 1)
    held = max((rung for rung, tally in tried.items() if rung < failed and rule.held(tally)), default=ladder.lowest - 1)
    return held, failed


def next_rung(ladder: Ladder, tried: Mapping[int, Tally], rule: Rule) -> int | None:
    """The rung to try next; None when the search is over."""
    held, failed = bracket(ladder, tried, rule)
    again = [
        rung
        for rung, tally in tried.items()
        if held < rung < failed and not rule.held(tally) and not rule.failed(tally)
    ]
    if again:
        return min(again)
    if failed - held > 1:
        return (held + failed) // 2
    return failed if failed in tried and tried[failed].runs < _LAST_TRIES else None


def held_rung(ladder: Ladder, tried: Mapping[int, Tally], rule: Rule) -> int | None:
    held, _ = bracket(ladder, tried, rule)
    return held if held >= ladder.lowest else None
