from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.bench.traffic import Arrival, BenchError, mix, send_times


def test_lognormal_lengths_have_the_median_and_the_tail_asked_for() -> None:
    lengths = mix("lognormal").lengths(50_000, seed=1)
    assert np.median(lengths) == pytest.approx(24, abs=1)
    assert np.percentile(lengths, 95) == pytest.approx(124, rel=0.05)
    assert max(lengths) <= 512


def test_bimodal_lengths_are_short_or_long() -> None:
    lengths = np.array(mix("bimodal").lengths(20_000, seed=1))
    short = (lengths >= 16) & (lengths <= 32)
    long = (lengths >= 384) & (lengths <= 512)
    assert (short | long).all()
    assert short.mean() == pytest.approx(0.8, abs=0.02)


def test_constant_and_recorded_lengths(tmp_path: Path) -> None:
    assert mix("constant:7").lengths(3, seed=1) == [7, 7, 7]
    trace = tmp_path / "trace"
    trace.write_text("3\n1 2\n")
    assert mix(str(trace)).lengths(5, seed=1) == [3, 1, 2, 3, 1]


@pytest.mark.parametrize(
    "name", ["lognormal", "bimodal", "constant:9", "lognormal:100:900", "lognormal:1000:4000:8192"]
)
@given(seed=st.integers(0, 1000))
def test_a_mix_gives_only_lengths_it_announced_and_always_the_same(name: str, seed: int) -> None:
    drawn = mix(name)
    lengths = drawn.lengths(300, seed)
    assert set(lengths) <= set(drawn.support)
    assert len(drawn.support) <= 512
    assert lengths == drawn.lengths(300, seed)


@pytest.mark.parametrize(
    "text", ["", "gaussian", "constant", "constant:0", "lognormal:9", "lognormal:9:3", "constant:x"]
)
def test_an_unknown_mix_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="lengths"):
        mix(text)


@pytest.mark.parametrize("content", ["", "1\nx", "0"])
def test_a_trace_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "trace").write_text(content)
    with pytest.raises(BenchError, match="trace"):
        mix(str(tmp_path / "trace"))


@given(
    arrival=st.sampled_from(["poisson", "constant"]),
    rate=st.floats(0.5, 500),
    seconds=st.floats(0.1, 10),
    seed=st.integers(0, 9),
)
def test_send_times_rise_and_stay_within_the_window(arrival: Arrival, rate: float, seconds: float, seed: int) -> None:
    times = send_times(arrival, rate, seconds, seed)
    assert times == sorted(times)
    assert all(0 <= time < seconds for time in times)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert send_times("constant", 4, 1, seed=1) == [0, 0.25, 0.5, 0.75]


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(send_times("poisson", 100, 300, seed=1))
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
