"""Every model's way from load to gone, with real workers and without front ends."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from apps import running

from sluice.app import App
from sluice.catalog import Catalog
from sluice.config.settings import Models, Settings, Workers
from sluice.errors import ConfigError, InvalidRequest, ModelError, NotReady, UnknownModel, Unsupported
from sluice.inventory import IndexRow
from sluice.request import InferRequest, Tensor
from sluice.store import inspection
from sluice.store.repository import VersionFiles
from sluice.workers.worker import State

Opened = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """The inner parts of a server on the test's repository, its models loaded."""

    def open_app(workers: int = 1, **models: object) -> AbstractAsyncContextManager[App]:
        section = Models.model_validate({"repository": tmp_path, "python_directories": [tmp_path], **models})
        return running(Settings(models=section, workers=Workers(device="cpu", count=workers)))

    return open_app


async def total(app: App, *ids: int, version: str = "", name: str = "tagger") -> int:
    data = np.array([ids], "<i8")
    request = InferRequest(name, version, (Tensor("input_ids", "INT64", data.shape, data.tobytes()),))
    response = await app.engine.infer(request)
    return int(next(one for one in response.outputs if one.name == "total").array()[0, 0])


def states(catalog: Catalog) -> dict[tuple[str, str], str]:
    return {(row.name, row.version): row.state for row in catalog.index()}


async def test_a_bad_model_has_its_reason_and_stops_no_other(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path)
    (tmp_path / "garbage" / "1").mkdir(parents=True)
    (tmp_path / "garbage" / "1" / "model.onnx").write_bytes(b"nothing of the kind")
    (tmp_path / "empty").mkdir()
    graphs.tagger(tmp_path, "typo")
    (tmp_path / "typo" / "model.toml").write_text("max_batch_row = 4\n")
    async with opened() as app:
        rows = {row.name: row for row in app.catalog.index()}
        assert rows["tagger"] == IndexRow("tagger", "1", "READY", "")
        assert [row.name for row in app.catalog.index(ready=True)] == ["tagger"]
        assert "model.onnx" in rows["garbage"].reason
        assert "no version directory" in rows["empty"].reason
        assert "max_batch_row" in rows["typo"].reason
        assert await total(app, 1, 2) == 6
        for name in ("garbage", "empty", "typo"):
            assert rows[name].state == "UNAVAILABLE"
            with pytest.raises(NotReady, match=f"'{name}' version .* is not at ready state: ."):
                app.catalog.metadata(name)


async def test_only_the_models_named_are_loaded(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, "a")
    graphs.tagger(tmp_path, "b")
    async with opened(load=["b", "missing"]) as app:
        assert states(app.catalog) == {
            ("a", ""): "UNAVAILABLE",
            ("b", "1"): "READY",
            ("missing", ""): "UNAVAILABLE",
        }
        with pytest.raises(NotReady, match="it is not loaded"):
            app.catalog.live("a")
        await app.catalog.load("a")
        assert await total(app, 1, name="a") == 2


async def test_reloading_takes_only_what_changed(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "tagger").mkdir()
    (tmp_path / "tagger" / "model.toml").write_text('[versions]\npolicy = "all"\n')
    graphs.tagger(tmp_path, version="1", factor=10)
    graphs.tagger(tmp_path, version="2", factor=20)
    async with opened() as app:
        first, second = app.catalog.live("tagger", "1"), app.catalog.live("tagger")
        assert second.number == "2"
        graphs.tagger(tmp_path, version="2", factor=2000)
        graphs.tagger(tmp_path, version="3", factor=30)
        await app.catalog.load("tagger")
        assert app.catalog.live("tagger", "1") is first
        assert app.catalog.live("tagger", "2") is not second
        assert app.catalog.live("tagger").number == "3"
        assert [await total(app, 1, version=version) for version in ("1", "2", "3", "")] == [10, 2000, 30, 30]
        assert app.catalog.metadata("tagger").versions == ("1", "2", "3")


async def test_a_change_that_cannot_be_loaded_leaves_the_old_one_serving(opened: Opened, tmp_path: Path) -> None:
    path = graphs.tagger(tmp_path)
    async with opened() as app:
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(ModelError, match="failed to load 'tagger'"):
            await app.catalog.load("tagger")
        assert await total(app, 1, 2) == 6
        assert states(app.catalog) == {("tagger", "1"): "READY"}


