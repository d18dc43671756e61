"""When a worker that died is started again: a table of named cases, decided with `now` as an argument.

The law of this file: it starts nothing and knows no process. What it decides follows from how this worker's lives
ended and from how many other workers run; the cases are asked in the order of the table, and the first that fits
decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

# A life that lasted this long or computed so many batches of requests has proven that its worker can: its death is not
# part of a crash loop.
PROVEN_SECONDS = 10.0
PROVEN_BATCHES = 10
# Several that start at once read the same files and wake the same device: each waits for those before it.
STAGGER = 0.1
# A crash loop's second death waits this long, each further one twice as long.
_FIRST_BACKOFF = 0.2
_LONGEST_BACKOFF = 30.0
# Of a worker that served until a request killed it: what kills it is given up after a few deaths.
_LONGEST_AFTER_SERVING = 5.0
# With no other worker left nothing is answered at all.
_LONGEST_ALONE = 1.0
# A device that failed so often within so many seconds is broken. It is tried again later and later.
FAULTS = 3
FAULT_WINDOW = 600.0
_OUT_SECONDS = 300.0
_LONGEST_OUT = 3600.0


class Cause(StrEnum):
    """Why a process ended; the label of the metric that counts restarts."""

    DIED = "died"
    HUNG = "hung"
    DEVICE = "device"
    RECYCLED = "recycled"
    MEMORY = "memory"


class Case(StrEnum):
    """What a death means for the next start."""

    DEVICE_GONE = "device gone"
    NOT_SPAWNED = "it cannot be started"
    CRASH_LOOP_ALONE = "crash loop, none left"
    CRASH_LOOP = "crash loop"
    NONE_LEFT = "none left"
    SEVERAL_DIED = "several died"
    ONE_DIED = "one died"


@dataclass(frozen=True, slots=True)
class Death:
    """How a life ended."""

    cause: Cause
    seconds: float  # that it lasted
    batches: int  # of requests that it computed
    served: bool  # it came so far that it could be given requests
    blames_device: bool = False  # no request explains it
    spawned: bool = True  # there was a process at all

    @property
    def proven(self) -> bool:
        return self.seconds >= PROVEN_SECONDS or self.batches >= PROVEN_BATCHES


@dataclass(frozen=True, slots=True)
class Others:
    """The other workers at that moment."""

    running: int
    down: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The next life begins in so many seconds."""

    case: Case
    pause: float


_MOST_DOUBLINGS = 32  # beyond every bound that there is


@dataclass(frozen=True, slots=True)
class _Situation:
    death: Death
    others: Others
    in_a_row: int  # deaths without a proof between them, this one included
    faults: int  # of the device within the window
    outages: int  # how often the device was out of service already

    @property
    def looping(self) -> bool:
        return self.in_a_row > 1

    @property
    def backoff(self) -> float:
        longest = _LONGEST_AFTER_SERVING if self.death.served else _LONGEST_BACKOFF
        return min(longest, _FIRST_BACKOFF * 2.0 ** min(self.in_a_row - 2, _MOST_DOUBLINGS))


_Rule = tuple[Case, Callable[[_Situation], bool], Callable[[_Situation], float]]
_RULES: tuple[_Rule, ...] = (
    (
        Case.DEVICE_GONE,
        lambda now: now.faults >= FAULTS,
        lambda now: min(_LONGEST_OUT, _OUT_SECONDS * 2.0 ** min(now.outages, _MOST_DOUBLINGS)),
    ),
    # The system is short of something. Asking again costs next to nothing.
    (Case.NOT_SPAWNED, lambda now: not now.death.spawned, lambda now: 1.0),
    (
        # What kills the only worker at its start, as a model that cannot be loaded, is no reason to hurry.
        Case.CRASH_LOOP_ALONE,
        lambda now: now.looping and not now.others.running and now.death.served,
        lambda now: min(_LONGEST_ALONE, now.backoff),
    ),
    (Case.CRASH_LOOP, lambda now: now.looping, lambda now: now.backoff),
    (Case.NONE_LEFT, lambda now: not now.others.running, lambda now: 0.0),
    (Case.SEVERAL_DIED, lambda now: now.others.down > 0, lambda now: min(1.0, STAGGER * now.others.down)),
    (Case.ONE_DIED, lambda now: True, lambda now: 0.0),
)


class Restarts:
    """One worker's deaths, and what follows from them."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._faults: deque[float] = deque(maxlen=FAULTS)
        self._outages = 0

    def died(self, death: Death, others: Others, now: float) -> Verdict:
        self._in_a_row = 1 if death.proven else self._in_a_row + 1
        if death.blames_device:
            self._faults.append(now)
        faults = self.faults(now)
        if death.proven and not faults:
            self._outages = 0
        situation = _Situation(death, others, self._in_a_row, faults, self._outages)
        case, pause = next((case, pause(situation)) for case, fits, pause in _RULES if fits(situation))
        if case is Case.DEVICE_GONE:
            self._outages += 1
            # It comes back on probation: one more fault soon after takes it out of service again.
            self._faults.popleft()
            self._in_a_row = 0
        return Verdict(case, pause)

    def faults(self, now: float) -> int:
        """Faults of the device within the window."""
        return sum(now - at <= FAULT_WINDOW for at in self._faults)
