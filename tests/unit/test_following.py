"""A server that follows its repository's files, with real workers and without front ends."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import graphs
import numpy as np
import pytest

from sluice.app import App
from sluice.config.settings import Models, Settings, Workers
from sluice.errors import ModelError, UnknownModel
from sluice.request import InferRequest, Tensor
from sluice.store import aliases
from sluice.store.manifest import seal

Opened = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """The inner parts of a server that looks at the test's repository all the time."""

    @asynccontextmanager
    async def open_app(**models: object) -> AsyncIterator[App]:
        section = Models.model_validate({"repository": tmp_path, "watch": 0.001, **models})
        app = App(Settings(models=section, workers=Workers(device="cpu", count=1)))
        try:
            await app.pool.start()
            await app.catalog.load_all()
            app.catalog.start()
            yield app
        finally:
            await app.close()

    return open_app


def states(app: App) -> dict[tuple[str, str], str]:
    return {(row.name, row.version): row.state for row in app.catalog.index()}


async def until(app: App, condition: Callable[[], bool]) -> None:
    """Wait for a state; whatever changes one says so."""
    while not condition():
        await app.health.changed()


async def become(app: App, expected: dict[tuple[str, str], str]) -> None:
    """Wait until these are the states of all models."""
    await until(app, lambda: states(app) == expected)


def answering(app: App) -> str:
    """The version of `tagger` that answers."""
    return app.catalog.aliases("tagger").default


async def factor(app: App, version: str = "", name: str = "tagger") -> int:
    data = np.array([[1]], "<i8")
    request = InferRequest(name, version, (Tensor("input_ids", "INT64", data.shape, data.tobytes()),))
    response = await app.engine.infer(request)
    return int(next(one for one in response.outputs if one.name == "total").array()[0, 0])