async def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one_serving(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, version="1", factor=10)
    async with opened() as app:
        graphs.tagger(tmp_path, version="2").write_bytes(b"nothing of the kind")
        with pytest.raises(ModelError, match="failed to load 'tagger'"):
            await app.catalog.load("tagger")
        assert await total(app, 1) == 10
        assert states(app.catalog) == {("tagger", "1"): "READY", ("tagger", "2"): "UNAVAILABLE"}
        graphs.tagger(tmp_path, version="2", factor=20)
        await app.catalog.load("tagger")
        assert await total(app, 1) == 20


async def test_a_version_that_left_the_disk_leaves_at_the_next_load(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, version="1", factor=10)
    async with opened() as app:
        graphs.tagger(tmp_path, version="2", factor=20)
        await app.catalog.load("tagger")
        assert await total(app, 1) == 20
        assert states(app.catalog) == {("tagger", "1"): "UNAVAILABLE", ("tagger", "2"): "READY"}
        with pytest.raises(NotReady, match="'tagger' version 1 is not at ready state: unloaded"):
            await total(app, 1, version="1")


async def test_a_load_goes_on_when_who_asked_for_it_has_gone(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened(load=[]) as app:
        for begun, expected in ((app.catalog.load, "READY"), (app.catalog.unload, "UNAVAILABLE")):
            asking = asyncio.create_task(begun("tagger"))
            while states(app.catalog).get(("tagger", "1")) not in ("LOADING", "UNLOADING"):
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            while states(app.catalog) != {("tagger", "1"): expected}:
                await asyncio.sleep(0)


async def test_unloading_waits_for_what_was_accepted(opened: Opened, tmp_path: Path) -> None:
    gate = tmp_path / ".gate"
    graphs.python_echo(tmp_path, gate=gate)
    async with opened() as app:
        gate.touch()
        tensor = Tensor("x", "INT64", (1, 1), bytes(8))
        accepted = asyncio.create_task(app.engine.infer(InferRequest("echo", "", (tensor,))))
        await asyncio.sleep(0)
        unloading = asyncio.create_task(app.catalog.unload("echo"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert states(app.catalog) == {("echo", "1"): "UNLOADING"}
        with pytest.raises(NotReady):
            await app.engine.infer(InferRequest("echo", "", (tensor,)))
        gate.unlink()
        assert (await accepted).outputs[0].array().tolist() == [[0]]
        await unloading
        assert states(app.catalog) == {("echo", "1"): "UNAVAILABLE"}
        await app.catalog.unload("echo")
        await app.catalog.load("echo")
        assert states(app.catalog) == {("echo", "1"): "READY"}
        with pytest.raises(UnknownModel):
            await app.catalog.unload("nothing")


async def test_files_and_a_configuration_can_come_with_the_request(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    elsewhere = graphs.tagger(tmp_path / ".elsewhere", factor=70).read_bytes()
    async with opened() as app:
        with pytest.raises(InvalidRequest, match="'config'"):
            await app.catalog.load("tagger", None, {"1/model.onnx": elsewhere})
        config = json.dumps({"max_batch_size": 3})
        await app.catalog.load("tagger", config, {"1/model.onnx": elsewhere})
        assert await total(app, 1) == 70
        assert app.catalog.configuration("tagger")["max_batch_size"] == 3
        await app.catalog.load("tagger", config)
        assert await total(app, 1) == 10
        await app.catalog.load("brand new", "{}", {"5/model.onnx": elsewhere})
        assert await total(app, 1, name="brand new", version="5") == 70


async def test_files_of_a_failed_load_do_not_cost_the_ones_in_use(opened: Opened, tmp_path: Path) -> None:
    given = graphs.tagger(tmp_path / ".elsewhere", factor=70).read_bytes()
    async with opened() as app:
        await app.catalog.load("sent", "{}", {"1/model.onnx": given})
        with pytest.raises(ModelError):
            await app.catalog.load("sent", "{}", {"1/model.onnx": b"nothing of the kind"})
        with pytest.raises(UnknownModel):  # there is no such directory in the repository
            await app.catalog.load("sent")
        assert app.catalog.live("sent").files.path.read_bytes() == given
        kept = app.catalog.live("sent").files.directory
        await app.catalog.unload("sent")
        assert not kept.exists()


@pytest.mark.parametrize("path", ["../outside/model.onnx", "/etc/x", "", "1/../../x", ".hidden/x", "1/" * 9 + "x"])
async def test_files_stay_in_their_model(opened: Opened, path: str) -> None:
    async with opened() as app:
        with pytest.raises(InvalidRequest):
            await app.catalog.load("m", "{}", {path: b""})


async def test_control_can_be_taken_away(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path)
    async with opened(control=False) as app:
        with pytest.raises(Unsupported, match=r"models\.control"):
            await app.catalog.load("tagger")
        with pytest.raises(Unsupported, match=r"models\.control"):
            await app.catalog.unload("tagger")
        assert await total(app, 1) == 2


async def test_code_runs_only_from_where_the_operator_allows(opened: Opened, tmp_path: Path) -> None:
    graphs.python_echo(tmp_path)
    async with opened(python_directories=[]) as app:
        assert states(app.catalog) == {("echo", "1"): "UNAVAILABLE"}
        assert "models.python_directories" in app.catalog.index()[0].reason
        source = (tmp_path / "echo" / "1" / "model.py").read_bytes()
        with pytest.raises(ModelError, match="python_directories"):
            await app.catalog.load("echo", "{}", {"1/model.py": source})


async def test_a_model_on_some_workers_only(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path)
    (tmp_path / "tagger" / "model.toml").write_text("instances = 1\n")
    async with opened(workers=2) as app:
        key = app.catalog.live("tagger").lane.key
        assert [worker.holds(key) for worker in app.pool.workers].count(True) == 1
        assert await total(app, 3) == 6


async def test_a_repository_that_is_not_there(opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.repository"):
        async with opened(repository=tmp_path / "nothing"):
            pass


async def test_two_loads_at_once_are_one_after_the_other(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path)
    async with opened() as app:
        graphs.tagger(tmp_path, factor=50)
        await asyncio.gather(*(app.catalog.load("tagger") for _ in range(4)))
        assert await total(app, 1) == 50


KILLER = """
import os


class Model:
    def load(self, directory, parameters):
        os._exit(3)

    def run(self, inputs):
        return inputs
"""


async def test_a_model_that_kills_its_worker_while_loading_takes_no_other_with_it(
    opened: Opened, tmp_path: Path
) -> None:
    for number in range(3):
        graphs.tagger(tmp_path, f"tagger{number}", factor=number + 2)
    directory = graphs.python_echo(tmp_path, "killer")
    (directory / "1" / "model.py").write_text(KILLER)
    async with opened(workers=2) as app:
        rows = {row.name: row for row in app.catalog.index()}
        assert rows.pop("killer").state == "UNAVAILABLE"
        assert {row.state for row in rows.values()} == {"READY"}
        for number in range(3):
            assert await total(app, 1, name=f"tagger{number}") == number + 2
        with pytest.raises(ModelError, match="died"):
            await app.catalog.load("killer")
        await asyncio.gather(*(worker.back() for worker in app.pool.workers))
        assert app.catalog.capable()
        assert [await total(app, 1, name=f"tagger{number}") for number in range(3)] == [2, 3, 4]


async def test_workers_that_come_back_hold_what_was_loaded_meanwhile(opened: Opened, tmp_path: Path) -> None:
    for number in range(3):
        graphs.tagger(tmp_path, f"tagger{number}")
    async with opened(workers=2) as app:
        first, second = app.pool.workers
        graphs.tagger(tmp_path, "late", factor=9)
        os.kill(first.pid, signal.SIGKILL)
        while first.state is State.RUNNING:
            await asyncio.sleep(0)
        await app.catalog.load("late")
        await first.back()
        os.kill(second.pid, signal.SIGKILL)
        assert await total(app, 1, name="late") == 9
        await second.back()
        versions = [app.catalog.live(name) for name in ("tagger0", "tagger1", "tagger2", "late")]
        assert all(worker.holds(version.lane.key) for worker in (first, second) for version in versions)


async def test_a_worker_that_dies_while_it_is_probed(opened: Opened, tmp_path: Path) -> None:
    gate = tmp_path / ".gate"
    graphs.python_echo(tmp_path, gate=gate)
    async with opened(load=[]) as app:
        gate.touch()
        loading = asyncio.create_task(app.catalog.load("echo"))
        while not gate.with_suffix(".held").exists():
            await asyncio.sleep(0)
        os.kill(app.pool.workers[0].pid, signal.SIGKILL)
        gate.unlink()
        await loading
        assert states(app.catalog) == {("echo", "1"): "READY"}
        assert app.catalog.metadata("echo").properties["padding"] == "any"


async def test_a_bug_with_one_version_keeps_a_worker_from_no_other(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("broken", "tagger"):
        graphs.tagger(tmp_path, name)
    async with opened() as app:
        inspect = inspection.inspect

        def fails(files: VersionFiles, *more: Any) -> Any:
            if files.model == "broken":
                raise RuntimeError("a bug")
            return inspect(files, *more)

        monkeypatch.setattr(inspection, "inspect", fails)
        os.kill(app.pool.workers[0].pid, signal.SIGKILL)
        assert await total(app, 1) == 2
        with pytest.raises(NotReady, match="a bug"):
            await total(app, 1, name="broken")
