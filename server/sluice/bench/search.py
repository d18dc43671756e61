"""The search for the largest rate that a server holds: tells which rate to try next, and learns how it went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Search:
    """Doubles (or halves) until one rate held and one did not, then closes in between them.

    A rate counts as not held only when it failed `tries` times, because a machine that is shared fails now and then.
    """

    start: float
    precision: float = 1.05  # ends when the smallest failing rate is no more than this above the largest one held
    most_steps: int = 12
    tries: int = 1
    growth: float = 2.0
    held: float = 0.0
    failed: float = 0.0  # 0 = none yet
    steps: int = 0
    _fails: int = 0

    def next_rate(self) -> float | None:
        """The rate to try; None when the search is over."""
        if self.steps >= self.most_steps or (self.held and self.failed and self.failed <= self.held * self.precision):
            return None
        if not self.held and not self.failed:
            return self.start
        if not self.failed:
            return self.held * self.growth
        if not self.held:
            return self.failed / self.growth
        return float((self.held * self.failed) ** 0.5)

    def tell(self, rate: float, held: bool) -> None:
        self.steps += 1
        if held:
            self.held, self._fails = max(self.held, rate), 0
            return
        self._fails += 1
        if self._fails >= self.tries:
            self.failed, self._fails = (min(self.failed, rate) if self.failed else rate), 0
