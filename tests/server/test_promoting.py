"""Versions promoted and rolled back in a server that is used meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import graphs
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from servers import Server, StartServer, end, launch
from traffic import Load, int64

from sluice.cli.main import main
from sluice.store import aliases

ALIASES = "/v2/models/tagger/aliases"


@dataclass
class Place:
    repository: Path
    server: Server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server with the versions 1 and 2 of `tagger`, which multiply by 10 and 20, and the latest live."""
    repository = tmp_path / "models"
    for number, factor in (("1", 10), ("2", 20)):
        graphs.tagger(repository, version=number, factor=factor)
    server = launch(repository, tmp_path / "server.log")
    yield Place(repository, server)
    end(server)


def total(server: Server, version: str = "") -> int:
    path = f"/v2/models/tagger/versions/{version}/infer" if version else "/v2/models/tagger/infer"
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    status, answer = server.request("POST", path, body)
    assert status == 200, answer
    return int(answer["outputs"][1]["data"][0])


def promote(server: Server, version: str, alias: str = "production", **sent: str) -> None:
    status, answer = server.request("POST", f"{ALIASES}/{alias}", {"version": version, **sent})
    assert status == 200, answer


def test_nobody_notices_promotions_and_rollbacks(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = place.server
    monkeypatch.setenv("SLUICE_URL", server.http)
    load = Load(server)
    with load.running(1):
        assert main(["promote", "tagger", "1"]) == 0  # which is not live yet
        assert total(server) == 10
        load.wait_for_more()
        graphs.tagger(place.repository, version="3", factor=30)
        promote(server, "3", by="ann", reason="new")
        assert total(server) == 30
        load.wait_for_more()
        assert main(["rollback", "tagger", "--by", "bob"]) == 0
        assert total(server) == 10
        load.wait_for_more()
        graphs.tagger(place.repository, version="4", factor=40)
        (place.repository / "tagger" / "4" / "model.onnx").write_bytes(b"nothing of the kind")
        assert main(["promote", "tagger", "4"]) == 1
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {10, 20, 30}
    assert "version 4 of 'tagger' cannot be promoted" in capsys.readouterr().err
    assert main(["models", "history", "tagger"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["previous", "3"] in rows
    assert ["ann", "production", "1", "3", "new"] in [row[1:] for row in rows]
    found = server.request("GET", ALIASES)[1]
    assert (found["aliases"], found["default"]) == ({"production": "1", "previous": "3"}, "1")
    assert [(one["by"], one["after"], one["reason"]) for one in found["history"][1:]] == [
        ("ann", "3", "new"),
        ("bob", "1", ""),
    ]


def test_aliases_are_versions_to_every_client_and_outlive_the_server(place: Place, start_server: StartServer) -> None:
    promote(place.server, "1")
    promote(place.server, "2", "staging")
    for server in (place.server, start_server(place.repository)):
        assert [total(server, version) for version in ("", "production", "staging", "1", "2")] == [10, 10, 20, 10, 20]
        assert server.request("GET", "/v2/models/tagger/versions/staging/ready")[0] == 200
        status, answer = server.request("GET", "/v2/models/tagger/versions/canary")
        assert (
            status,
            "version canary is not found among aliases; there are previous, production, staging" in answer["error"],
        ) == (404, True)
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            inputs = int64(triton_grpc, input_ids=np.ones((1, 1), np.int64))
            for version, number, factor in (("production", "1", 10), ("staging", "2", 20)):
                result = client.infer("tagger", inputs, model_version=version)
                assert result.get_response().model_version == number
                assert result.as_numpy("total")[0, 0] == factor
                assert client.is_model_ready("tagger", version)


def test_a_second_server_follows_at_its_next_load(place: Place, start_server: StartServer) -> None:
    other = start_server(place.repository)
    promote(place.server, "1")
    assert total(other) == 20
    assert other.request("POST", "/v2/repository/models/tagger/load", {})[0] == 200
    assert total(other) == 10


def test_what_cannot_be_written_changes_nothing(place: Place) -> None:
    promote(place.server, "1")
    path = place.repository / "tagger" / aliases.HISTORY
    kept = path.rename(path.with_suffix(".kept"))
    path.mkdir()
    status, answer = place.server.request("POST", f"{ALIASES}/production", {"version": "2"})
    assert (status, "tagger/aliases.jsonl: cannot be written" in answer["error"]) == (400, True)
    path.rmdir()
    kept.rename(path)
    assert total(place.server) == 10
    promote(place.server, "2")
    assert total(place.server) == 20
