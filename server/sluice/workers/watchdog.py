"""How long is too long: when a batch has hung, and when a worker that has nothing to do must prove that it still can.

Hung is not the same as slow: what is predicted to take long may take longer, and nobody's patience is without end.
"""

from __future__ import annotations

from dataclasses import dataclass

# Beyond this multiple of what was predicted it is not the prediction that is wrong. A machine shared with others was
# seen to take nine times as long for a batch.
_FACTOR = 20.0


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Seconds that a worker is given before it is killed."""

    hang: float  # for anything that should be short
    compute: float  # for anything at all
    interval: float  # without work, after which it is asked for a sign of life; 0 = never

    def batch(self, predicted: float) -> float:
        """For a batch of requests, predicted to take so long; 0 = nobody knows."""
        if not predicted:
            return self.compute
        return min(self.compute, max(self.hang, _FACTOR * predicted))

    @property
    def trial(self) -> float:
        """For what nobody can predict: warm-up, and measuring what batches cost."""
        return self.compute

    @property
    def sign_of_life(self) -> float:
        """For a batch that is as small as can be, or a mere answer."""
        return min(self.hang, self.compute)

    def beats(self, rested_since: float, now: float) -> bool:
        """Whether a worker that computed nothing since then should be asked for a sign of life."""
        return bool(self.interval) and now - rested_since >= self.interval

    def stands_still(self, stopped_since: float | None, now: float) -> bool:
        """Whether a process that the system says is stopped has been so for too long."""
        return stopped_since is not None and now - stopped_since >= self.hang
