"""The policy as a pure function: what it chooses always holds its limits, and nothing is ever lost or doubled."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.request import InferRequest, Tensor
from sluice.scheduler.entry import Entry, Limits, Work
from sluice.scheduler.policy import MAX_PADDING_SHARE, choose
from sluice.scheduler.queue import Queue

LIMITS = Limits(rows=16, tokens=256, size=2000, queue=1000)


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Entries carry futures, which belong to a loop; none of these tests turns it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


def entry(number: int, length: int = 10, rows: int = 1, urgency: float | None = None, group: str = "a") -> Entry:
    work = Work(InferRequest("m", "", ()), (), (), rows, length, group, size=8 * rows * length)
    reply: asyncio.Future[tuple[Tensor, ...]] = asyncio.get_event_loop_policy().get_event_loop().create_future()
    return Entry(work, reply, number if urgency is None else urgency, number, group)


def queue_of(*entries: Entry) -> Queue:
    queue = Queue()
    for one in entries:
        queue.add(one)
    return queue


def numbers(entries: list[Entry]) -> list[int]:
    return sorted(one.sequence for one in entries)


def test_nothing_waits_nothing_runs() -> None:
    assert choose(Queue(), LIMITS, 1) == []


def test_the_most_urgent_goes_and_takes_its_like() -> None:
    queue = queue_of(entry(0, 10), entry(1, 100), entry(2, 10), entry(3, 11))
    assert numbers(choose(queue, LIMITS, 1)) == [0, 2, 3]


def test_neighbours_on_both_sides_of_the_anchor() -> None:
    queue = queue_of(entry(0, 20), entry(1, 19), entry(2, 21), entry(3, 2), entry(4, 200))
    assert numbers(choose(queue, LIMITS, 1)) == [0, 1, 2]


def test_a_request_beyond_the_token_limit_runs_alone() -> None:
    assert numbers(choose(queue_of(entry(0, 500), entry(1, 500)), LIMITS, 1)) == [0]


def test_bytes_are_limited() -> None:
    limits = Limits(rows=16, tokens=256, size=200, queue=10)
    queue = queue_of(*(entry(number) for number in range(4)))  # of 80 bytes each
    assert numbers(choose(queue, limits, 1)) == [0, 1]


def test_groups_never_mix() -> None:
    queue = queue_of(entry(0, group="a"), entry(1, group="b"), entry(2, group="a"))
    assert numbers(choose(queue, LIMITS, 1)) == [0, 2]


def test_idle_workers_share_what_waits() -> None:
    queue = queue_of(*(entry(number) for number in range(4)))
    assert len(choose(queue, LIMITS, 2)) == 2
    assert len(choose(queue, LIMITS, 4)) == 1
    assert len(choose(queue, LIMITS, 1)) == 4


def test_equal_lengths_go_in_the_order_of_their_urgency() -> None:
    queue = queue_of(*(entry(number) for number in range(40)))
    assert numbers(choose(queue, LIMITS, 1)) == list(range(16))


ENTRIES = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 20), st.floats(0, 100), st.sampled_from("ab")),
    min_size=1,
    max_size=60,
)


@given(ENTRIES, st.integers(1, 8))
def test_every_choice_holds_the_limits(described: list[tuple[int, int, float, str]], idle: int) -> None:
    entries = [entry(number, *one) for number, one in enumerate(described)]
    queue = queue_of(*entries)
    left = set(range(len(entries)))
    while left:
        anchor = queue.most_urgent()
        assert anchor is not None
        assert anchor.urgency == min(entries[number].urgency for number in left)
        chosen = choose(queue, LIMITS, idle)
        assert anchor in chosen
        assert len({one.group for one in chosen}) == 1
        if len(chosen) > 1:
            rows = sum(one.work.rows for one in chosen)
            padded = rows * max(one.work.length for one in chosen)
            assert rows <= LIMITS.rows
            assert padded <= LIMITS.tokens
            assert sum(one.work.size for one in chosen) <= LIMITS.size
            assert padded - sum(one.tokens for one in chosen) <= MAX_PADDING_SHARE * padded
        for one in chosen:
            queue.remove(one)
            left.remove(one.sequence)
        assert len(queue) == len(left)
        assert queue.rows == sum(entries[number].work.rows for number in left)


@given(ENTRIES, st.data())
def test_entries_leave_from_anywhere(described: list[tuple[int, int, float, str]], data: st.DataObject) -> None:
    entries = [entry(number, *one) for number, one in enumerate(described)]
    queue = queue_of(*entries)
    for one in data.draw(st.permutations(entries)):
        queue.remove(one)
        assert one not in list(queue)
    assert len(queue) == 0
    assert queue.rows == 0
    assert queue.most_urgent() is None
