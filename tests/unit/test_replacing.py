"""A version in the place of another, worker by worker, with real workers and without front ends: nobody is refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import graphs
import numpy as np
import pytest
from apps import running

from sluice.app import App
from sluice.config.settings import Models, Server, Settings, Workers
from sluice.errors import ModelError, NotReady
from sluice.request import InferRequest, Tensor
from sluice.store import aliases, repository
from sluice.store.manifest import seal

Opened = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """The inner parts of a server on the test's repository, its models loaded."""

    def open_app(
        workers: int = 1, budget: int = 0, replace: str = "in-turn", **more: object
    ) -> AbstractAsyncContextManager[App]:
        section = Models.model_validate({"repository": tmp_path, "replace": replace, **more})
        return running(
            Settings(models=section, workers=Workers(device="cpu", count=workers), server=Server(memory_budget=budget))
        )

    return open_app


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """`tagger` with version 1, which multiplies by 10."""
    graphs.tagger(tmp_path, version="1", factor=10)
    return tmp_path / "tagger"


async def factor(app: App, version: str = "") -> int:
    data = np.array([[1]], "<i8")
    request = InferRequest("tagger", version, (Tensor("input_ids", "INT64", data.shape, data.tobytes()),))
    response = await app.engine.infer(request)
    return int(next(one for one in response.outputs if one.name == "total").array()[0, 0])


@asynccontextmanager
async def asked(app: App, clients: int = 3) -> AsyncIterator[list[int]]:
    """Clients that ask all the time; what they were answered. That one fails ends the test."""
    answers: list[int] = []

    async def ask() -> None:
        while True:
            answers.append(await factor(app))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask()) for _ in range(clients)]
        yield answers
        for task in tasks:
            task.cancel()


def live(app: App) -> list[str]:
    return [row.version for row in app.catalog.index(ready=True)]


def holding(app: App, number: str) -> int:
    version = app.catalog.live("tagger", number)
    return sum(worker.holds(version.lane.key) for worker in version.workers)


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_a_new_version_takes_the_place_of_the_old(opened: Opened, model: Path, workers: int) -> None:
    async with opened(workers) as app:
        async with asked(app) as answers:
            graphs.tagger(model.parent, version="2", factor=20)
            await app.catalog.load("tagger")
            assert await factor(app) == 20
        assert set(answers) <= {10, 20}
        assert live(app) == ["2"]
        assert holding(app, "2") == workers
        assert len({key for worker in app.pool.workers for key in worker.serving}) == 1


@pytest.mark.parametrize("workers", [1, 2])
async def test_never_are_there_both_on_one_worker(opened: Opened, model: Path, workers: int) -> None:
    async with opened(workers) as app:
        graphs.tagger(model.parent, version="2", factor=20)
        seen = set()
        loading = asyncio.create_task(app.catalog.load("tagger"))
        while not loading.done():
            seen |= {frozenset(worker.serving) for worker in app.pool.workers}
            await asyncio.sleep(0)
        await loading
        assert max(map(len, seen)) == 1
        assert (frozenset() in seen) == True  # noqa: E712 - each gave up the old one before it had the new one


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_that_cannot_be_had_leaves_the_old_one(opened: Opened, model: Path, workers: int) -> None:
    async with opened(workers) as app:
        async with asked(app) as answers:
            graphs.tagger(model.parent, version="2").write_bytes(b"nothing of the kind")
            with pytest.raises(ModelError, match="failed to load 'tagger'"):
                await app.catalog.load("tagger")
        assert set(answers) == {10}
        assert live(app) == ["1"]
        assert holding(app, "1") == workers


async def test_one_that_is_interrupted_on_its_way_leaves_the_old_one(opened: Opened, model: Path) -> None:
    async with opened(workers=3) as app:
        async with asked(app) as answers:
            graphs.tagger(model.parent, version="2", factor=20)
            finding = repository.find(model.parent, "tagger")
            changing = asyncio.create_task(app.catalog.follower.apply(finding))
            old = app.catalog.live("tagger")
            while sum(old.lane.key in worker.serving for worker in old.workers) > 1:  # the second has given it up
                await asyncio.sleep(0)
            changing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await changing
            assert not old.gate.shut
            assert [worker.serving for worker in old.workers] == [{old.lane.key}] * 3
        assert set(answers) == {10}


