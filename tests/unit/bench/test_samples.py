import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.bench.samples import Sample, length_classes, percentile, summarize


def answered(seconds: float, length: int = 10, late: float = 0.0) -> Sample:
    return Sample(0.0, length, late=late, seconds=seconds, outcome="answered")


def test_percentiles_of_a_hundred_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (50, 90, 99, 100)] == [50, 90, 99, 100]


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= math.floor(share / 100 * len(ordered))


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 50))


def test_only_what_was_answered_within_the_target_is_goodput() -> None:
    samples = [answered(0.1), answered(0.2), answered(0.3)]
    samples += [Sample(0.0, 10, outcome=outcome, detail="no") for outcome in ("refused", "expired", "failed")]
    figures = summarize(samples, rate=3, seconds=2, target=0.2)
    assert (figures.answered, figures.refused, figures.expired, figures.failed) == (3, 1, 1, 1)
    assert figures.share == pytest.approx(2 / 6)
    assert figures.goodput == 1
    assert figures.throughput == 1.5
    assert figures.sent_rate == 3
    assert figures.longest == 0.3
    assert figures.failures == {"no": 3}


def test_a_late_generator_is_noticed() -> None:
    assert summarize([answered(0.1, late=0.1)], 1, 1, target=0.2).saturated
    assert not summarize([answered(0.1, late=0.001)], 1, 1, target=0.2).saturated


def test_a_rate_without_requests_holds_nothing() -> None:
    figures = summarize([], 1, 1, target=0.2)
    assert (figures.share, figures.requests, figures.worst_class) == (0, 0, 0)


def test_the_worst_lengths_are_seen() -> None:
    samples = [answered(0.1, length) for length in range(75)] + [answered(9, length) for length in range(75, 100)]
    figures = summarize(samples, 1, 1, target=0.2)
    assert [each.share for each in figures.classes] == [1, 1, 1, 0]
    assert figures.worst_class == 0


@given(st.lists(st.integers(1, 20), max_size=200))
def test_classes_are_disjoint_and_hold_every_request(lengths: list[int]) -> None:
    classes = length_classes([answered(0.1, length) for length in lengths], target=1)
    assert sum(each.requests for each in classes) == len(lengths)
    assert all(one.longest < other.shortest for one, other in pairwise(classes))
