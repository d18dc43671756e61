import pytest
from hypothesis import given
from hypothesis import strategies as st
from loadtests.chaos.drift import drift


def test_what_stands_still_does_not_drift() -> None:
    assert drift([(at, 300.0) for at in range(100)]).share == pytest.approx(0.0)


def test_only_the_last_half_counts() -> None:
    rising_first = [(float(at), min(at, 50) * 10.0) for at in range(101)]
    assert drift(rising_first).share == pytest.approx(0.0, abs=1e-9)


def test_a_rise_is_a_share_of_the_mean() -> None:
    found = drift([(float(at), 100.0 + at / 10) for at in range(101)])
    assert (found.start, found.end) == (50.0, 100.0)
    assert found.at_end - found.at_start == pytest.approx(5.0)
    assert found.share == pytest.approx(5.0 / 107.5)


@given(st.lists(st.floats(-1, 1), min_size=50, max_size=50))
def test_noise_drifts_no_more_than_it_is_wide(noise: list[float]) -> None:
    assert abs(drift([(float(at), 1000.0 + each) for at, each in enumerate(noise)]).share) < 0.005


def test_too_few_samples_tell_nothing() -> None:
    assert drift([]).share == 0.0
    assert drift([(0.0, 1.0), (1.0, 2.0)]).share == 0.0
