"""Sealed versions in a running server: what was tampered with is refused with its reason, and all else is served."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import graphs
import pytest
from servers import Server, end, launch

from sluice.store.manifest import seal


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One version as it was sealed, one with a changed file, and one that nobody sealed."""
    models = tmp_path / "models"
    for name in ("whole", "changed", "open"):
        graphs.tagger(models, name)
    for name in ("whole", "changed"):
        seal(models / name / "1")
    graphs.tagger(tmp_path, "other", factor=7)
    shutil.copy(tmp_path / "other" / "1" / "model.onnx", models / "changed" / "1" / "model.onnx")
    return models


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[Server]:
    server = launch(repository, tmp_path / "server.log", "--workers", "1")
    yield server
    end(server)


def total(server: Server, name: str) -> int:
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    status, answer = server.request("POST", f"/v2/models/{name}/infer", body)
    return int(answer["outputs"][1]["data"][0]) if status == 200 else status


def row(server: Server, name: str) -> dict[str, str]:
    rows = server.request("POST", "/v2/repository/index", {})[1]
    (found,) = [row for row in rows if row["name"] == name]
    return dict(found)


def load(server: Server, name: str) -> str:
    """Load it anew; what the server says against it."""
    status, answer = server.request("POST", f"/v2/repository/models/{name}/load", {})
    assert (status == 200) == (not answer)
    return str(answer["error"]) if answer else ""


def test_a_version_is_served_only_as_it_was_sealed(server: Server, repository: Path) -> None:
    assert (total(server, "whole"), total(server, "open"), total(server, "changed")) == (2, 2, 503)
    refused = row(server, "changed")
    assert refused["state"] == "UNAVAILABLE"
    assert "changed/1 is not what its manifest says: model.onnx is changed" in refused["reason"]

    # Put right, it is served; changed while it is served, the new files are refused and the old life goes on.
    graphs.tagger(repository, "changed")
    assert load(server, "changed") == ""
    assert total(server, "changed") == 2
    (repository / "changed" / "1" / "weights.bin").write_bytes(b"more")
    assert "weights.bin is not in the manifest" in load(server, "changed")
    assert total(server, "changed") == 2

    # The card is not sealed, so it cannot be the model.
    shutil.copy(repository / "open" / "1" / "model.onnx", repository / "whole" / "1" / "README.md")
    assert load(server, "whole") == ""
    (repository / "whole" / "model.toml").write_text('filename = "README.md"\nbackend = "onnxruntime"\n')
    assert "must be one that its manifest names" in load(server, "whole")

    # A manifest that makes no sense is no permission.
    (repository / "whole" / "model.toml").unlink()
    (repository / "whole" / "1" / "model.onnx").write_bytes(b"other")
    (repository / "whole" / "1" / "manifest.toml").write_text("manifest = 1\n")
    assert "whole/1/manifest.toml: name: is missing" in load(server, "whole")
    assert row(server, "open")["state"] == "READY"


def test_a_new_worker_checks_what_it_loads_again(server: Server, repository: Path) -> None:
    assert (total(server, "whole"), total(server, "open")) == (2, 2)
    shutil.copy(repository / "changed" / "1" / "model.onnx", repository / "whole" / "1" / "model.onnx")
    server.workers()[0].kill()
    assert total(server, "open") == 2
    assert total(server, "whole") == 503
    assert "model.onnx is changed" in server.output()
