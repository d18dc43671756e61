"""Many texts of one request: all are answered, whatever the queue can take at a time, or none is."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import ModelFailed, Overloaded, QueueFull
from sluice.text.joining import MOST_ROOM, Breath, Wave


class Queue:
    """Lets so many in at a time, and answers when the event loop comes round."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.inside = self.most = self.calls = 0
        self.cancelled: list[int] = []

    async def compute(self, work: int) -> int:
        self.calls += 1
        if self.inside >= self.room:
            raise Overloaded("too much") if work % 2 else QueueFull("full")
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            for _ in range(1 + work % 3):
                await asyncio.sleep(0)
            if work < 0:
                raise ModelFailed("no")
            return work * 10
        except asyncio.CancelledError:
            self.cancelled.append(work)
            raise
        finally:
            self.inside -= 1


@given(room=st.integers(1, 40), count=st.integers(0, 120))
def test_each_is_answered_once(room: int, count: int) -> None:
    async def run() -> tuple[list[int], Queue]:
        queue = Queue(room)
        return await Wave(queue.compute).run(list(range(count)), Breath()), queue

    answers, queue = asyncio.run(run())
    assert answers == [10 * number for number in range(count)]
    assert queue.most <= min(room, MOST_ROOM)


async def test_no_room_for_any_refuses_all() -> None:
    with pytest.raises((Overloaded, QueueFull)):
        await Wave(Queue(0).compute).run(list(range(100)), Breath())


async def test_a_failure_ends_the_others() -> None:
    queue = Queue(50)
    with pytest.raises(ModelFailed):
        await Wave(queue.compute).run([2, 2, -3, 2, 2, *range(500)], Breath())
    assert queue.inside == 0
    assert queue.cancelled


async def test_who_goes_away_takes_all_along() -> None:
    queue = Queue(1000)
    asked = asyncio.create_task(Wave(queue.compute).run([2] * 1000, Breath()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert queue.inside == 0
