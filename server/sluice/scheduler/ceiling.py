"""How many padded tokens a batch may have on a device that ran out of memory: halved by each batch that did not fit,
raised again slowly by batches that did.

What is known not to fit is believed for a while, and for twice as long each time it turns out to be true still: memory
that somebody else took may come back, memory that is not there costs a retry ever more rarely.
"""

from __future__ import annotations

import math

LEAST_BELIEF = 60.0  # seconds
MOST_BELIEF = 3600.0
STEP_SECONDS = 1.0  # between two steps up
STEP = 1.125
NEAR = 0.5  # of the ceiling: smaller batches tell nothing about it
BELOW = 0.875  # of what did not fit: how far up while that is believed
_SAME = 0.75  # of what did not fit before: failing here again confirms it


class Ceiling:
    """One version's, on devices of one kind."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tokens = most
        self._before = most  # what a failure that was one request's own doing is undone to
        self._wall = math.inf  # what did not fit
        self._belief = LEAST_BELIEF
        self._until = -math.inf  # when that is no longer believed
        self._next_step = -math.inf

    def failed(self, tokens: int, now: float, *, again: bool = False) -> None:
        """A batch of so many tokens did not fit; `again`: it is a part of one that did not fit before."""
        if not again:
            self._before = self.tokens
            confirmed = self._wall < math.inf and now >= self._until and tokens >= _SAME * self._wall
            self._belief = min(MOST_BELIEF, 2 * self._belief) if confirmed else LEAST_BELIEF
        self._wall = tokens
        self._until = now + self._belief
        self._next_step = now + STEP_SECONDS
        self.tokens = max(1, min(self.tokens, tokens // 2))

    def forgive(self) -> None:
        """The last failure says nothing about other requests: one of that batch does not even fit alone."""
        self.tokens = max(self.tokens, self._before)
        self._wall, self._until = math.inf, -math.inf

    def passed(self, tokens: int, now: float) -> bool:
        """A batch of so many tokens fitted; whether that raised the ceiling."""
        if self.tokens >= self.most or tokens < NEAR * self.tokens or now < self._next_step:
            return False
        top = self.most if now >= self._until else min(self.most, int(BELOW * self._wall))
        raised = min(top, math.ceil(self.tokens * STEP))
        if raised <= self.tokens:
            return False
        self.tokens = raised
        self._next_step = now + STEP_SECONDS
        return True
