import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.bench.search import Search


def run(search: Search, capacity: float) -> list[float]:
    tried = []
    while (rate := search.next_rate()) is not None:
        tried.append(rate)
        search.tell(rate, rate <= capacity)
    return tried


@given(capacity=st.floats(1, 10_000), start=st.floats(1, 10_000))
def test_it_finds_the_capacity_to_its_precision(capacity: float, start: float) -> None:
    search = Search(start, most_steps=60)
    run(search, capacity)
    assert search.held <= capacity < search.failed <= search.held * search.precision


def test_it_ends_after_its_steps() -> None:
    assert len(run(Search(1, most_steps=5), capacity=1e9)) == 5


def test_nothing_held_is_said() -> None:
    search = Search(8, most_steps=4)
    assert run(search, capacity=0) == [8, 4, 2, 1]
    assert search.held == 0


def test_one_miss_is_forgiven_when_two_tries_are_allowed() -> None:
    search = Search(10, tries=2)
    search.tell(10, held=False)
    assert search.next_rate() == 10
    search.tell(10, held=True)
    assert search.next_rate() == pytest.approx(20)


def test_two_misses_are_not() -> None:
    search = Search(10, tries=2)
    search.tell(10, held=False)
    search.tell(10, held=False)
    assert search.next_rate() == pytest.approx(5)
