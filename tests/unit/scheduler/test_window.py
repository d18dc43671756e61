"""The window that is run: against every other there is, priced one by one."""

import itertools
import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import Request, learned, seconds, slow_seconds

from sluice.scheduler.cost import Cost
from sluice.scheduler.forecast import Forecast
from sluice.scheduler.queue import Group, Place
from sluice.scheduler.steps import EXACT
from sluice.scheduler.window import REACH, Bounds, Sight, Window, look

FAST, SLOW = learned(seconds), learned(slow_seconds)
BOUNDS = Bounds(rows=20, tokens=2000, size=100)


def sight(cost: Cost, bounds: Bounds = BOUNDS, longest: float = 1.0) -> Sight:
    forecast = Forecast(cost, 1.0, bounds, EXACT)
    forecast.renew(longest)
    return Sight(cost, EXACT, bounds, longest, 1.1, 3.0, 0.9, forecast.shares)


def grouped(requests: list[Request]) -> Group[Request]:
    group: Group[Request] = Group(None)
    for request in requests:
        group.add(Place(request, request.due, request.due, 1.0, 0))
    return group


def allowed(members: list[Place[Request]], view: Sight, now: float) -> bool:
    rows, length = sum(one.entry.rows for one in members), members[-1].entry.length
    time = 1.1 * view.cost.seconds(rows, length)
    return (
        rows <= view.bounds.rows
        and rows * length <= min(view.bounds.tokens, 2 * view.cost.largest)
        and sum(one.entry.size for one in members) <= view.bounds.size
        and time <= view.longest
        and now + time <= min(one.due for one in members)
    )


def priced(places: list[Place[Request]], first: int, end: int, view: Sight) -> float:
    """A window's time, and that of the cheapest cut of what it leaves on either side."""

    @cache
    def cut(begin: int, stop: int) -> float:
        if begin == stop:
            return 0.0
        return min(
            view.cost.seconds(round(3.0 * rows_of(begin, to)), places[to - 1].entry.length) / (3.0 * 0.9)
            + cut(to, stop)
            for to in range(begin + 1, stop + 1)
        )

    def rows_of(begin: int, stop: int) -> int:
        return sum(one.entry.rows for one in places[begin:stop])

    own = view.cost.seconds(rows_of(first, end), places[end - 1].entry.length)
    return own + cut(0, first) + cut(end, len(places))


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 8), st.floats(0.003, 0.3), st.integers(1, 60)), max_size=7),
    st.tuples(st.integers(1, 300), st.integers(1, 8), st.floats(0.003, 0.3), st.integers(1, 60)),
    st.sampled_from([FAST, SLOW]),
)
def test_no_window_leaves_the_neighbourhood_cheaper(
    others: list[tuple[int, int, float, int]], own: tuple[int, int, float, int], cost: Cost
) -> None:
    requests = [
        Request(number, length, due=5.0 + due, rows=rows, size=size)
        for number, (length, rows, due, size) in enumerate([own, *others])
    ]
    group, view = grouped(requests), sight(cost)
    at = next(place for place, one in enumerate(group.places) if one.entry.sequence == 0)
    found = look(group, at, 5.0, "a", view)
    assert found.first <= at < found.end
    assert found.rows == sum(one.entry.rows for one in group.places[found.first : found.end])
    assert found.length == group.places[found.end - 1].entry.length
    assert found.seconds == pytest.approx(cost.seconds(found.rows, found.length))
    alone = (found.first, found.end) == (at, at + 1)
    assert alone or allowed(group.places[found.first : found.end], view, 5.0 - 1e-6)
    best = min(
        priced(group.places, first, end, view)
        for first, end in itertools.product(range(at + 1), range(at + 1, len(group) + 1))
        if (first, end) == (at, at + 1) or allowed(group.places[first:end], view, 5.0 + 1e-6)
    )
    assert priced(group.places, found.first, found.end, view) <= best * 1.001


def everything(count: int, length: int = 4, due: float = math.inf) -> Window[Request]:
    """The window around the first of so many equal entries, without bounds that matter."""
    requests = [Request(number, length, due=due) for number in range(count)]
    wide = sight(FAST, Bounds(1 << 20, 1 << 30, 1 << 30), longest=10.0)
    return look(grouped(requests), 0, 0.0, "a", wide)


def test_what_fits_is_taken_although_ends_lie_apart() -> None:
    for count in (1, 5, 30, 97, 201, REACH):
        assert everything(count).end == count
    assert everything(3 * REACH).end == REACH + 1


def test_a_deadline_cuts_exactly() -> None:
    due = 0.0123
    found = everything(REACH, length=100, due=due)
    assert 1.1 * FAST.seconds(found.end, 100) <= due < 1.1 * FAST.seconds(found.end + 1, 100)


def test_late_entries_have_no_deadline() -> None:
    group, view = grouped([Request(number, due=-1.0) for number in range(5)]), sight(FAST)
    assert look(group, 0, 0.0, "a", view).end == 1
    assert look(group, 0, 0.0, "a", view, late=True).end == 5
