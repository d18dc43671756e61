"""A circuit breaker: when so much fails that nothing more should be tried, and when to try again.

It decides and does nothing: it has no clock and no tasks, the time is an argument, and it knows neither requests nor
workers. Its owner tells it outcomes, refuses what it does not allow, and runs the probe when it says that one may run.
All changes of phase are in one table. Outcomes count only while the circuit is closed: what was under way when it
opened says nothing about the time after.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_BUCKETS = 10
# Said by an open circuit whose pause is over: its probe is under way or about to be.
_SOON = 0.1


class Phase(StrEnum):
    CLOSED = "closed"
    IN_DOUBT = "in_doubt"  # as closed, until a probe has told whose fault it is
    OPEN = "open"
    HALF_OPEN = "half_open"


class Event(StrEnum):
    DOUBTED = "doubted"
    TRIPPED = "tripped"
    PROBING = "probing"
    PROBE_PASSED = "probe_passed"
    PROBE_FAILED = "probe_failed"


# What is not in the table changes nothing.
TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.CLOSED, Event.DOUBTED): Phase.IN_DOUBT,
    (Phase.IN_DOUBT, Event.PROBE_PASSED): Phase.CLOSED,
    (Phase.IN_DOUBT, Event.PROBE_FAILED): Phase.OPEN,
    (Phase.IN_DOUBT, Event.TRIPPED): Phase.OPEN,
    (Phase.CLOSED, Event.TRIPPED): Phase.OPEN,
    (Phase.OPEN, Event.PROBING): Phase.HALF_OPEN,
    (Phase.HALF_OPEN, Event.PROBE_PASSED): Phase.CLOSED,
    (Phase.HALF_OPEN, Event.PROBE_FAILED): Phase.OPEN,
    (Phase.HALF_OPEN, Event.TRIPPED): Phase.OPEN,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """Opens when at least `least` outcomes are within `window` seconds and `share` of them are failures, or after
    `grave` grave failures without a success, however long they took: what hangs makes few outcomes. With `doubt` only
    if a probe fails as well: the outcomes of requests are also what their senders make of them."""

    window: float = 10.0
    least: int = 20
    share: float = 0.5
    grave: int = 5
    pause: float = 1.0
    longest_pause: float = 30.0
    doubt: bool = False


class Breaker:
    """One circuit. The pause before a probe doubles with each that fails."""

    def __init__(self, rule: Rule = Rule()) -> None:
        self._rule = rule
        self._window = _Window(rule.window)
        self._pause = rule.pause
        self._grave = 0  # since the last success
        self.phase = Phase.CLOSED
        self.reason = ""
        self.opened_at = float("-inf")

    def succeeded(self, now: float) -> None:
        if self.phase is Phase.CLOSED:
            self._grave = 0
            self._window.add(now, failed=False)

    def failed(self, now: float, reason: str, grave: bool = False) -> None:
        """`grave`: it cost more than its own time, such as a worker."""
        if self.phase is not Phase.CLOSED:
            return
        self._grave += grave
        self._window.add(now, failed=True)
        failures, outcomes = self._window.counts(now)
        if outcomes >= self._rule.least and failures >= self._rule.share * outcomes:
            said = f"{failures} of {outcomes} failed within {self._rule.window:g} s"
        elif self._grave >= self._rule.grave:
            said = f"{self._grave} failed gravely and none succeeded"
        else:
            return
        event = Event.DOUBTED if self._rule.doubt else Event.TRIPPED
        self._move(event, now, f"{said}, the last one: {reason}" if reason else said)

    def trip(self, now: float, reason: str) -> None:
        """Open at once, whatever the rates say."""
        self._move(Event.TRIPPED, now, reason)

    def allows(self, now: float) -> bool:
        """Whether live work may pass. A half-open circuit takes probes only: no client's request is a guinea pig."""
        return self.phase in (Phase.CLOSED, Phase.IN_DOUBT)

    def retry_after(self, now: float) -> float:
        """Seconds until asking again makes sense; 0 while closed."""
        match self.phase:
            case Phase.CLOSED | Phase.IN_DOUBT:
                return 0.0
            case Phase.OPEN:
                return max(self.opened_at + self._pause - now, _SOON)
            case Phase.HALF_OPEN:
                return _SOON

    def may_probe(self, now: float) -> bool:
        """Whether there is a doubt or the pause is over; whoever then starts a probe says so with `probing`."""
        return self.phase is Phase.IN_DOUBT or (self.phase is Phase.OPEN and now >= self.opened_at + self._pause)

    def probing(self, now: float) -> None:
        self._move(Event.PROBING, now, self.reason)

    def probed(self, now: float, ok: bool, reason: str = "") -> None:
        event = Event.PROBE_PASSED if ok else Event.PROBE_FAILED
        self._move(event, now, "" if ok else reason or self.reason)

    def rates(self, now: float) -> tuple[int, int]:
        """Failures and all outcomes within the window, up to now."""
        return self._window.counts(now)

    def _move(self, event: Event, now: float, reason: str) -> None:
        before = self.phase
        after = TRANSITIONS.get((before, event))
        if after is None:
            return
        self.phase, self.reason = after, reason
        if after is Phase.OPEN:
            again = before is Phase.HALF_OPEN
            self._pause = min(2 * self._pause, self._rule.longest_pause) if again else self._rule.pause
            self.opened_at = now
        elif after is Phase.CLOSED:
            self._grave = 0
            self._window = _Window(self._rule.window)


class _Window:
    """Failures and outcomes of the last seconds, in a ring of buckets: the same memory whatever the traffic."""

    def __init__(self, length: float) -> None:
        self._width = length / _BUCKETS
        self._failures = [0] * _BUCKETS
        self._outcomes = [0] * _BUCKETS
        self._newest = 0

    def add(self, now: float, failed: bool) -> None:
        self._advance(now)
        place = self._newest % _BUCKETS
        self._outcomes[place] += 1
        self._failures[place] += failed

    def counts(self, now: float) -> tuple[int, int]:
        self._advance(now)
        return sum(self._failures), sum(self._outcomes)

    def _advance(self, now: float) -> None:
        """Empty the buckets passed on the way to that of now. Time that seems to go back stays put."""
        newest = int(now / self._width)
        if newest <= self._newest:
            return
        for bucket in range(max(self._newest, newest - _BUCKETS) + 1, newest + 1):
            self._failures[bucket % _BUCKETS] = self._outcomes[bucket % _BUCKETS] = 0
        self._newest = newest
