"""Several models on the same workers."""

from collections import Counter

import pytest
from waiting import TARGET, Request, learned, policy, seconds, slow_seconds

from sluice.scheduler.policy import Bounds
from sluice.scheduler.roster import Roster

ONE = Bounds(rows=1, tokens=4096, size=1 << 30)


def roster(*keys: str) -> Roster[Request]:
    made: Roster[Request] = Roster()
    for key in keys:
        made.add(key, policy(bounds=ONE))
    return made


def test_nothing_waits() -> None:
    assert Roster[Request]().choose("a", 0.0, None) is None
    assert roster("x", "y").choose("a", 0.0, None) is None


def test_the_most_urgent_model_first() -> None:
    x, y = policy(), policy()
    made: Roster[Request] = Roster()
    made.add("x", x)
    made.add("y", y)
    x.submit(Request(0, due=0.9), 0.0)
    y.submit(Request(1, due=0.5), 0.0)
    found = [made.choose("a", 0.0, None), made.choose("b", 0.0, None)]
    assert [choice.key for choice in found if choice is not None] == ["y", "x"]


def test_a_worker_is_given_only_what_it_holds() -> None:
    x = policy()
    made: Roster[Request] = Roster()
    made.add("x", x)
    x.submit(Request(0), 0.0)
    assert made.choose("a", 0.0, {"y"}) is None
    choice = made.choose("a", 0.0, {"x"})
    assert choice is not None
    assert choice.decision.entries


def test_what_is_dropped_is_not_asked() -> None:
    x = policy()
    made: Roster[Request] = Roster()
    made.add("x", x)
    x.submit(Request(0), 0.0)
    made.drop("x")
    made.drop("x")
    assert made.choose("a", 0.0, None) is None
    made.finished("x", "a", 1, 10, 0.1, 0.1)
    made.failed("x", "a", 0.1)


def test_none_starves_beside_a_flood() -> None:
    x, y = policy(bounds=ONE), policy(bounds=ONE)
    made: Roster[Request] = Roster()
    made.add("x", x)
    made.add("y", y)
    now, number = 0.0, 0
    served: Counter[str] = Counter()
    for turn in range(1000):
        for key, one, count in (("x", x, 5), ("y", y, turn % 20 == 0)):
            for _ in range(count):
                number += 1
                one.submit(Request(number, 10, now, now + TARGET, tenant=key), now)
        choice = made.choose("a", now, None)
        assert choice is not None
        now += seconds(1, 10)
        if choice.decision.entries:
            served[choice.key] += 1
            made.finished(choice.key, "a", 1, choice.decision.length, seconds(1, 10), now)
    assert served["y"] >= 30  # of 50: what came within the last target may wait still


@pytest.mark.parametrize(("ratio", "low", "high"), [(1, 0.4, 0.6), (9, 0.0, 0.3)])
def test_portions_follow_demand(ratio: int, low: float, high: float) -> None:
    x, y = policy(learned(slow_seconds), bounds=ONE), policy(learned(slow_seconds), bounds=ONE)
    made: Roster[Request] = Roster()
    made.add("x", x)
    made.add("y", y)
    now, number = 0.0, 0
    for turn in range(2000):
        for one, wanted in ((x, True), (y, turn % ratio == 0)):
            if wanted:
                number += 1
                one.submit(Request(number, 100, now, now + TARGET), now)
        now += 0.03
        choice = made.choose("a", now, None)
        if choice is not None and choice.decision.entries:
            made.finished(choice.key, "a", 1, 100, slow_seconds(1, 100), now)
    assert low <= y.portion <= high
    assert x.portion + y.portion == pytest.approx(1.0, abs=0.1)
    made.drop("x")
    made.choose("a", now, None)
    assert y.portion == 1.0


def test_a_model_alone_counts_on_everything() -> None:
    x = policy()
    made: Roster[Request] = Roster()
    made.add("x", x)
    x.submit(Request(0), 0.0)
    made.choose("a", 0.0, None)
    assert x.portion == 1.0
