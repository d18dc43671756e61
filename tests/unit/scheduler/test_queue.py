"""The queue's two orders agree about who waits, whoever leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import Request

from sluice.scheduler.queue import Place, Queue

REQUESTS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 9), st.sampled_from([0.0, 1.0, 2.5, 7.0]), st.sampled_from("ab")),
    min_size=1,
    max_size=60,
)


def filled(described: list[tuple[int, int, float, str]]) -> tuple[Queue[Request], list[Place[Request]]]:
    queue: Queue[Request] = Queue()
    places = []
    for number, (length, rows, urgency, group) in enumerate(described):
        request = Request(number, length, due=urgency, rows=rows, group=group)
        places.append(Place(request, urgency, urgency, 1.0, 0))
        queue.add(places[-1])
    return queue, places


@given(REQUESTS, st.data())
def test_both_orders_hold_whoever_leaves(described: list[tuple[int, int, float, str]], data: st.DataObject) -> None:
    queue, places = filled(described)
    left = list(places)
    for gone in data.draw(st.permutations(places)):
        order = sorted(left, key=lambda place: (place.urgency, place.entry.sequence))
        assert list(queue) == order
        assert queue.anchor() is order[0]
        for place in left:
            group = place.group
            assert group is not None
            assert group.places[group.find(place)] is place
            keys = [(one.entry.length, one.urgency, one.entry.sequence) for one in group.places]
            assert keys == sorted(keys)
            assert list(group.lengths) == [one.entry.length for one in group.places]
            assert list(group.rows) == [one.entry.rows for one in group.places]
            assert list(group.dues) == [one.due for one in group.places]
        queue.remove(gone)
        left.remove(gone)
        assert gone.group is None
        assert len(queue) == len(left)
    assert queue.anchor() is None


@given(REQUESTS, st.data())
def test_windows_leave_together(described: list[tuple[int, int, float, str]], data: st.DataObject) -> None:
    queue, places = filled(described)
    group = places[0].group
    assert group is not None
    first = data.draw(st.integers(0, len(group) - 1))
    end = data.draw(st.integers(first + 1, len(group)))
    expected = group.places[first:end]
    assert queue.cut(group, first, end) == expected
    assert not set(expected) & set(queue)
    assert len(queue) == len(places) - len(expected)


def test_those_that_leave_meanwhile_are_left_out() -> None:
    queue, places = filled([(1, 1, 0.0, "a"), (2, 1, 1.0, "a"), (3, 1, 2.5, "a")])
    seen = []
    for place in queue:
        seen.append(place.entry.sequence)
        if place is places[0]:
            queue.remove(places[1])
    assert seen == [0, 2]


def test_equal_places_are_no_problem() -> None:
    queue, places = filled([(1, 1, 0.0, "a")])
    again = Place(places[0].entry, 0.0, 0.0, 1.0, 0)
    queue.remove(places[0])
    queue.add(again)
    assert list(queue) == [again]
    with pytest.raises(AssertionError):
        queue.remove(places[0])
