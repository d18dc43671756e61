"""Tells when memory that grew for a rare giant is no longer used by what runs now, so that it can be given back."""

from __future__ import annotations

# Within 32 uses traffic shows what it needs, and giving back at most once in so many costs nothing measurable: an
# arena that shrinks after every run costs 14-22 % of the runs' speed, hence less than 1 % even at its most frequent.
WINDOW = 32
# Ordinary batches differ from each other less than this; what is below stays in hand.
FACTOR = 4


class HighWater:
    """The largest use of some memory since it was last given back, and the largest lately."""

    def __init__(self) -> None:
        self._highest = 0
        self._recent = 0
        self._uses = 0

    def use(self, size: int) -> int | None:
        """Note a use of `size`. When a window of uses ends that needed less than a quarter of what was needed before,
        the answer is the most that they needed: whatever lies above can be given back."""
        self._recent = max(self._recent, size)
        self._uses += 1
        if self._uses < WINDOW:
            return None
        recent, highest = self._recent, max(self._highest, self._recent)
        fallen = highest > FACTOR * recent
        self._highest, self._recent, self._uses = (recent if fallen else highest), 0, 0
        return recent if fallen else None
