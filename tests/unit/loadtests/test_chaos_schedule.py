from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loadtests.chaos.schedule import BY_NAME, GAP, KINDS, draw


def test_the_same_seed_gives_the_same_faults_and_another_seed_others() -> None:
    assert draw(1, 60, 50) == draw(1, 60, 50)
    assert draw(1, 60, 50) != draw(2, 60, 50)


@given(st.integers(0, 1000), st.floats(10, 600), st.integers(1, 300))
def test_faults_come_in_order_within_the_time_and_with_room(seed: int, seconds: float, count: int) -> None:
    faults = draw(seed, seconds, count)
    assert len(faults) <= count
    times = [fault.at for fault in faults]
    assert times == sorted(times)
    assert all(0 <= at <= seconds for at in times)
    by_kind = defaultdict(list)
    for fault in faults:
        by_kind[fault.kind].append(fault.at)
    for kind, ats in by_kind.items():
        assert len(ats) <= BY_NAME[kind].most
        assert all(b - a >= BY_NAME[kind].room for a, b in pairwise(ats))


def test_every_kind_comes_as_often_as_its_weight_says() -> None:
    found = Counter(fault.kind for seed in range(5) for fault in draw(seed, 600, 560))
    assert set(found) == {kind.name for kind in KINDS}
    total, weights = sum(found.values()), sum(kind.weight for kind in KINDS)
    assert total == pytest.approx(5 * 560, rel=0.05)
    for kind in KINDS:
        if kind.most > 1000 and not kind.room:
            assert found[kind.name] / total == pytest.approx(kind.weight / weights, rel=0.5)


def test_most_faults_that_take_a_worker_leave_time_to_come_back() -> None:
    costly = [fault.at for fault in draw(1, 120, 140) if BY_NAME[fault.kind].costs]
    crowded = sum(b - a < GAP for a, b in pairwise(costly))
    assert len(costly) > 25
    assert 0 < crowded < 0.4 * len(costly)


def test_only_the_kinds_asked_for_are_drawn() -> None:
    assert {fault.kind for fault in draw(1, 60, 20, [BY_NAME["kill"], BY_NAME["storm"]])} == {"kill", "storm"}


def test_no_kind_has_a_name_twice() -> None:
    assert len(BY_NAME) == len(KINDS)
