"""Versions that nobody should load, in a running server: each is refused with its reason, and all else is served."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import onnx
import pytest
from onnx import TensorProto
from servers import Server, end, launch

from sluice.store.manifest import seal


def reaching_out(path: Path) -> None:
    """Make a model read a file of the system."""
    model = onnx.load(path)
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.UINT8, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    for name in ("good", "reaching", "sealed"):
        path = graphs.tagger(models, name)
    for name in ("reaching", "sealed"):
        reaching_out(models / name / "1" / "model.onnx")
    seal(path.parent)
    for name in ("pickled", "allowed"):
        graphs.python_echo(models, name)
        (models / name / "1" / "weights.bin").write_bytes(pickle.dumps({"weights": [1.0]}))
    return models


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[Server]:
    allowed = ("--python-directory", str(repository), "--pickle-directory", str(repository / "allowed"))
    server = launch(repository, tmp_path / "server.log", "--workers", "1", *allowed)
    yield server
    end(server)


def load(server: Server, name: str) -> str:
    """Load it anew; what the server says against it."""
    status, answer = server.request("POST", f"/v2/repository/models/{name}/load", {})
    assert (status == 200) == (not answer)
    return str(answer["error"]) if answer else ""


def test_what_nobody_should_load_is_refused_while_others_serve(server: Server, repository: Path) -> None:
    body: dict[str, Any] = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    rows = {row["name"]: row for row in server.request("POST", "/v2/repository/index", {})[1]}
    assert {name for name, row in rows.items() if row["state"] == "READY"} == {"good", "allowed"}
    for name in ("reaching", "sealed"):
        said = "model.onnx: tensor 'w': external_data: location: '/etc/passwd' is an absolute path"
        assert f"{name}/1/{said}" in rows[name]["reason"]
    assert "pickled/1/weights.bin: is a pickle" in rows["pickled"]["reason"]
    assert server.request("POST", "/v2/models/good/infer", body)[0] == 200
    assert server.request("POST", "/v2/models/reaching/infer", body)[0] == 503

    # Put right, it is served; gone bad while it is served, the new files are refused and the old life goes on.
    graphs.tagger(repository, "reaching")
    assert load(server, "reaching") == ""
    reaching_out(repository / "good" / "1" / "model.onnx")
    assert "absolute path" in load(server, "good")
    for name in ("good", "reaching"):
        assert server.request("POST", f"/v2/models/{name}/infer", body)[0] == 200
