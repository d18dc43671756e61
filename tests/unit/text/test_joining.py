"""Many texts of one request: all are answered, whatever the queue can take at a time, or none is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import ModelFailed, Overloaded, QueueFull
from sluice.request import Tensor, encode_bytes
from sluice.spec import ModelSpec, TensorSpec
from sluice.text.joining import MOST_ROOM, Breath, Turnstile, Wave, joined, one_by_one


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


async def test_what_was_done_is_not_thrown_away() -> None:
    queue = Queue(5)

    async def compute(work: int) -> int:
        queue.room = 0 if 60 <= queue.calls < 70 else 5  # others came between
        return await queue.compute(work)

    assert await Wave(compute).run(list(range(100)), Breath()) == [10 * number for number in range(100)]
    assert queue.calls > 110


def closing(after: int, advice: float) -> tuple[Queue, Callable[[int], Coroutine[Any, Any, int]]]:
    """A queue that lets nobody in after so many calls, and says when to come again."""
    queue = Queue(5)

    async def compute(work: int) -> int:
        if queue.calls >= after:
            queue.calls += 1
            raise Overloaded("too much", retry_after=advice)
        return await queue.compute(work)

    return queue, compute


async def test_who_would_come_too_late_is_refused() -> None:
    queue, compute = closing(after=10, advice=3600)
    with pytest.raises(Overloaded):
        await Wave(compute, deadline=time.monotonic() + 0.9).run(list(range(100)), Breath())
    assert queue.inside == 0


async def test_without_progress_a_request_is_refused_in_the_end() -> None:
    queue, compute = closing(after=10, advice=0)
    with pytest.raises(Overloaded):
        await Wave(compute, patience=0.2).run(list(range(100)), Breath())
    assert queue.inside == 0


async def test_a_long_advice_is_not_waited_for() -> None:
    answered, refused = asyncio.Event(), 0

    async def compute(work: int) -> int:
        nonlocal refused
        if work == 0:
            answered.set()
        elif not refused:
            await answered.wait()
            await asyncio.sleep(0)
            refused += 1
            raise Overloaded("too much", retry_after=1e9)
        return work

    assert await asyncio.wait_for(Wave(compute).run([0, 1], Breath()), 60) == [0, 1]
    assert refused == 1


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


async def test_the_turnstile_lets_few_through_at_a_time() -> None:
    turnstile, through = Turnstile(3), list[int]()

    async def come(number: int) -> None:
        await turnstile.through()
        through.append(number)

    coming = [asyncio.create_task(come(number)) for number in range(10)]
    coming[4].cancel()
    most, before = 0, 0
    while not all(task.done() for task in coming):
        await asyncio.sleep(0)
        most, before = max(most, len(through) - before), len(through)
    assert through == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert most <= 3
    await come(10)
    assert through[-1] == 10


async def test_others_have_their_turn_while_much_is_made() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def slowly() -> Iterator[int]:
        for number in range(20):
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
            yield number

    beside = asyncio.create_task(other())
    assert await one_by_one(slowly()) == list(range(20))
    beside.cancel()
    assert turns >= 20


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
async def test_outputs_of_different_lengths_are_filled_up(datatype: str, rows: int) -> None:
    output = TensorSpec("out", datatype, (-1, -1), rows, 1 - rows)
    spec = ModelSpec("m", "1", "p", "b", (), (output,), 8)
    parts = [(_tensor(datatype, [[1, 2, 3]], rows),), (_tensor(datatype, [[4]], rows),)]
    assert await joined(parts[:1], spec) == parts[0]
    (found,) = await joined(parts, spec)
    assert found == _tensor(datatype, [[1, 2, 3], [4, 0, 0]], rows)


def _tensor(datatype: str, values: list[list[int]], rows: int) -> Tensor:
    """Of these rows, along this axis; as BYTES 0 is empty."""
    array = np.moveaxis(np.array(values, np.float32), 0, rows)
    said = [b"%d" % value if value else b"" for value in array.ravel().astype(int)]
    data = encode_bytes(said) if datatype == "BYTES" else array.tobytes()
    return Tensor("out", datatype, array.shape, data)
