"""How long the scheduler's decisions take: arrivals, choices and refits, with few and many waiting.

    python -m loadtests.decision

Prints microseconds: the median and the 99th percentile of each. Goals: a decision in 200 µs, an arrival in 10 µs,
however many wait.
"""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import time
from collections.abc import Hashable
from dataclasses import dataclass

from sluice.scheduler.cost import Cost
from sluice.scheduler.policy import Bounds, Policy

WAITING = (10, 1_000, 10_000)
ROUNDS = 400
ROWS = 64  # of one batch at most: every entry that leaves costs half a microsecond more
TARGET = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """An entry as the policy sees it."""

    sequence: int
    length: int
    arrival: float
    due: float
    rows: int = 1
    size: int = 0
    group: Hashable = None
    shift: float = 0.0
    tenant: Hashable = None


def seconds(rows: int, length: int) -> float:
    """A device with a launch time, a knee and attention."""
    return 1e-3 + max(2e-3, rows * length * (2e-6 + 0.5e-9 * length))


def learned(chance: random.Random) -> Cost:
    cost = Cost()
    for length, rows in itertools.product((8, 32, 128, 512), (1, 2, 4, 8, 16, 32, 64, 128)):
        cost.profile(rows, length, seconds(rows, length) * chance.gauss(1, 0.05))
    cost.fit()
    return cost


class Stopwatch:
    """Times of one kind of action."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.times.append(time.perf_counter() - self._start)


def report(what: str, times: list[float]) -> None:
    ordered = sorted(times)
    high = ordered[int(0.99 * (len(ordered) - 1))]
    print(f"{what:34s} median {1e6 * statistics.median(ordered):8.1f} µs   99 % {1e6 * high:8.1f} µs")


def decisions(waiting: int, chance: random.Random) -> None:
    """Keep so many waiting: after each choice, as many arrive as left."""
    # So many workers that nothing is refused: the forecast is asked all the same.
    policy: Policy[Request] = Policy(learned(chance), TARGET, Bounds(rows=ROWS, tokens=65536, size=1 << 40))
    policy.workers = 64
    policy.renew()
    numbers = itertools.count()
    now = 0.0
    arrivals, choices = Stopwatch(), Stopwatch()
    for _ in range(ROUNDS):
        while len(policy) < waiting:
            length = max(1, min(512, int(chance.lognormvariate(3.2, 1.0))))
            request = Request(next(numbers), length, now, now + TARGET)
            with arrivals:
                refusal = policy.submit(request, now)
            if refusal is not None:
                raise RuntimeError("nothing may be refused here")
        with choices:
            policy.choose("worker", now, 1)
        now += 2e-4
    report(f"decision, {waiting} waiting", choices.times)
    report(f"arrival, {waiting} waiting", arrivals.times[waiting:])


def refits(chance: random.Random) -> None:
    cost = learned(chance)
    for _ in range(512):
        rows, length = chance.randint(1, 64), chance.randint(8, 256)
        cost.observe("worker", rows, length, seconds(rows, length) * chance.gauss(1, 0.05))
    policy: Policy[Request] = Policy(cost, TARGET, Bounds(rows=ROWS, tokens=65536, size=1 << 40))
    fits, renewals = Stopwatch(), Stopwatch()
    for _ in range(50):
        with fits:
            cost.fit()
        with renewals:
            policy.renew()
    report("refit of the cost model", fits.times)
    report("renewal of what depends on it", renewals.times)


def main() -> None:
    chance = random.Random(1)
    gc.disable()  # its pauses are another matter, and the server's collections are rare
    for waiting in WAITING:
        decisions(waiting, chance)
    refits(chance)


if __name__ == "__main__":
    main()