async def test_nothing_is_given_up_for_one_that_is_not_as_it_was_sealed(opened: Opened, model: Path) -> None:
    async with opened() as app:
        path = graphs.tagger(model.parent, version="2", factor=20)
        seal(path.parent)
        graphs.tagger(model.parent, version="2", factor=30)
        (worker,) = app.pool.workers
        held = frozenset(worker.serving)
        promoting = asyncio.create_task(app.catalog.promote("tagger", "production", "2", ""))
        while not promoting.done():
            assert worker.serving == held
            await asyncio.sleep(0)
        with pytest.raises(ModelError, match="tagger/2 is not what its manifest says"):
            await promoting
        assert await factor(app) == 10


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_promotion_and_the_way_back(opened: Opened, model: Path, workers: int) -> None:
    graphs.tagger(model.parent, version="2", factor=20)
    (model / aliases.ALIASES).write_text("production = 1\n")
    (model / "model.toml").write_text("[versions]\nversions = [1]\n")
    async with opened(workers) as app:
        assert live(app) == ["1"]
        async with asked(app) as answers:
            await app.catalog.promote("tagger", "production", "2", "")
            assert await factor(app) == 20
            assert live(app) == ["2"]
            with pytest.raises(NotReady, match="it made room for what is in production; `sluice rollback tagger`"):
                await factor(app, "previous")
            assert all(part.name != "tagger/1" for part in app.catalog.parts()), "that is no trouble"
            await app.catalog.load("tagger")  # nor does that bring it back
            assert live(app) == ["2"]
            await app.catalog.promote("tagger", "production", "previous", "")
            assert await factor(app) == 10
            assert live(app) == ["1"]
        assert set(answers) == {10, 20}
        assert aliases.read(model) == {"production": "1", "previous": "2"}


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_promotion_that_cannot_be_written_changes_nothing(opened: Opened, model: Path, workers: int) -> None:
    graphs.tagger(model.parent, version="2", factor=20)
    (model / aliases.ALIASES).write_text("production = 1\n")
    (model / "model.toml").write_text("[versions]\nversions = [1]\n")
    (model / aliases.HISTORY).mkdir()
    async with opened(workers) as app:
        async with asked(app) as answers:
            with pytest.raises(ModelError, match=r"aliases\.jsonl"):
                await app.catalog.promote("tagger", "production", "2", "")
            assert await factor(app) == 10
        assert set(answers) == {10}
        assert live(app) == ["1"]
        assert holding(app, "1") == workers


async def test_beside_where_there_is_room(opened: Opened, model: Path) -> None:
    async with opened(replace="auto") as app:
        old = app.catalog.live("tagger")
        graphs.tagger(model.parent, version="2", factor=20)
        loading = asyncio.create_task(app.catalog.load("tagger"))
        while not loading.done():
            assert any(worker.serving for worker in app.pool.workers)
            assert not old.gate.shut
            await asyncio.sleep(0)
        await loading
        await app.catalog.promote("tagger", "production", "1", "")
        assert live(app) == ["1", "2"]


