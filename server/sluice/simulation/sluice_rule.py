"""Our rule in the simulation: the server's own Roster, Policy and Cost, asked in the order in which the server asks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sluice.scheduler import blame
from sluice.scheduler.cost import Cost
from sluice.scheduler.policy import Policy, Tuning
from sluice.scheduler.roster import Roster
from sluice.scheduler.steps import EXACT, Steps
from sluice.scheduler.window import Bounds
from sluice.simulation.requests import PRIORITY, Request
from sluice.simulation.rule import Move, Setting
from sluice.simulation.worlds import World

# The server's own levels (`priority_levels` of a model), of which the fifth is the usual one.
_LEVELS = 10
# What is measured before the first request, within these tokens: lengths as in the server's warm-up.
_WARM_LENGTHS = (8, 32, 128)
_WARM_TOKENS = 16384
_WARM_ROWS = 256
_NO_LIMIT = 1 << 50


@dataclass(frozen=True, slots=True)
class Making:
    """How the server would be set."""

    longest: int = 512
    steps: Callable[[], Steps] = lambda: EXACT  # each model has its own
    tuning: Tuning = field(default_factory=Tuning)
    warm: bool = True


class Sluice:
    """One policy for each model, on one roster."""

    def __init__(self, setting: Setting, making: Making = Making()) -> None:
        self.policies: dict[str, Policy[Request]] = {}
        self.roster: Roster[Request] = Roster()
        self._deaths = 0
        bounds = Bounds(setting.most_rows, setting.most_tokens, _NO_LIMIT)
        noise = random.Random(setting.seed + 1)  # noqa: S311 (noise is no secret)
        for model, world in setting.worlds.items():
            cost = warmed(world, making.longest, setting.noise, noise) if making.warm else Cost()
            policy: Policy[Request] = Policy(cost, setting.target, bounds, making.steps(), making.tuning)
            policy.workers = setting.workers
            policy.shares = setting.shares
            policy.renew()
            self.policies[model] = policy
            self.roster.add(model, policy)

    def patience(self, request: Request) -> float | None:
        return self.policies[request.model].patience(request.rows, request.length)

    def arrive(self, request: Request, now: float) -> bool:
        policy = self.policies[request.model]
        request.shift = urgency_of(request.priority) * policy.target / 2
        return policy.submit(request, now) is None

    def remove(self, request: Request) -> None:
        self.policies[request.model].remove(request)

    def put_back(self, requests: Sequence[Request], now: float) -> None:
        """In halves, as the server does: the one that killed the worker shall not take others with it."""
        self._deaths += 1
        blame.died(requests)
        blame.regroup(requests, self._deaths)
        for request in requests:
            self.policies[request.model].restore(request, now)

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        choice = self.roster.choose(worker, now, None, idle)
        if choice is None:
            return None
        decision = choice.decision
        return Move(decision.entries, decision.rows, decision.length, choice.key, decision.given_up, decision.until)

    def finished(self, worker: int, move: Move, seconds: float, now: float) -> None:
        self.roster.finished(move.model, worker, move.rows, move.length, seconds, now)

    def failed(self, worker: int, move: Move, now: float) -> None:
        self.roster.failed(move.model, worker, now)

    def resized(self, workers: int, now: float) -> None:
        for policy in self.policies.values():
            policy.workers = workers
            policy.renew()


def urgency_of(priority: int) -> float:
    """From -1, the most urgent of the server's levels, over 0 to 1."""
    levels = PRIORITY - 1 if priority < PRIORITY else _LEVELS - PRIORITY
    return max(-1.0, min(1.0, (priority - PRIORITY) / levels))


def warmed(world: World, longest: int, noise: float, random: random.Random) -> Cost:
    """The cost as the profile of a warm-up tells it."""
    cost = Cost()
    for length in sorted({min(length, longest) for length in (*_WARM_LENGTHS, longest)}):
        rows = 1
        while rows <= _WARM_ROWS and rows * length <= max(_WARM_TOKENS, length):
            seconds = world.seconds(rows, length) * math.exp(random.gauss(0.0, noise))
            cost.profile(rows, length, seconds)
            rows *= 2
    cost.fit()
    return cost
