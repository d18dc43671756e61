"""The cost model: it finds what a device is like, forgets what it was like, and is not fooled by a hiccup."""

import json
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import learned, seconds, slow_seconds

from sluice.scheduler.cost import MEMORY, Cost

Device = Callable[[int, int], float]
SHAPES = [(rows, length) for rows in (1, 3, 10, 30) for length in (10, 50, 200)]


def shape(chance: random.Random) -> tuple[int, int]:
    return chance.randint(1, 48), chance.choice((8, 24, 40, 90, 300))


def run(cost: Cost, device: Device, batches: int, seed: int = 0, noise: float = 0.05, worker: str = "a") -> None:
    chance = random.Random(seed)
    for _ in range(batches):
        rows, length = shape(chance)
        cost.observe(worker, rows, length, device(rows, length) * math.exp(chance.gauss(0, noise)))


def worst(cost: Cost, device: Device, worker: str | None = "a") -> float:
    return max(abs(math.log(cost.seconds(*one, worker) / device(*one))) for one in SHAPES)


@pytest.mark.parametrize("device", [seconds, slow_seconds])
def test_a_warm_up_is_enough(device: Device) -> None:
    assert worst(learned(device), device, None) < 0.03


@pytest.mark.parametrize("device", [seconds, slow_seconds])
def test_traffic_alone_is_enough(device: Device) -> None:
    cost = Cost()
    run(cost, device, 600)
    assert worst(cost, device) < 0.08


def test_it_starts_optimistic_and_young() -> None:
    cost = Cost()
    assert cost.young
    assert cost.seconds(1, 100) < 0.001
    run(cost, seconds, 40)
    assert not cost.young


def test_a_device_that_changes_is_learned_anew() -> None:
    cost = learned()
    run(cost, seconds, 300)

    def changed(rows: int, length: int) -> float:
        return 2e-3 + rows * length * 6e-6

    run(cost, changed, 2 * MEMORY, seed=1)
    assert worst(cost, changed) < 0.12


def test_a_device_that_slows_down_as_a_whole_is_known_at_once() -> None:
    cost = learned()
    run(cost, lambda rows, length: 1.5 * seconds(rows, length), 60)
    assert worst(cost, lambda rows, length: 1.5 * seconds(rows, length)) < 0.1
    assert cost.seconds(4, 50) == pytest.approx(1.5 * seconds(4, 50), rel=0.1)  # nor is it only this worker's matter


@pytest.mark.parametrize("factor", [0.01, 100.0, 1e6])
def test_one_hiccup_changes_little(factor: float) -> None:
    cost = learned()
    run(cost, seconds, 200)
    margin = cost.margin
    cost.observe("a", 4, 50, factor * seconds(4, 50))
    cost.fit()
    assert worst(cost, seconds) < 0.1
    assert cost.margin < 1.05 * margin


def test_some_hiccups_change_little() -> None:
    cost, chance = learned(), random.Random(5)
    for _ in range(600):
        one = shape(chance)
        cost.observe("a", *one, seconds(*one) * (10.0 if chance.random() < 0.05 else chance.gauss(1, 0.03)))
    assert worst(cost, seconds) < 0.15


def test_a_slow_worker_is_known_by_itself() -> None:
    cost = learned()
    for turn in range(100):
        run(cost, seconds, 1, turn, worker="a")
        run(cost, seconds, 1, turn + 1000, worker="c")
        run(cost, lambda rows, length: 2 * seconds(rows, length), 1, turn + 2000, worker="b")
    assert cost.speed("b") / cost.speed("a") == pytest.approx(2.0, rel=0.1)
    assert worst(cost, seconds) < 0.1
    assert worst(cost, seconds, None) < 0.1  # the usual worker is not slow


def test_a_cliff_is_seen() -> None:
    def cliff(rows: int, length: int) -> float:
        return seconds(rows, length) * (1.6 if rows * length > 2048 else 1.0)

    cost = learned(cliff)
    run(cost, cliff, 600)
    assert cost.seconds(40, 100) == pytest.approx(cliff(40, 100), rel=0.15)
    assert cost.seconds(4, 100) == pytest.approx(cliff(4, 100), rel=0.1)


def test_the_margin_is_exceeded_about_once_in_twenty() -> None:
    cost = learned()
    run(cost, seconds, 600, noise=0.1)
    assert 1.1 < cost.margin < 1.3


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 600), st.floats(1e-6, 10.0)), max_size=80))
def test_predictions_are_always_positive_and_the_same_by_table(samples: list[tuple[int, int, float]]) -> None:
    cost = Cost()
    for number, (rows, length, taken) in enumerate(samples):
        if number % 3:
            cost.observe("a", rows, length, taken)
        else:
            cost.profile(rows, length, taken)
    cost.fit()
    rows_of = np.array([1, 7, 64, 500], np.float32)
    lengths = np.array([1, 33, 512, 3000], np.float32)
    table = cost.times(rows_of * lengths, lengths, "a")
    for rows, length, found in zip(rows_of.tolist(), lengths.tolist(), table.tolist(), strict=True):
        assert 0 < found < math.inf
        assert cost.seconds(int(rows), int(length), "a") == pytest.approx(found, rel=1e-4)
    assert 1 <= cost.margin < 2


@pytest.mark.parametrize("taken", [0.0, -1.0, math.inf, math.nan])
def test_times_that_are_none_teach_nothing(taken: float) -> None:
    cost = learned()
    before = cost.state()
    cost.observe("a", 1, 10, taken)
    cost.profile(1, 10, taken)
    assert cost.state() == before


def test_the_state_survives_being_written_down() -> None:
    cost = learned()
    run(cost, seconds, 300)
    state = json.loads(json.dumps(cost.state()))
    again = Cost.restore(state)
    assert not again.young
    assert again.margin == cost.margin
    for one in SHAPES:
        assert again.seconds(*one) == pytest.approx(cost.seconds(*one), rel=1e-9)
    assert again.state() == state
    again.fit()
    assert worst(again, seconds, None) < 0.1


GOOD = learned().state()


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        "cost",
        GOOD | {"terms": [1.0]},
        GOOD | {"terms": [1.0, "x", 0.0]},
        GOOD | {"terms": [0.0, 0.0, 0.0], "floor": 0.0},
        GOOD | {"floor": -1.0},
        GOOD | {"floor": math.nan},
        GOOD | {"floor": True},
        GOOD | {"residual": [0.0]},
        GOOD | {"residual": None},
        GOOD | {"samples": [[1, 2]]},
        GOOD | {"samples": [[1, 2, -3.0]]},
        GOOD | {"samples": 5},
        GOOD | {"spread": math.inf},
        GOOD | {"largest": 0},
        {key: value for key, value in GOOD.items() if key != "typical"},
    ],
)
def test_nonsense_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match="not the state"):
        Cost.restore(state)


@given(
    st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_any_nonsense_is_refused(state: object) -> None:
    with pytest.raises(ValueError):
        Cost.restore(state)


def test_the_version_tells_of_refits() -> None:
    cost = learned()
    version = cost.version
    cost.fit()
    assert cost.version > version
