"""Padded lengths: never below the length, few where they are learned, and those that waste least."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.scheduler.steps import EXACT, MULTIPLES_OF_8, NEW_AFTER, Learned, Multiples, Steps, least_padding

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=60)


def padding(lengths: list[int], values: tuple[int, ...]) -> int:
    return sum(min(value for value in values if value >= length) - length for length in lengths)


def test_exact_and_multiples() -> None:
    assert EXACT.round(13) == 13
    assert [MULTIPLES_OF_8.round(length) for length in (1, 8, 9)] == [8, 8, 16]
    assert MULTIPLES_OF_8.round_all(np.array([1, 8, 9])).tolist() == [8, 8, 16]


@pytest.mark.parametrize("make", [lambda: Multiples(0), lambda: Learned(0, 8), lambda: Learned(4, 0)])
def test_nonsense_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError):
        make()


@given(LENGTHS, st.integers(1, 12))
def test_never_shorter_and_no_more_than_so_many(lengths: list[int], count: int) -> None:
    learned = Learned(count, 512)
    for length in lengths:
        learned.arrived(length)
    for chosen in (False, True):
        if chosen:
            learned.choose()
        assert len(learned.values) <= count
        assert learned.values[-1] == 512
        for length in lengths:
            assert learned.round(length) >= length
            assert learned.round(length) in learned.values or length > 512
        together = learned.round_all(np.array(lengths)).tolist()
        assert together == [learned.round(length) for length in lengths]


@given(st.lists(st.integers(1, 14), min_size=1, max_size=20), st.integers(1, 4))
def test_no_other_set_of_as_many_pads_less(lengths: list[int], count: int) -> None:
    chosen = least_padding(lengths, count, 14)
    others = itertools.combinations(range(1, 14), count - 1)
    assert padding(lengths, chosen) == min(padding(lengths, (*other, 14)) for other in others)


def test_many_lengths_are_chosen_well_enough() -> None:
    chance = random.Random(1)
    lengths = [min(5000, int(chance.lognormvariate(5, 1)) + 1) for _ in range(4000)]
    chosen = least_padding(lengths, 12, 5000)
    assert len(chosen) <= 12
    assert padding(lengths, chosen) < 0.25 * sum(lengths)


def test_traffic_is_learned_by_itself() -> None:
    learned = Learned(2, 512)
    for _ in range(NEW_AFTER):
        learned.arrived(17)
    assert learned.values == (17, 512)


def test_all_are_steps() -> None:
    every: list[Steps] = [EXACT, MULTIPLES_OF_8, Learned(3, 100)]
    assert all(steps.round(100) >= 100 for steps in every)
