"""A server whose models change under load, by themselves or where memory has no room for both: no request fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from servers import Server, StartServer, end, launch
from traffic import Load, until

from sluice.cli.main import main
from sluice.store import aliases

MIB = 1 << 20


def rows(server: Server) -> dict[tuple[str, str], str]:
    found = server.request("POST", "/v2/repository/index", {})[1]
    return {(row["name"], row["version"]): row["state"] for row in found}


def total(server: Server, version: str = "") -> tuple[int, Any]:
    path = f"/v2/models/tagger/versions/{version}/infer" if version else "/v2/models/tagger/infer"
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    status, answer = server.request("POST", path, body)
    return status, answer["outputs"][1]["data"][0] if status == 200 else answer["error"]


def heavy(repository: Path, version: str, factor: int, size: int = 48 * MIB) -> Path:
    """`graphs.tagger` with so many bytes of weights, which add nothing."""
    from onnx import helper

    constants = {
        "factor": np.array(factor, np.int64),
        "axis": np.array([1], np.int64),
        "weights": np.zeros((size // 8,), np.int64),
        "zero": np.array(0, np.int64),
    }
    nodes = [
        helper.make_node("Mul", ["input_ids", "factor"], ["scaled"]),
        helper.make_node("Mul", ["input_ids", "zero"], ["first"]),
        helper.make_node("Gather", ["weights", "first"], ["nothing"], axis=0),
        helper.make_node("Add", ["scaled", "nothing"], ["tokens"]),
        helper.make_node("Mul", ["tokens", "attention_mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["total"], keepdims=1),
    ]
    ids = [graphs.value(one, "INT64", ["batch", "sequence"]) for one in ("input_ids", "attention_mask")]
    outputs = [graphs.value("tokens", "INT64", ["batch", "sequence"]), graphs.value("total", "INT64", ["batch", 1])]
    return graphs.save(repository / "tagger" / version / "model.onnx", nodes, ids, outputs, constants)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    repository = tmp_path / "models"
    graphs.tagger(repository, factor=10)
    server = launch(repository, tmp_path / "server.log", "--watch", "0.05")
    yield server, repository
    end(server)


def test_versions_that_appear_and_are_promoted_by_hand_are_noticed_by_no_client(watched: tuple[Server, Path]) -> None:
    server, repository = watched
    load = Load(server)
    with load.running():
        path = repository / "tagger" / "2" / "model.onnx"
        whole = graphs.tagger(repository.parent / "elsewhere", factor=20).read_bytes()
        path.parent.mkdir()
        with path.open("wb") as file:
            for byte in whole:  # as slow a copy as can be
                file.write(bytes([byte]))
                file.flush()
        until(lambda: rows(server).get(("tagger", "2")) == "READY", "the new version is there")
        load.wait_for_more()
        aliases.promote(repository / "tagger", "production", "1", "somebody", "")
        until(lambda: total(server) == (200, 10), "production is followed")
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {10, 20}
    assert server.metric("sluice_model_load_failures_total") == 0
    assert "cannot be served" not in server.output()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_version_in_the_place_of_another_fails_no_request(
    tmp_path: Path, start_server: StartServer, workers: str
) -> None:
    repository = tmp_path / "models"
    graphs.tagger(repository, version="1", factor=10)
    server = start_server(repository, "--workers", workers, "--replace", "in-turn")
    load = Load(server)
    with load.running(4):
        for version in ("2", "3"):
            graphs.tagger(repository, version=version, factor=10 * int(version))
            assert server.request("POST", "/v2/repository/models/tagger/load", {}) == (200, {})
            assert total(server) == (200, 10 * int(version))
            load.wait_for_more()
        graphs.tagger(repository, version="4").write_bytes(b"nothing of the kind")
        assert server.request("POST", "/v2/repository/models/tagger/load", {})[0] == 400
        load.wait_for_more()
        promoted = server.request("POST", "/v2/models/tagger/aliases/production", {"version": "2"})
        assert promoted[0] == 200, promoted
        load.wait_for_more()
        assert server.request("POST", "/v2/models/tagger/aliases/production", {"version": "previous"})[0] == 200
        assert total(server) == (200, 30)
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {10, 20, 30}
    assert server.metric("sluice_worker_restarts_total") == 0


def test_where_memory_has_no_room_for_both(tmp_path: Path, start_server: StartServer) -> None:
    repository = tmp_path / "models"
    heavy(repository, "1", 10)
    roomy = start_server(repository)
    until(lambda: roomy.metric("sluice_memory_bytes", part="workers") > 2 * 48 * MIB, "memory was looked at")
    used = sum(roomy.metric("sluice_memory_bytes", part=part) for part in ("server", "workers", "shared"))
    roomy.stop()
    # Enough for what one worker takes to load the files, and not for two workers to hold them once more.
    server = start_server(repository, "--memory-budget", str(int(used) + 120 * MIB))
    load = Load(server)
    with load.running():
        heavy(repository, "2", 20)
        assert server.request("POST", "/v2/repository/models/tagger/load", {}) == (200, {})
        assert total(server) == (200, 20)
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {10, 20}
    assert "in turn: there is no room for it beside" in server.output()
    assert rows(server) == {("tagger", "1"): "UNAVAILABLE", ("tagger", "2"): "READY"}


def test_metrics_tell_what_is_live_and_what_it_takes(tmp_path: Path, start_server: StartServer) -> None:
    repository = tmp_path / "models"
    path = heavy(repository, "1", 10)
    graphs.tagger(repository, "broken").write_bytes(b"nothing of the kind")
    server = start_server(repository, "--load", "tagger")
    names = {"model": "tagger", "version": "1"}
    assert server.metric("sluice_model_load_seconds", **names) > 0
    assert server.metric("sluice_model_bytes", **names) == path.stat().st_size
    assert server.metric("sluice_model_memory_bytes", **names) > path.stat().st_size / 2
    assert server.metric("sluice_version_in_use", alias="", **names) == 1
    assert server.metric("sluice_version_in_use", alias="production", **names) == 0
    assert server.metric("sluice_model_cache_lookups_total", cache="cost", outcome="miss") == 1
    assert server.request("POST", "/v2/repository/models/broken/load", {})[0] == 400
    assert server.metric("sluice_model_load_failures_total", model="broken") == 1
    heavy(repository, "2", 20)
    for alias, version in (("staging", "1"), ("production", "2")):
        assert server.request("POST", f"/v2/models/tagger/aliases/{alias}", {"version": version})[0] == 200
    for version, alias in (("1", "staging"), ("2", "production"), ("2", "")):
        assert server.metric("sluice_version_in_use", model="tagger", version=version, alias=alias) == 1
    assert server.metric("sluice_version_in_use") == 3
    assert server.request("POST", "/v2/repository/models/tagger/unload", {})[0] == 200
    assert server.metric("sluice_version_in_use") == server.metric("sluice_model_bytes") == 0


def test_an_alias_can_be_taken_away(
    watched: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server, repository = watched
    monkeypatch.setenv("SLUICE_URL", server.http)
    graphs.tagger(repository, version="2", factor=20)
    assert main(["promote", "tagger", "2", "--alias", "staging"]) == 0
    assert main(["promote", "tagger", "1"]) == 0
    assert total(server) == (200, 10)
    assert main(["models", "unalias", "tagger", "staging", "--by", "ann", "--reason", "done"]) == 0
    assert "tagger has no staging any more, it was version 2" in capsys.readouterr().out
    assert total(server, "staging")[0] == 404
    status, change = server.request("DELETE", "/v2/models/tagger/aliases/production", {}, {"Sluice-By": "bob"})
    assert (status, change["by"], change["before"], change["after"]) == (200, "bob", "1", "")
    assert total(server) == (200, 20)
    found = server.request("GET", "/v2/models/tagger/aliases")[1]
    assert found["aliases"] == {"previous": "2"}
    assert [(one["by"], one["after"], one["reason"]) for one in found["history"][-2:]] == [
        ("ann", "", "done"),
        ("bob", "", ""),
    ]
    assert server.request("DELETE", "/v2/models/tagger/aliases/production")[0] == 404
    assert main(["models", "unalias", "tagger", "production"]) == 1
