"""Answers used again: never a wrong one, never one too old, and each computed once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.config.settings import ResponseCache
from sluice.errors import DeadlineExceeded, ModelFailed, Overloaded, QueueFull, ServerError
from sluice.request import InferRequest, Tensor
from sluice.reuse.answers import How, Identity, Memory, Outputs, Reuse
from sluice.scheduler.entry import Work

SEALED = Identity("sha256:abc", True)


def work(
    value: int = 0, tenant: str = "", deadline: float | None = None, priority: float = 0.0, size: int = 0
) -> Work:  # fmt: skip
    tensor = Tensor("x", "INT64", (1,), np.array([value], np.int64).tobytes())
    request = InferRequest("m", "", (tensor,), tenant=tenant, deadline=deadline)
    return Work(request, (tensor,), ("y",), 1, 1, (), size, priority)


def answer(number: int, size: int = 8) -> Outputs:
    return (Tensor("y", "UINT8", (size,), bytes([number % 256]) * size),)


class Model:
    """Answers when told to, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self, asked: Work) -> Outputs:
        self.calls += 1
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return answer(self.calls)


@pytest.fixture
def model() -> Model:
    return Model()


def reuse(size: int = 1 << 20, ttl: float = 300.0, across: bool = False) -> Reuse:
    return Reuse(ResponseCache(bytes=size, ttl=ttl, across_tenants=across))


Compute = Callable[[Work], Awaitable[Outputs]]


async def test_the_same_is_computed_once(model: Model) -> None:
    kept = reuse()
    model.go.set()
    assert await kept.outputs(SEALED, work(1), model) == (answer(1), How.COMPUTED)
    assert await kept.outputs(SEALED, work(1), model) == (answer(1), How.KEPT)
    assert await kept.outputs(SEALED, work(2), model) == (answer(2), How.COMPUTED)
    assert await kept.outputs(Identity("sha256:def", True), work(1), model) == (answer(3), How.COMPUTED)


@pytest.mark.parametrize(("across", "calls"), [(False, 2), (True, 1)])
async def test_tenants_share_only_if_they_may(model: Model, across: bool, calls: int) -> None:
    kept = reuse(across=across)
    model.go.set()
    for tenant in ("one", "other", "one"):
        await kept.outputs(SEALED, work(1, tenant), model)
    assert model.calls == calls


async def test_what_is_being_computed_is_waited_for(model: Model) -> None:
    kept = reuse()
    asked = [asyncio.create_task(kept.outputs(SEALED, work(1), model)) for _ in range(5)]
    await model.begun.wait()
    model.go.set()
    answers = await asyncio.gather(*asked)
    assert [one for one, _ in answers] == [answer(1)] * 5
    assert sorted(how.value for _, how in answers) == ["miss", *["shared"] * 4]
    assert model.calls == 1


async def test_who_goes_away_takes_nobody_along(model: Model) -> None:
    kept = reuse()
    first, second = (asyncio.create_task(kept.outputs(SEALED, work(1), model)) for _ in range(2))
    await model.begun.wait()
    first.cancel()
    await asyncio.wait({first})
    model.go.set()
    assert (await second)[0] == answer(1)
    assert (model.calls, model.cancelled) == (1, 0)


async def test_when_all_have_gone_nothing_is_computed_any_more(model: Model) -> None:
    kept = reuse()
    asked = [asyncio.create_task(kept.outputs(SEALED, work(1), model)) for _ in range(2)]
    await model.begun.wait()
    for one in asked:
        one.cancel()
    await asyncio.wait(asked)
    for _ in range(3):
        await asyncio.sleep(0)
    assert model.cancelled == 1
    model.go.set()
    assert await kept.outputs(SEALED, work(1), model) == (answer(2), How.COMPUTED)


async def test_a_failure_is_shared_and_not_kept(model: Model) -> None:
    kept = reuse()
    model.failure = ModelFailed("no")
    asked = [asyncio.create_task(kept.outputs(SEALED, work(1), model)) for _ in range(2)]
    await model.begun.wait()
    model.go.set()
    assert [type(one) for one in await asyncio.gather(*asked, return_exceptions=True)] == [ModelFailed] * 2
    model.failure = None
    assert await kept.outputs(SEALED, work(1), model) == (answer(2), How.COMPUTED)


async def test_each_keeps_its_own_deadline(model: Model) -> None:
    kept = reuse()
    patient = asyncio.create_task(kept.outputs(SEALED, work(1), model))
    await model.begun.wait()
    with pytest.raises(DeadlineExceeded):
        await kept.outputs(SEALED, work(1, deadline=time.monotonic() - 1), model)
    model.go.set()
    assert (await patient)[0] == answer(1)


async def test_another_request_s_deadline_is_not_mine(model: Model) -> None:
    kept = reuse()
    model.failure = DeadlineExceeded("Deadline Exceeded")
    hasty = asyncio.create_task(kept.outputs(SEALED, work(1), model))
    patient = asyncio.create_task(kept.outputs(SEALED, work(1), model))
    await model.begun.wait()
    model.begun.clear()
    model.go.set()
    with pytest.raises(DeadlineExceeded):
        await hasty
    model.failure = None
    assert await patient == (answer(2), How.COMPUTED)


@pytest.mark.parametrize("error", [Overloaded("later"), QueueFull("full")])
async def test_who_is_urgent_is_not_refused_because_a_patient_one_was(error: ServerError) -> None:
    kept, asked = reuse(), []

    async def compute(wanted: Work) -> Outputs:
        asked.append(wanted.priority)
        await asyncio.sleep(0)
        if wanted.priority > 0:
            raise error
        return answer(1)

    patient, urgent, other = await asyncio.gather(
        *(kept.outputs(SEALED, work(1, priority=priority), compute) for priority in (1.0, -1.0, 0.5)),
        return_exceptions=True,
    )
    assert (patient, urgent, other) == (error, (answer(1), How.COMPUTED), error)
    assert asked == [1.0, -1.0, 0.5]


async def test_what_is_large_is_told_apart_as_well(model: Model) -> None:
    kept = reuse()
    model.go.set()
    assert await kept.outputs(SEALED, work(1, size=1 << 20), model) == (answer(1), How.COMPUTED)
    assert await kept.outputs(SEALED, work(1, size=1 << 20), model) == (answer(1), How.KEPT)
    assert await kept.outputs(SEALED, work(2, size=1 << 20), model) == (answer(2), How.COMPUTED)


def test_answers_grow_old() -> None:
    memory = Memory(1 << 20, seconds=10)
    memory.put(b"a", answer(1), now=100)
    assert memory.get(b"a", now=109.9) == answer(1)
    assert memory.get(b"a", now=110) is None
    assert (len(memory), memory.size) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000), st.booleans()), max_size=60))
def test_no_more_is_kept_than_may_be(steps: list[tuple[int, int, bool]]) -> None:
    memory = Memory(5000, seconds=10)
    truth: dict[bytes, Outputs] = {}
    for key, size, write in steps:
        name = bytes([key])
        if write:
            truth[name] = answer(key, size)
            memory.put(name, truth[name], now=0)
        elif (found := memory.get(name, now=0)) is not None:
            assert found == truth[name]
        assert 0 <= memory.size <= 5000
        assert (memory.size == 0) == (len(memory) == 0)
