"""Weighted max-min fairness."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.scheduler.tenants import fair_shares


def test_who_asks_for_little_gets_it_and_the_rest_is_shared() -> None:
    shares = fair_shares({"a": 1.0, "b": 9.0, "c": 9.0}, 7.0, {})
    assert shares == pytest.approx({"a": 1.0, "b": 3.0, "c": 3.0})


def test_weights() -> None:
    shares = fair_shares({"a": 9.0, "b": 9.0}, 8.0, {"b": 3.0})
    assert shares == pytest.approx({"a": 2.0, "b": 6.0})


AMOUNTS = st.floats(0, 1e3)


@given(st.dictionaries(st.integers(), AMOUNTS), AMOUNTS, st.dictionaries(st.integers(), st.floats(0.01, 100)))
def test_never_more_than_asked_for_nor_than_there_is(
    demands: dict[int, float], room: float, weights: dict[int, float]
) -> None:
    shares = fair_shares(demands, room, weights)
    assert set(shares) == set(demands)
    assert all(0 <= share <= demands[key] for key, share in shares.items())
    total = sum(shares.values())
    assert total == pytest.approx(min(room, sum(demands.values())), rel=1e-6, abs=1e-6)
    # Who got less than it asked for has no less, for its weight, than anybody else.
    levels = {key: share / max(weights.get(key, 1.0), 1e-9) for key, share in shares.items()}
    short = [levels[key] for key in demands if shares[key] < demands[key] * (1 - 1e-9)]
    if short:
        assert min(short) >= max(levels.values()) * (1 - 1e-6) - 1e-9
