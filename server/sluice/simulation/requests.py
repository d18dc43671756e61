"""A simulated request: what the scheduler's pure core asks of an entry, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from sluice.errors import SluiceError

MODEL = "model"  # the name of the only model
PRIORITY = 5  # of requests that name none, as in the server


class SimulationError(SluiceError):
    """What was asked cannot be simulated, or a rule broke a law of the simulation."""

    reason = "simulation"


class Outcome(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    ANSWERED = "answered"
    REFUSED = "refused"  # at the door
    GIVEN_UP = "given up"  # by the rule, after it had waited
    EXPIRED = "expired"  # its client's deadline passed


ENDS = (Outcome.ANSWERED, Outcome.REFUSED, Outcome.GIVEN_UP, Outcome.EXPIRED)


@dataclass(slots=True, eq=False)
class Request:
    """Times are seconds from the start; `due` is what the rule is told, `wanted` what it is judged by."""

    sequence: int
    arrival: float
    length: int
    rows: int = 1
    model: str = MODEL
    deadline: float = math.inf  # the client's own
    shift: float = 0.0
    tenant: Hashable = None
    priority: int = PRIORITY
    size: int = 0
    group: Hashable = None
    losses: int = 0
    lone_losses: int = 0
    due: float = math.inf
    wanted: float = math.inf
    outcome: Outcome = Outcome.WAITING
    ended: float = math.inf

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def in_time(self) -> bool:
        return self.outcome is Outcome.ANSWERED and self.ended <= self.wanted
