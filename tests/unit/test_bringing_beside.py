"""While what a model lacks is being brought the others are loaded and answer; and it ends with the server."""

import asyncio
from pathlib import Path

import graphs
import numpy as np
import psutil
import pytest
from website import Site

from sluice.app import App
from sluice.config.settings import Models, Settings, Workers
from sluice.request import InferRequest, Tensor
from sluice.store.bringing import Bringing


async def total(app: App, name: str) -> int:
    data = np.array([[1]], "<i8")
    request = InferRequest(name, "", (Tensor("input_ids", "INT64", data.shape, data.tobytes()),))
    response = await app.engine.infer(request)
    return int(next(one for one in response.outputs if one.name == "total").array()[0, 0])


async def test_the_others_answer_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "*")
    repository = tmp_path / "models"
    graphs.tagger(repository, "own", factor=10)
    (repository / "far").mkdir()
    app = App(Settings(models=Models(repository=repository), workers=Workers(device="cpu", count=1)))
    with Site() as site:
        (repository / "far" / "model.toml").write_text(f"[source]\nfrom = '{site.url}/far.onnx'")
        site.files["/far.onnx"] = graphs.tagger(tmp_path / "origin", factor=30).read_bytes()
        site.stalls = [100]
        try:
            await app.pool.start()
            app.catalog.bringing = Bringing(repository)
            loading = asyncio.create_task(app.catalog.load_all())
            wanted = {("far", "", "LOADING", "is brought from its source"), ("own", "1", "READY", "")}
            while {(row.name, row.version, row.state, row.reason) for row in app.catalog.index()} != wanted:
                await asyncio.sleep(0)
            while not site.requests:
                await asyncio.sleep(0)
            assert await total(app, "own") == 10
            (bringing,) = [each for each in psutil.Process().children() if "pull" in each.cmdline()]
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            assert not bringing.is_running()
            await app.catalog.load_all()  # as the next start
            assert await total(app, "far") == 30
        finally:
            await app.close()
