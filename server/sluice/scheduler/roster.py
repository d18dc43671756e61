"""Several models on the same workers: which of them an idle worker serves next, and how much of the workers' time each
may count on."""

from __future__ import annotations

import math
from collections.abc import Container, Hashable
from dataclasses import dataclass
from typing import Generic

from sluice.scheduler.policy import Decision, Policy
from sluice.scheduler.queue import W
from sluice.scheduler.tenants import fair_shares

RENEW_SECONDS = 1.0
LEAST_PORTION = 0.02


@dataclass(frozen=True, slots=True)
class Choice(Generic[W]):
    """What an idle worker should do, and for which model."""

    key: str
    decision: Decision[W]


class Roster(Generic[W]):
    """The most urgent model first; an entry's age makes it more urgent than any newer one, so none starves."""

    def __init__(self) -> None:
        self._policies: dict[str, Policy[W]] = {}
        self._running: dict[Hashable, tuple[str, float]] = {}  # worker -> whose batch, until when
        self._renewed = -math.inf

    def add(self, key: str, policy: Policy[W]) -> None:
        self._policies[key] = policy
        for worker, (_, until) in self._running.items():
            policy.occupied(worker, until)
        self._renewed = -math.inf

    def drop(self, key: str) -> None:
        """Its batches still running go on to occupy their workers for the others."""
        self._policies.pop(key, None)
        self._renewed = -math.inf

    def choose(self, worker: Hashable, now: float, keys: Container[str] | None, idle: int = 1) -> Choice[W] | None:
        """The most urgent model's batch; of those this worker holds, where `keys` says which. Where none has one to
        run, the decision that asks to be called again first; None where nothing waits for this worker."""
        self._free(worker)
        self._renew(now)
        waiting = sorted(
            (policy.urgency(now), key)
            for key, policy in self._policies.items()
            if len(policy) and (keys is None or key in keys)
        )
        held: Choice[W] | None = None
        for _, key in waiting:
            choice = Choice(key, self._policies[key].choose(worker, now, idle))
            if choice.decision.entries:
                self._occupy(worker, key, now + choice.decision.seconds)
                return choice
            if choice.decision.given_up:
                return choice
            if held is None or (choice.decision.until or math.inf) < (held.decision.until or math.inf):
                held = choice
        return held

    def started(self, key: str, worker: Hashable, until: float) -> None:
        """A batch chosen while the one before it ran begins only now."""
        if key in self._policies:
            self._policies[key].started(worker, until)
        self._occupy(worker, key, until)

    def finished(self, key: str, worker: Hashable, rows: int, length: int, seconds: float, now: float) -> None:
        self._free(worker)
        if key in self._policies:
            self._policies[key].finished(worker, rows, length, seconds, now)

    def failed(self, key: str, worker: Hashable, now: float) -> None:
        self._free(worker)
        if key in self._policies:
            self._policies[key].failed(worker, now)

    def _occupy(self, worker: Hashable, key: str, until: float) -> None:
        self._running[worker] = (key, until)
        for other, policy in self._policies.items():
            if other != key:
                policy.occupied(worker, until)

    def _free(self, worker: Hashable) -> None:
        if self._running.pop(worker, None) is not None:
            for policy in self._policies.values():
                policy.occupied(worker, None)

    def _renew(self, now: float) -> None:
        """Portions: what each asked for lately, and an equal part of what is left over."""
        if now < self._renewed + RENEW_SECONDS:
            return
        self._renewed = now
        count = len(self._policies)
        if count == 1:
            portions = dict.fromkeys(self._policies, 1.0)
        else:
            demands = {
                key: policy.demand(now) / max(policy.workers, 1.0) + LEAST_PORTION
                for key, policy in self._policies.items()
            }
            portions = fair_shares(demands, 1.0, {})
            spare = max(0.0, 1.0 - sum(portions.values())) / max(1, count)
            portions = {key: portion + spare for key, portion in portions.items()}
        for key, policy in self._policies.items():
            if abs(policy.portion - portions[key]) > 0.02:
                policy.portion = portions[key]
                policy.renew()