async def test_versions_and_models_come_and_go(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened() as app:
        graphs.tagger(tmp_path, version="2", factor=20)
        await become(app, {("tagger", "1"): "UNAVAILABLE", ("tagger", "2"): "READY"})
        assert await factor(app) == 20
        graphs.tagger(tmp_path, "other", factor=7)
        await become(app, {("tagger", "1"): "UNAVAILABLE", ("tagger", "2"): "READY", ("other", "1"): "READY"})
        shutil.rmtree(tmp_path / "tagger" / "2")
        await become(app, {("tagger", "2"): "UNAVAILABLE", ("tagger", "1"): "READY", ("other", "1"): "READY"})
        assert await factor(app) == 10
        shutil.rmtree(tmp_path / "other")
        await become(app, {("tagger", "2"): "UNAVAILABLE", ("tagger", "1"): "READY"})
        with pytest.raises(UnknownModel):
            await factor(app, name="other")


async def test_the_last_version_goes_and_comes_again(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    graphs.tagger(tmp_path, "other", factor=7)
    async with opened() as app:
        shutil.rmtree(tmp_path / "tagger" / "1")
        await until(app, lambda: states(app)["tagger", "1"] == "UNAVAILABLE")
        await until(app, lambda: ("tagger", "") in states(app))
        graphs.tagger(tmp_path, factor=20)
        await become(app, {("tagger", "1"): "READY", ("other", "1"): "READY"})
        assert await factor(app) == 20
        aliases.promote(tmp_path / "tagger", "production", "1", "")
        await until(app, lambda: app.catalog.aliases("tagger").aliases == {"production": "1"})
        shutil.rmtree(tmp_path / "tagger" / "1")
        graphs.tagger(tmp_path, "other", version="2", factor=8)
        await until(app, lambda: states(app).get(("other", "2")) == "READY")
        assert await factor(app) == 20, "what is in production stays there"


async def test_aliases_and_settings_are_followed(opened: Opened, tmp_path: Path) -> None:
    for number in ("1", "2"):
        graphs.tagger(tmp_path, version=number, factor=10 * int(number))
    async with opened() as app:
        aliases.promote(tmp_path / "tagger", "production", "1", "somebody with a command line")
        await become(app, {("tagger", "1"): "READY", ("tagger", "2"): "READY"})
        await until(app, lambda: answering(app) == "1")
        (tmp_path / "tagger" / "model.toml").write_text("max_batch_rows = 3\n")
        await until(app, lambda: app.catalog.configuration("tagger")["max_batch_size"] == 3)


async def test_a_version_that_failed_is_tried_again_when_it_changes(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened() as app:
        path = graphs.tagger(tmp_path, version="2", factor=20)
        whole = path.read_bytes()
        path.write_bytes(b"nothing of the kind")
        await become(app, {("tagger", "1"): "READY", ("tagger", "2"): "UNAVAILABLE"})
        assert await factor(app) == 10
        for named in ({"production": "1"}, {"production": "1", "staging": "1"}):
            text = "".join(f"{alias} = {value}\n" for alias, value in named.items())
            (tmp_path / "tagger" / "aliases.toml").write_text(text)
            await until(app, lambda named=named: app.catalog.aliases("tagger").aliases == named)  # type: ignore[misc]
        assert caplog.text.count("version 2 cannot be served") == 1
        (tmp_path / "tagger" / "aliases.toml").unlink()
        path.write_bytes(whole)
        await until(app, lambda: answering(app) == "2")
        assert await factor(app) == 20


async def test_what_fails_again_takes_nothing_from_what_serves(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened() as app:
        graphs.tagger(tmp_path, version="2").write_bytes(b"nothing of the kind")
        expected = {("tagger", "1"): "READY", ("tagger", "2"): "UNAVAILABLE"}
        await become(app, expected)
        await app.catalog.promote("tagger", "staging", "1", "")
        await app.catalog.remove_alias("tagger", "staging", "")
        assert states(app) == expected
        assert await factor(app) == 10


async def test_what_is_half_there_is_not_touched_and_said(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graphs.tagger(tmp_path, factor=10)
    source = graphs.tagger(tmp_path / ".source", factor=20).parent
    seal(source)
    async with opened() as app:
        version = tmp_path / "tagger" / "2"
        version.mkdir()
        shutil.copy(source / "manifest.toml", version)
        await become(app, {("tagger", "1"): "READY", ("tagger", "2"): "UNAVAILABLE"})
        assert next(row.reason for row in app.catalog.index() if row.version == "2").startswith("it is not complete: 1")
        assert await factor(app) == 10
        await app.catalog.promote("tagger", "staging", "1", "")
        assert states(app)["tagger", "1"] == "READY"
        assert "cannot be served" not in caplog.text
        shutil.copy(source / "model.onnx", version)
        await until(app, lambda: states(app)["tagger", "2"] == "READY")
        assert await factor(app) == 20


async def test_what_a_client_said_counts_more(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    graphs.tagger(tmp_path, "other", factor=7)
    async with opened() as app:
        await app.catalog.unload("tagger")
        await app.catalog.load("other", '{"max_batch_size": 3}')
        graphs.tagger(tmp_path, factor=20)
        graphs.tagger(tmp_path, "other", factor=8)
        graphs.tagger(tmp_path, "third")
        await until(app, lambda: states(app).get(("third", "1")) == "READY")  # by then the others were seen as well
        assert states(app)["tagger", "1"] == "UNAVAILABLE"
        assert await factor(app, name="other") == 7
        await app.catalog.load("tagger")
        assert await factor(app) == 20
        old = app.catalog.live("tagger")
        graphs.tagger(tmp_path, factor=30)
        await until(app, lambda: app.catalog.live("tagger") is not old)
        assert await factor(app) == 30


async def test_only_the_models_named_are_followed(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened(load=["tagger"]) as app:
        graphs.tagger(tmp_path, "other")
        graphs.tagger(tmp_path, version="2", factor=20)
        await until(app, lambda: answering(app) == "2")
        assert states(app)["other", ""] == "UNAVAILABLE"


async def test_a_volume_that_is_gone_takes_no_model(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened() as app:
        (tmp_path / "tagger").rename(tmp_path / ".kept")
        while "every model is gone at once" not in caplog.text:
            await asyncio.sleep(0)
        assert await factor(app) == 10
        (tmp_path / ".kept").rename(tmp_path / "tagger")
        graphs.tagger(tmp_path, version="2", factor=20)
        await until(app, lambda: answering(app) == "2")


async def test_without_it_nothing_happens_by_itself(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened(watch=0) as app:
        graphs.tagger(tmp_path, version="2", factor=20)
        for _ in range(100):
            await asyncio.sleep(0)
        assert states(app) == {("tagger", "1"): "READY"}


async def test_rows_of_what_was_unloaded_do_not_pile_up(opened: Opened, tmp_path: Path) -> None:
    async with opened(watch=0) as app:
        for number in range(1, 6):
            graphs.tagger(tmp_path, version=str(number))
            await app.catalog.load("tagger")
            assert len(states(app)) == min(number, 2)
        await app.catalog.unload("tagger")
        assert states(app) == {("tagger", "5"): "UNAVAILABLE", ("tagger", "4"): "UNAVAILABLE"}
        shutil.rmtree(tmp_path / "tagger")
        assert states(app) == {}


DELETES_ITSELF = """
import shutil


class Model:
    def load(self, directory, parameters):
        shutil.rmtree(directory)
        raise RuntimeError("gone")
"""


async def test_a_version_that_goes_while_it_is_loaded_is_no_longer_loading(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened(watch=0, python_directories=[tmp_path]) as app:
        graphs.python_model(tmp_path, "goes", DELETES_ITSELF)
        with pytest.raises(ModelError):
            await app.catalog.load("goes")
        assert states(app) == {("tagger", "1"): "READY", ("goes", "1"): "UNAVAILABLE"}


WARM_UP = """
[[warm_up]]
[[warm_up.input]]
name = "input_ids"
datatype = "INT64"
shape = [4]
source = "file"
file = "slow"
"""


async def test_others_answer_while_what_warms_a_version_is_made(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    async with opened(watch=0) as app:
        graphs.tagger(tmp_path, "other", factor=7)
        (tmp_path / "other" / "model.toml").write_text(WARM_UP)
        (tmp_path / "other" / "warmup").mkdir()
        file = tmp_path / "other" / "warmup" / "slow"
        os.mkfifo(file)
        asked, answered = threading.Event(), threading.Event()
        ends: list[bool] = []

        def write() -> None:
            with file.open("wb") as pipe:  # once somebody reads
                asked.set()
                ends.append(answered.wait(20))
                pipe.write(bytes(4 * 8))

        loading = asyncio.create_task(app.catalog.load("other"))
        writing = asyncio.create_task(asyncio.to_thread(write))
        await asyncio.to_thread(asked.wait)
        assert await factor(app) == 10
        answered.set()
        await writing
        await loading
        assert ends == [True]
        assert await factor(app, name="other") == 7


async def test_a_link_that_leads_to_itself_stops_no_start(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, factor=10)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "2").symlink_to("2")
    async with opened() as app:
        assert await factor(app) == 10
        graphs.tagger(tmp_path, version="2", factor=20)
        await until(app, lambda: states(app).get(("tagger", "2")) == "READY")


async def test_nobody_forgets_a_model_that_is_about_to_be_loaded_again(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path, "other", factor=7)
    path = graphs.tagger(tmp_path, factor=10)
    content = {"file:1/model.onnx": path.read_bytes()}
    shutil.rmtree(tmp_path / "tagger")
    async with opened(watch=0) as app:
        await app.catalog.load("tagger", "{}", content)
        await app.catalog.unload("tagger")
        async with app.catalog.follower.lock("tagger"):  # as whoever loads it
            assert states(app) == {("other", "1"): "READY", ("tagger", "1"): "UNAVAILABLE"}
        assert states(app) == {("other", "1"): "READY"}
        await app.catalog.load("tagger", "{}", content)
        assert await factor(app) == 10