async def test_in_turn_where_there_is_none(opened: Opened, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with opened(replace="auto", budget=1 << 20) as app:
        async with asked(app) as answers:
            graphs.tagger(model.parent, version="2", factor=20)
            await app.catalog.load("tagger")
            assert await factor(app) == 20
        assert set(answers) <= {10, 20}
        assert live(app) == ["2"]
    assert "version 2 replaces version 1 in turn: there is no room for it beside: it would take about" in caplog.text
    assert "what batches of 'tagger' version 2 cost is as before" in caplog.text


ALONE = """
import sys
from pathlib import Path


class Model:
    "There is memory for one in a process."

    def load(self, directory, parameters):
        self.factor = int(Path(directory).name)
        if getattr(sys, "taken", False):
            raise MemoryError("CUDA out of memory")
        sys.taken = True

    def run(self, inputs):
        return {"y": inputs["x"] * self.factor}

    def close(self):
        sys.taken = False
"""


async def test_in_turn_where_the_device_has_no_room(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graphs.python_model(tmp_path, "alone", ALONE)
    caplog.set_level("INFO")
    async with opened(replace="auto", python_directories=[tmp_path]) as app:
        graphs.python_model(tmp_path, "alone", ALONE, version="2")
        await app.catalog.load("alone")
        assert [(row.version, row.state) for row in app.catalog.index()] == [("1", "UNAVAILABLE"), ("2", "READY")]
        tensor = Tensor("x", "INT64", (1, 1), np.array([5], "<i8").tobytes())
        response = await app.engine.infer(InferRequest("alone", "", (tensor,)))
        assert response.outputs[0].array().tolist() == [[10]]
    assert "version 2 replaces version 1 in turn: there is no room for it beside" in caplog.text
    async with opened(replace="beside", python_directories=[tmp_path]) as app:
        graphs.python_model(tmp_path, "alone", ALONE, version="3")
        with pytest.raises(ModelError, match="out of memory"):
            await app.catalog.load("alone")


KILLER = """
import os


class Model:
    def load(self, directory, parameters):
        os._exit(3)

    def run(self, inputs):
        return inputs
"""


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_that_kills_its_worker_leaves_the_old_one(opened: Opened, tmp_path: Path, workers: int) -> None:
    graphs.python_echo(tmp_path)
    tensor = Tensor("x", "INT64", (1, 1), np.array([5], "<i8").tobytes())
    async with opened(workers, python_directories=[tmp_path]) as app:
        graphs.python_model(tmp_path, "echo", KILLER, version="2")
        loading = asyncio.create_task(app.catalog.load("echo"))
        answers = []
        while not loading.done():
            response = await app.engine.infer(InferRequest("echo", "", (tensor,)))
            answers.append(response.outputs[0].array().tolist())
        with pytest.raises(ModelError, match="died"):
            await loading
        assert answers == [[[5]]] * len(answers)
        version = app.catalog.live("echo")
        assert version.number == "1"
        assert all(worker.holds(version.lane.key) for worker in app.pool.workers)


async def test_files_changed_in_place_leave_no_way_back(opened: Opened, model: Path) -> None:
    async with opened(replace="auto", budget=1 << 20) as app:
        graphs.tagger(model.parent, version="1", factor=20)
        with pytest.raises(ModelError, match="no way back; put them into a version directory of their own"):
            await app.catalog.load("tagger")
        assert await factor(app) == 10


async def test_settings_can_change_in_turn(opened: Opened, model: Path) -> None:
    async with opened(replace="auto", budget=1 << 20) as app:
        async with asked(app):
            (model / "model.toml").write_text("max_batch_rows = 3\n")
            await app.catalog.load("tagger")
            assert app.catalog.configuration("tagger")["max_batch_size"] == 3
        assert live(app) == ["1"]
        assert await factor(app) == 10


@pytest.mark.parametrize("workers", [1, 2])
async def test_settings_of_several_versions_change_in_turn(opened: Opened, model: Path, workers: int) -> None:
    graphs.tagger(model.parent, version="2", factor=20)
    (model / "model.toml").write_text('[versions]\npolicy = "all"\n')
    async with opened(workers) as app:
        async with asked(app) as answers:
            (model / "model.toml").write_text('max_batch_rows = 3\n[versions]\npolicy = "all"\n')
            await app.catalog.load("tagger")
        assert set(answers) == {20}
        assert [await factor(app, number) for number in ("1", "2")] == [10, 20]
        assert [holding(app, number) for number in ("1", "2")] == [workers] * 2
        assert {len(worker.serving) for worker in app.pool.workers} == {2}


async def test_who_waits_meanwhile_keeps_to_its_deadline(opened: Opened, model: Path) -> None:
    async with opened() as app:
        version = app.catalog.live("tagger")
        version.gate.close()
        waiting = asyncio.create_task(factor(app))
        while not version.gate.waiting:
            await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert version.gate.waiting == 0
        version.gate.open()
        assert await factor(app) == 10


async def test_many_that_waited_are_all_answered(opened: Opened, model: Path) -> None:
    """More than could be answered within the target: who waited for a change is not refused for that."""
    (model / "model.toml").write_text("target_latency = 0.0001\nmax_queue = 200\n")
    async with opened() as app:
        version = app.catalog.live("tagger")
        version.gate.close()
        waiting = [asyncio.create_task(factor(app)) for _ in range(200)]
        while version.gate.waiting < 200:
            await asyncio.sleep(0)
        version.gate.open()
        assert await asyncio.gather(*waiting) == [10] * 200
