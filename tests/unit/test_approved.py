"""Approval in a server: what becomes production and what does not, with real workers and without front ends."""

import mmap
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import graphs
import numpy as np
import pytest
import signers
from apps import running
from signers import Signer

from sluice.app import App
from sluice.config.settings import Models, Settings, Workers
from sluice.errors import ModelError, NotApproved, NotReady
from sluice.request import InferRequest, Tensor
from sluice.store import aliases, signing
from sluice.store.manifest import seal

Opened = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def ann(tmp_path: Path) -> Signer:
    return signers.signer(tmp_path / ".keys", "ann")


@pytest.fixture
def opened(tmp_path: Path, ann: Signer) -> Opened:
    """The inner parts of a server on the test's repository, where production is for what ann signed."""

    def open_app(approval: tuple[str, ...] = ("signed",)) -> AbstractAsyncContextManager[App]:
        said = {"repository": tmp_path, "approval": approval, "trusted_keys": [str(ann.public)]}
        return running(Settings(models=Models.model_validate(said), workers=Workers(device="cpu", count=1)))

    return open_app


@pytest.fixture
def model(tmp_path: Path, ann: Signer) -> Path:
    """`tagger` with versions 1, 2 and 3, which multiply by 10, 20 and 30; the first two are signed."""
    for factor in (10, 20, 30):
        seal(graphs.tagger(tmp_path, version=str(factor // 10), factor=factor).parent)
    for number in ("1", "2"):
        sign(tmp_path / "tagger" / number, ann)
    return tmp_path / "tagger"


def sign(directory: Path, signer: Signer) -> None:
    signing.sign(directory, signing.Identity(signer.key.read_bytes()))


async def factor(app: App, version: str = "") -> int:
    data = np.array([[1]], "<i8")
    request = InferRequest("tagger", version, (Tensor("input_ids", "INT64", data.shape, data.tobytes()),))
    response = await app.engine.infer(request)
    return int(next(one for one in response.outputs if one.name == "total").array()[0, 0])


def reason(app: App, version: str) -> str:
    (row,) = [row for row in app.catalog.index(ready=True) if row.version == version]
    return row.reason


async def test_only_what_is_approved_becomes_production(opened: Opened, model: Path, ann: Signer) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        await app.catalog.promote("tagger", "staging", "3", "")
        for wanted in ("3", "staging"):
            with pytest.raises(NotApproved, match="tagger/3 cannot become production: tagger/3 is not signed"):
                await app.catalog.promote("tagger", "production", wanted, "")
        assert (await factor(app), await factor(app, "staging")) == (10, 30)
        assert aliases.read(model)["production"] == "1"
        sign(model / "3", ann)
        await app.catalog.promote("tagger", "production", "3", "")
        assert await factor(app) == 30
        (model / "1" / "model.sig").unlink()
        with pytest.raises(NotApproved, match="tagger/1 is not signed"):
            await app.catalog.promote("tagger", "production", "previous", "")
        assert await factor(app) == 30


async def test_what_serves_gives_its_place_to_nothing_unapproved(
    opened: Opened, model: Path, ann: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        assert reason(app, "1") == ""
        (model / aliases.ALIASES).write_text("production = 3\n")  # by hand, past the rule
        for _ in range(2):
            await app.catalog.load("tagger")
            assert (await factor(app), await factor(app, "production"), await factor(app, "3")) == (10, 10, 30)
        blamed = (
            "aliases.toml has version 3 in production, which is not approved: tagger/3 is not signed; version 1 stays"
        )
        assert reason(app, "1") == blamed
        assert blamed in caplog.text
        await app.catalog.promote("tagger", "staging", "2", "")
        assert await factor(app) == 10
        sign(model / "3", ann)
        await app.catalog.load("tagger")
        assert await factor(app) == 30
        assert reason(app, "3") == ""


async def test_what_was_in_production_before_the_rule_serves_and_is_reported(
    opened: Opened, model: Path, ann: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(approval=()) as app:
        await app.catalog.promote("tagger", "production", "3", "")
        assert reason(app, "3") == ""
    async with opened() as app:
        assert await factor(app) == 30
        assert "version 3 in production, which is not approved: tagger/3 is not signed" in reason(app, "3")
        assert "which is not approved" in caplog.text
        assert app.catalog.capable()
        await app.catalog.promote("tagger", "production", "2", "")
        assert [reason(app, number) for number in ("2", "3")] == ["", ""]


async def test_a_production_that_is_not_there_is_reported_as_that(opened: Opened, model: Path) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        (model / aliases.ALIASES).write_text("production = 7\n")
        with pytest.raises(ModelError, match="production is version 7, which is not there"):
            await app.catalog.load("tagger")
        assert await factor(app) == 10


async def test_without_the_alias_nothing_is_asked(opened: Opened, model: Path) -> None:
    async with opened() as app:
        assert await factor(app) == 30
        assert reason(app, "3") == ""


# Ways past the rule.


async def test_files_of_a_request_are_approved_by_nobody(opened: Opened, model: Path) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        with pytest.raises(NotApproved, match=r"files that come with a request are approved by nobody"):
            await app.catalog.load("tagger", "{}", {"file:3/model.onnx": (model / "3" / "model.onnx").read_bytes()})
        assert await factor(app) == 10
    async with opened(approval=()) as app:
        await app.catalog.load("tagger", "{}", {"file:3/model.onnx": (model / "3" / "model.onnx").read_bytes()})
        assert await factor(app) == 30


async def test_production_is_not_taken_away_for_what_is_not_approved(opened: Opened, model: Path, ann: Signer) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        why = r"version 3 would answer, and is not approved: tagger/3 is not signed .*promote another instead"
        with pytest.raises(NotApproved, match=why):
            await app.catalog.remove_alias("tagger", "production", "")
        assert (await factor(app), aliases.read(model)["production"]) == (10, "1")
        await app.catalog.unload("tagger")
        with pytest.raises(NotApproved, match="version 3 would answer"):
            await app.catalog.remove_alias("tagger", "production", "")
        await app.catalog.load("tagger")
        sign(model / "3", ann)
        await app.catalog.remove_alias("tagger", "production", "")
        assert await factor(app) == 30


async def test_production_that_was_taken_away_by_hand_stays(opened: Opened, model: Path, ann: Signer) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        (model / aliases.ALIASES).unlink()
        await app.catalog.load("tagger")
        assert (await factor(app), await factor(app, "3")) == (10, 30)
        assert "has nothing in production any more, and version 3, which would answer, is not approved" in reason(
            app, "1"
        )
        sign(model / "3", ann)
        await app.catalog.load("tagger")
        assert await factor(app) == 30


async def test_changed_files_of_production_need_approval_too(opened: Opened, model: Path, ann: Signer) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        graphs.tagger(model.parent, factor=90)
        seal(model / "1")
        await app.catalog.load("tagger")
        await app.catalog.promote("tagger", "staging", "1", "")
        assert (await factor(app), await factor(app, "staging")) == (10, 10)
        assert "version 1 in production, which is not approved" in reason(app, "1")
        (model / aliases.ALIASES).write_text("production = 3\n")  # what stays is not loaded anew either
        await app.catalog.load("tagger")
        assert await factor(app) == 10
        aliases.promote(model, "production", "1", "")
        sign(model / "1", ann)
        await app.catalog.load("tagger")
        assert (await factor(app), reason(app, "1")) == (90, "")


async def test_a_worker_comes_back_with_what_was_approved_only(opened: Opened, model: Path, ann: Signer) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        graphs.tagger(model.parent, factor=90)
        seal(model / "1")
        os.kill(app.pool.workers[0].pid, signal.SIGKILL)
        assert await factor(app, "3") == 30
        with pytest.raises(NotReady, match="tagger/1: its files are not those that were loaded"):
            await factor(app)
        sign(model / "1", ann)
        await app.catalog.load("tagger")
        assert await factor(app) == 90


async def test_nothing_unapproved_begins_to_serve_but_at_the_start(opened: Opened, model: Path, ann: Signer) -> None:
    async with opened() as app:
        await app.catalog.promote("tagger", "production", "1", "")
        (model / aliases.ALIASES).write_text("production = 3\n")
        await app.catalog.unload("tagger")
        why = r"version 3 in production, which is not approved: tagger/3 is not signed"
        with pytest.raises(ModelError, match=why):
            await app.catalog.load("tagger")
        with pytest.raises(ModelError, match=why):
            await app.catalog.promote("tagger", "staging", "3", "")
        await app.catalog.promote("tagger", "staging", "2", "")
        assert await factor(app, "staging") == 20
        with pytest.raises(NotReady, match=why):
            await factor(app)
        sign(model / "3", ann)
        await app.catalog.load("tagger")
        assert await factor(app) == 30
    (model / "3" / "model.sig").unlink()
    async with opened() as app:
        assert await factor(app) == 30


async def test_what_is_live_must_be_what_was_approved(opened: Opened, model: Path, ann: Signer) -> None:
    """Files that were put back so that nothing shows they were others when they were loaded."""
    path = model / "2" / "model.onnx"
    good, evil = path.read_bytes(), graphs.tagger(model.parent / ".other", factor=70).read_bytes()
    kept = {name: (model / "2" / name).read_bytes() for name in ("manifest.toml", "model.sig")}
    assert len(good) == len(evil)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), len(good)) as mapped:
        mapped[:] = evil
        seal(model / "2")
        mapped[:] = evil  # from now on writing to it shows nowhere
        async with opened() as app:
            await app.catalog.promote("tagger", "production", "1", "")
            await app.catalog.promote("tagger", "staging", "2", "")
            assert await factor(app, "staging") == 70
            mapped[:] = good
            for name, content in kept.items():
                (model / "2" / name).write_bytes(content)
            with pytest.raises(NotApproved, match="what is loaded of it is not what was approved"):
                await app.catalog.promote("tagger", "production", "2", "")
            assert await factor(app) == 10
            path.touch()
            await app.catalog.promote("tagger", "production", "2", "")
            assert await factor(app) == 20


async def test_a_key_for_a_model_that_is_not_there_is_told(
    tmp_path: Path, model: Path, ann: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [f"{scope}={ann.public}" for scope in ("tager", "tagger", "hf://nobody/")]
    app = App(Settings(models=Models.model_validate({"repository": tmp_path, "trusted_keys": keys, "load": []})))
    try:
        await app.catalog.load_all()
    finally:
        await app.close()
    warnings = [record.message for record in caplog.records if "trusted_keys" in record.message]
    assert warnings == [f"models.trusted_keys: 'tager={ann.public}' is for a model that is not in the repository"]
