"""Aliases in a server: who answers, what is brought up for them and kept, with real workers and without front ends."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import graphs
import numpy as np
import pytest
from apps import running

from sluice.app import App
from sluice.config.settings import Models, Settings, Workers
from sluice.errors import InvalidRequest, ModelError, NotReady, ShortOfMemory, UnknownModel, Unsupported
from sluice.request import InferRequest, Tensor
from sluice.store import aliases

Opened = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """The inner parts of a server on the test's repository, its models loaded."""

    def open_app(**models: object) -> AbstractAsyncContextManager[App]:
        section = Models.model_validate({"repository": tmp_path, **models})
        return running(Settings(models=section, workers=Workers(device="cpu", count=1)))

    return open_app


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """`tagger` with versions 1, 2 and 3, which multiply by 10, 20 and 30; the policy asks for the latest."""
    for factor in (10, 20, 30):
        graphs.tagger(tmp_path, version=str(factor // 10), factor=factor)
    return tmp_path / "tagger"


async def factor(app: App, version: str = "") -> int:
    data = np.array([[1]], "<i8")
    request = InferRequest("tagger", version, (Tensor("input_ids", "INT64", data.shape, data.tobytes()),))
    response = await app.engine.infer(request)
    return int(next(one for one in response.outputs if one.name == "total").array()[0, 0])


def live(app: App) -> list[str]:
    return [row.version for row in app.catalog.index(ready=True)]


async def test_production_decides_where_no_version_is_asked_for(opened: Opened, model: Path) -> None:
    async with opened() as app:
        assert live(app) == ["3"]
        change = await app.catalog.promote("tagger", "production", "1", "ann", "slow but right")
        assert (change.before, change.after) == ("", "1")
        assert await factor(app) == await factor(app, "production") == await factor(app, "1") == 10
        assert await factor(app, "previous") == await factor(app, "3") == 30  # what served before
        assert live(app) == ["1", "3"]
        found = app.catalog.aliases("tagger")
        assert (found.aliases, found.default) == ({"production": "1", "previous": "3"}, "1")
        assert await app.catalog.history("tagger") == [change]
        assert app.catalog.metadata("tagger", "production").versions == ("1", "3")
        assert app.catalog.version_ready("tagger", "production")


async def test_the_client_is_told_the_number(opened: Opened, model: Path) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "2", "")
        for version in ("", "production", "2"):
            assert app.catalog.route("tagger", version).number == "2"


async def test_a_rollback_needs_no_loading_and_a_second_takes_it_back(opened: Opened, model: Path) -> None:
    async with opened() as app:
        for version in ("1", "2"):
            await app.catalog.promote("tagger", "production", version, "")
        assert live(app) == ["1", "2", "3"]
        before = app.catalog.live("tagger", "1")
        for expected in (10, 20):
            await app.catalog.promote("tagger", "production", "previous", "")
            assert await factor(app) == expected
        assert app.catalog.live("tagger", "1") is before
        await app.catalog.promote("tagger", "production", "3", "")
        assert live(app) == ["2", "3"]  # nothing asks for the first any more


async def test_it_survives_a_restart(opened: Opened, model: Path) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        await app.catalog.promote("tagger", "staging", "2", "")
    async with opened() as app:
        assert live(app) == ["1", "2", "3"]
        assert (await factor(app), await factor(app, "staging"), await factor(app, "3")) == (10, 20, 30)


async def test_a_server_follows_what_was_written_elsewhere(opened: Opened, model: Path) -> None:
    async with opened() as app, opened() as other:
        await app.catalog.promote("tagger", "production", "1", "")
        assert await factor(other) == 30
        await other.catalog.load("tagger")
        assert await factor(other) == 10
        aliases.promote(model, "production", "2", "somebody with a command line")
        await other.catalog.promote("tagger", "staging", "3", "")
        assert await factor(other) == 20
        await app.catalog.promote("tagger", "production", "previous", "")
        assert await factor(app) == 10


async def test_what_cannot_be_loaded_is_not_promoted(opened: Opened, model: Path) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        (model / "2" / "model.onnx").write_bytes(b"nothing of the kind")
        (model / "4").mkdir()
        for version, reason in (
            ("2", r"version 2 of 'tagger' cannot be promoted: .*model\.onnx"),
            ("4", "no model.onnx"),
        ):
            with pytest.raises(ModelError, match=reason):
                await app.catalog.promote("tagger", "production", version, "")
        assert await factor(app) == 10
        assert aliases.read(model) == {"production": "1", "previous": "3"}
        assert len(aliases.history(model)) == 1


async def test_production_stays_with_what_serves_when_the_file_asks_for_what_does_not(
    opened: Opened, model: Path
) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        (model / aliases.ALIASES).write_text("production = 7\n")
        with pytest.raises(ModelError, match="production is version 7, which is not there; there are 1, 2, 3"):
            await app.catalog.load("tagger")
        assert await factor(app) == 10
        (model / aliases.ALIASES).write_text("production = ")
        with pytest.raises(ModelError, match=r"tagger/aliases\.toml"):
            await app.catalog.load("tagger")
        assert await factor(app) == await factor(app, "production") == 10
        (model / aliases.ALIASES).unlink()
        await app.catalog.load("tagger")
        assert await factor(app) == 30
        assert live(app) == ["3"]


async def test_no_other_version_answers_while_production_is_not_there(opened: Opened, model: Path) -> None:
    (model / aliases.ALIASES).write_text("production = 2\n")
    (model / "2" / "model.onnx").write_bytes(b"nothing of the kind")
    async with opened() as app:
        with pytest.raises(NotReady, match=r"'tagger' version 2 is not at ready state: .*model\.onnx"):
            await factor(app)
        assert await factor(app, "3") == 30
        assert app.catalog.aliases("tagger").default == ""
        assert not app.catalog.version_ready("tagger")
        assert app.catalog.capable(), "as with any model that could not be loaded"


async def test_the_log_tells_the_way_back_when_production_is_not_there(
    opened: Opened, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for named, said in (
        ("production = 2\nprevious = 1\n", "`sluice rollback tagger` puts back version 1, which was there before"),
        ("production = 2\n", "version 2 is in production and cannot answer"),
    ):
        (model / aliases.ALIASES).write_text(named)
        (model / "2" / "model.onnx").write_bytes(b"nothing of the kind")
        caplog.clear()
        async with opened() as app:
            assert said in caplog.text
            assert ("rollback" in caplog.text) == ("previous" in named)
            with pytest.raises(NotReady):
                await factor(app)


async def test_its_fallback_answers_while_production_is_not_there(opened: Opened, model: Path, tmp_path: Path) -> None:
    (model / "model.toml").write_text('fallback = "tagger/3"\n')
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        (model / "1").rename(tmp_path / ".moved")
        os.kill(app.pool.workers[0].pid, signal.SIGKILL)
        while "1" in live(app):
            await app.health.changed()
        await app.pool.workers[0].back()
        for version in ("", "production"):
            route = app.catalog.route("tagger", version)
            assert (route.version.number, route.number, route.fallback) == ("3", "1", "tagger/3")
            assert await factor(app, version) == 30
        assert await factor(app, "previous") == 30
        assert app.catalog.capable()
        await app.catalog.unload("tagger")
        assert app.catalog.capable(), "nothing is asked of it any more"


async def test_a_previous_version_may_be_deleted(opened: Opened, model: Path) -> None:
    (model / aliases.ALIASES).write_text("production = 3\nprevious = 9\n")
    async with opened() as app:
        await app.catalog.load("tagger")
        assert await factor(app) == 30
        with pytest.raises(UnknownModel, match="'tagger' has no version 9; there are 1, 2, 3"):
            await app.catalog.promote("tagger", "production", "previous", "")
        with pytest.raises(UnknownModel, match="version 9 is not found"):
            await factor(app, "previous")


async def test_a_model_that_is_not_loaded_is_loaded(opened: Opened, model: Path) -> None:
    async with opened(load=[]) as app:
        with pytest.raises(NotReady, match="it is not loaded"):
            await factor(app, "production")
        with pytest.raises(NotReady, match="it is not loaded"):
            app.catalog.aliases("tagger")
        await app.catalog.promote("tagger", "production", "2", "")
        assert await factor(app) == 20
        await app.catalog.unload("tagger")
        with pytest.raises(NotReady, match="'tagger' version 2 is not at ready state: unloaded"):
            await factor(app)
        await app.catalog.promote("tagger", "production", "2", "")
        assert await factor(app) == 20
        assert len(await app.catalog.history("tagger")) == 1


async def test_another_alias_takes_nothing_from_production(opened: Opened, model: Path) -> None:
    (model / aliases.ALIASES).write_text("production = 1\n")
    async with opened(load=[]) as app:
        promoting = asyncio.create_task(app.catalog.promote("tagger", "staging", "3", ""))
        answered = set()
        while not promoting.done():
            with contextlib.suppress(NotReady):
                answered.add(app.catalog.route("tagger").number)
            await asyncio.sleep(0)
        await promoting
        assert answered | {app.catalog.route("tagger").number} == {"1"}
        assert await factor(app, "staging") == 30


async def test_what_is_unknown_or_not_allowed(opened: Opened, model: Path) -> None:
    async with opened() as app:
        with pytest.raises(
            UnknownModel, match="'tagger' version production is not found among aliases; there are none"
        ):
            await factor(app, "production")
        with pytest.raises(UnknownModel, match="'nothing' is not found"):
            app.catalog.live("nothing", "production")
        for name in ("nothing", "../tagger", ""):
            with pytest.raises(UnknownModel, match="is not found"):
                await app.catalog.promote(name, "production", "1", "")
        with pytest.raises(UnknownModel, match="'tagger' has no version 9; there are 1, 2, 3"):
            await app.catalog.promote("tagger", "production", "9", "")
        with pytest.raises(InvalidRequest, match="'Production' is not an alias"):
            await app.catalog.promote("tagger", "Production", "1", "")
        app.catalog.short_of_memory = "it is full"
        with pytest.raises(ShortOfMemory):
            await app.catalog.promote("tagger", "production", "1", "")
        assert not (model / aliases.HISTORY).exists()
    async with opened(control=False) as app:
        for refused in (app.catalog.promote("tagger", "production", "1", ""), app.catalog.history("tagger")):
            with pytest.raises(Unsupported, match=r"models\.control is off"):
                await refused
        with pytest.raises(Unsupported, match=r"models\.control is off"):
            app.catalog.aliases("tagger")


@pytest.mark.parametrize("replace", ["beside", "in-turn"])
@pytest.mark.parametrize("alias", ["production", "staging"])
async def test_one_that_cannot_be_written_changes_nothing(
    opened: Opened, tmp_path: Path, replace: str, alias: str
) -> None:
    graphs.tagger(tmp_path, version="1", factor=10)
    async with opened(replace=replace) as app:
        graphs.tagger(tmp_path, version="2", factor=20)
        in_the_way = tmp_path / "tagger" / aliases.HISTORY
        in_the_way.mkdir()
        with pytest.raises(ModelError, match=aliases.HISTORY):
            await app.catalog.promote("tagger", alias, "2", "")
        assert await factor(app) == 10
        assert live(app) == ["1"]
        assert app.catalog.aliases("tagger").default == "1"
        in_the_way.rmdir()
        await app.catalog.promote("tagger", "production", "2", "")
        assert await factor(app) == 20


async def test_nothing_answers_for_one_that_cannot_be_written(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, version="1", factor=10)
    async with opened(load=[]) as app:
        (tmp_path / "tagger" / aliases.HISTORY).mkdir()
        with pytest.raises(ModelError, match=aliases.HISTORY):
            await app.catalog.promote("tagger", "production", "1", "")
        with pytest.raises(NotReady):
            await factor(app)
