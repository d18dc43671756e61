"""Repositories as people have them: Triton's and our own, good beside bad models, changed while they are served."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from servers import Server, StartServer, end, launch
from traffic import Load, echo, int64
from tritonclient.utils import InferenceServerException

TRITON_CONFIG = """
name: "classifier"
platform: "onnxruntime_onnx"
max_batch_size: 4
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
version_policy: { specific: { versions: [ 2 ] } }
dynamic_batching {
  preferred_batch_size: [ 4 ]
  max_queue_delay_microseconds: 100
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { default_timeout_microseconds: 30000000 max_queue_size: 7 allow_timeout_override: true }
}
model_warmup [ {
  name: "zeros" batch_size: 2
  inputs { key: "INPUT0" value { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } }
} ]
parameters { key: "author" value { string_value: "somebody" } }
"""


def build(repository: Path) -> Path:
    """One of each kind, good and bad."""
    for version, factor in (("1", 10), ("2", 20), ("3", 30), ("10", 100)):
        for policy in ("latest", "two", "all", "specific"):
            graphs.tagger(repository, policy, version, factor)
    (repository / "two" / "model.toml").write_text("[versions]\ncount = 2\n")
    (repository / "all" / "model.toml").write_text('[versions]\npolicy = "all"\n')
    (repository / "specific" / "model.toml").write_text("[versions]\nversions = [1, 3, 7]\n")
    path = graphs.identity(repository, "classifier", shape=("batch", 3))
    shutil.move(path.parent, path.parent.parent / "2")
    (repository / "classifier" / "config.pbtxt").write_text(TRITON_CONFIG)
    (repository / "classifier" / "labels.txt").write_text("cat\ndog\nbird\n")
    graphs.identity(repository, "fixed", shape=(2, 3))
    graphs.python_echo(repository)
    (repository / "garbage" / "1").mkdir(parents=True)
    (repository / "garbage" / "1" / "model.onnx").write_bytes(b"nothing of the kind")
    (repository / "empty").mkdir()
    graphs.tagger(repository, "typo")
    (repository / "typo" / "model.toml").write_text("\nmax_batch_row = 4\n")
    graphs.tagger(repository, "torn")
    (repository / "torn" / "config.pbtxt").write_text("max_batch_size: 4\ninput [\n")
    graphs.tagger(repository, "liar")
    (repository / "liar" / "config.pbtxt").write_text('input [ { name: "nothing" data_type: TYPE_FP32 dims: [1] } ]')
    (repository / "elsewhere" / "1").mkdir(parents=True)
    (repository / "elsewhere" / "1" / "model.plan").write_bytes(b"")
    return repository


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = build(tmp_path_factory.mktemp("models"))
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = launch(repository, log, "--python-directory", str(repository / "echo"))
    yield server
    end(server)


def index(server: Server) -> dict[tuple[str, str], dict[str, str]]:
    status, rows = server.request("POST", "/v2/repository/index", {})
    assert status == 200
    return {(row["name"], row["version"]): row for row in rows}


def ready(server: Server, name: str) -> list[str]:
    rows = server.request("POST", "/v2/repository/index", {"ready": True})[1]
    return [row["version"] for row in rows if row["name"] == name]


def total(server: Server, name: str, version: str = "") -> tuple[int, Any]:
    """What the model makes of the id 1, which is its factor."""
    path = f"/v2/models/{name}/versions/{version}/infer" if version else f"/v2/models/{name}/infer"
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    status, answer = server.request("POST", path, body)
    return status, answer["outputs"][1]["data"][0] if status == 200 else answer["error"]


def change(server: Server, verb: str, name: str, **parameters: Any) -> tuple[int, Any]:
    return server.request("POST", f"/v2/repository/models/{name}/{verb}", {"parameters": parameters})


BAD = {
    "garbage": ("1", "model.onnx"),
    "empty": ("", "no version directory"),
    "typo": ("", "model.toml, line 2"),
    "torn": ("", "config.pbtxt"),
    "liar": ("1", "'nothing'"),
    "elsewhere": ("1", "tensorrt"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_in_the_index_with_its_reason(server: Server, name: str) -> None:
    version, reason = BAD[name]
    row = index(server)[name, version]
    assert row["state"] == "UNAVAILABLE"
    assert reason in row["reason"]
    assert server.request("GET", f"/v2/models/{name}/ready")[0] == 503
    status, message = total(server, name)
    assert status == 503
    assert "not at ready state" in message
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(InferenceServerException, match="not at ready state") as caught:
            client.get_model_metadata(name)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"


def test_bad_models_stop_no_other(server: Server) -> None:
    assert server.request("GET", "/v2/health/ready")[0] == 200
    assert total(server, "latest") == (200, 100)


@pytest.mark.parametrize(
    ("name", "versions", "latest"),
    [
        ("latest", ["10"], 100),
        ("two", ["3", "10"], 100),
        ("all", ["1", "2", "3", "10"], 100),
        ("specific", ["1", "3"], 30),
    ],
)
def test_version_policies(server: Server, name: str, versions: list[str], latest: int) -> None:
    assert ready(server, name) == versions
    assert server.request("GET", f"/v2/models/{name}")[1]["versions"] == versions
    assert total(server, name) == (200, latest)
    for version in versions:
        assert total(server, name, version) == (200, int(version) * 10)
    for version in {"1", "2", "3", "4", "10"} - set(versions):
        assert total(server, name, version)[0] == 404


def test_a_version_that_is_asked_for_in_vain(server: Server) -> None:
    row = index(server)["specific", "7"]
    assert row["state"] == "UNAVAILABLE"
    assert "there is no directory specific/7" in row["reason"]
    assert total(server, "specific", "7")[0] == 503


def test_a_repository_of_tritons_works_as_it_is(server: Server) -> None:
    with triton_http.InferenceServerClient(server.netloc) as client:
        metadata = client.get_model_metadata("classifier")
        assert metadata["versions"] == ["2"]
        assert metadata["platform"] == "onnxruntime_onnx"
        assert metadata["inputs"] == [{"name": "INPUT0", "datatype": "FP32", "shape": [-1, 3]}]
        scores = triton_http.InferInput("INPUT0", [2, 3], "FP32")
        scores.set_data_from_numpy(np.array([[1, 3, 2], [9, 8, 7]], np.float32))
        wanted = [triton_http.InferRequestedOutput("OUTPUT0", class_count=2)]
        classes = client.infer("classifier", [scores], outputs=wanted, priority=1).as_numpy("OUTPUT0")
        assert classes.tolist() == [
            [b"3.000000:1:dog", b"2.000000:2:bird"],
            [b"9.000000:0:cat", b"8.000000:1:dog"],
        ]
        too_many = triton_http.InferInput("INPUT0", [5, 3], "FP32")
        too_many.set_data_from_numpy(np.ones((5, 3), np.float32))
        with pytest.raises(InferenceServerException, match="batch-size must be <= 4"):
            client.infer("classifier", [too_many])


def test_tritons_configuration_is_told_again(server: Server) -> None:
    status, config = server.request("GET", "/v2/models/classifier/config")
    assert status == 200
    assert config["max_batch_size"] == 4
    assert config["version_policy"] == {"specific": {"versions": [2]}}
    assert config["input"][0]["dims"] == [3]
    batching = config["dynamic_batching"]
    assert (batching["priority_levels"], batching["default_priority_level"]) == (3, 2)
    assert batching["default_queue_policy"]["max_queue_size"] == 7
    assert config["parameters"] == {"author": {"string_value": "somebody"}}
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        over_grpc = client.get_model_config("classifier", as_json=True)["config"]
    assert over_grpc["max_batch_size"] == 4
    assert over_grpc["model_warmup"][0]["name"] == "zeros"


def test_a_model_without_a_batch_axis(server: Server) -> None:
    assert server.request("GET", "/v2/models/fixed/config")[1]["max_batch_size"] == 0
    assert server.request("GET", "/v2/models/fixed")[1]["inputs"][0]["shape"] == [2, 3]
    data = [1.5, 2, 3, 4, 5, 6]
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2, 3], "data": data}]}
    status, answer = server.request("POST", "/v2/models/fixed/infer", body)
    assert status == 200
    assert answer["outputs"][0]["data"] == data
    body["inputs"][0]["shape"] = [3, 2]
    assert server.request("POST", "/v2/models/fixed/infer", body)[0] == 400


def test_a_python_model(server: Server) -> None:
    status, answer = echo(server, 1, 2, 3)
    assert status == 200
    assert answer["outputs"][0]["data"] == [1, 2, 3]
    assert server.request("GET", "/v2/models/echo")[1]["platform"] == "python"


def test_a_python_model_elsewhere_is_refused(tmp_path: Path, start_server: StartServer) -> None:
    repository = tmp_path / "models"
    graphs.python_echo(repository, "allowed")
    graphs.python_echo(repository, "other")
    (repository / "linked" / "1").mkdir(parents=True)
    shutil.copy(repository / "other" / "model.toml", repository / "linked")
    (repository / "linked" / "1" / "model.py").symlink_to(repository / "other" / "1" / "model.py")
    server = start_server(repository, "--python-directory", str(repository / "allowed"))
    assert echo(server, 1, model="allowed")[0] == 200
    for name in ("other", "linked"):
        row = index(server)[name, "1"]
        assert (row["state"], "outside the allowed directories" in row["reason"]) == ("UNAVAILABLE", True)


def test_explicit_models_only_and_control(tmp_path: Path, start_server: StartServer) -> None:
    repository = tmp_path / "models"
    for name in ("a", "b", "c"):
        graphs.tagger(repository, name)
    server = start_server(repository, "--load", "a", "--load", "b", "--no-control")
    states = {row["name"]: row["state"] for row in index(server).values()}
    assert states == {"a": "READY", "b": "READY", "c": "UNAVAILABLE"}
    assert total(server, "c")[0] == 503
    for verb, name in (("load", "c"), ("unload", "a")):
        status, body = change(server, verb, name)
        assert status == 501
        assert "models.control" in body["error"]
    with (
        triton_grpc.InferenceServerClient(server.grpc) as client,
        pytest.raises(InferenceServerException, match=r"models\.control") as caught,
    ):
        client.load_model("c")
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert total(server, "a") == (200, 2)


def test_a_directory_whose_name_is_no_text_stops_no_index(tmp_path: Path, start_server: StartServer) -> None:
    repository = tmp_path / "models"
    graphs.tagger(repository, "a")
    os.mkdir(os.fsencode(repository) + b"/before\xff")
    server = start_server(repository)
    os.mkdir(os.fsencode(repository) + b"/since\xff")
    rows = index(server)
    assert {key: row["state"] for key, row in rows.items()} == {
        ("a", "1"): "READY",
        ("before\\xff", ""): "UNAVAILABLE",
        ("since\\xff", ""): "UNAVAILABLE",
    }
    assert "rename the directory" in rows["before\\xff", ""]["reason"]
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        told = client.get_model_repository_index(as_json=True)["models"]
    assert {row["name"] for row in told} == {"a", "before\\xff", "since\\xff"}
    assert server.request("POST", "/v2/repository/models/since%5Cxff/load", {})[0] == 404
    os.rmdir(os.fsencode(repository) + b"/since\xff")
    assert ("since\\xff", "") not in index(server)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server whose repository the tests change."""
    repository = tmp_path_factory.mktemp("models")
    graphs.tagger(repository)
    server = launch(repository, tmp_path_factory.mktemp("log") / "server.log")
    yield server, repository
    end(server)


def test_a_model_is_reloaded_under_load_without_a_failure(changing: tuple[Server, Path]) -> None:
    server, repository = changing
    load = Load(server)
    with load.running():
        for factor in (3, 4, 5):
            graphs.tagger(repository, factor=factor)
            assert change(server, "load", "tagger") == (200, {})
            asked_after = total(server, "tagger")
            assert asked_after == (200, factor)
            load.wait_for_more()
        assert change(server, "load", "tagger") == (200, {})  # nothing changed, nothing happens
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {2, 3, 4, 5}
    assert ready(server, "tagger") == ["1"]


def test_a_new_version_takes_over_under_load(changing: tuple[Server, Path]) -> None:
    server, repository = changing
    load = Load(server)
    with load.running():
        graphs.tagger(repository, version="2", factor=50)
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            client.load_model("tagger")
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {5, 50}
    assert ready(server, "tagger") == ["2"]


def test_a_change_that_cannot_be_loaded_under_load(changing: tuple[Server, Path]) -> None:
    server, repository = changing
    graphs.tagger(repository, "fragile", factor=7)
    assert change(server, "load", "fragile")[0] == 200
    load = Load(server, "fragile")
    with load.running(1):
        (repository / "fragile" / "1" / "model.onnx").write_bytes(b"nothing of the kind")
        status, body = change(server, "load", "fragile")
        assert status == 400
        assert "failed to load 'fragile'" in body["error"]
        load.wait_for_more()
    assert not load.failures
    assert set(load.answers) == {7}


def test_unload_and_load_again(changing: tuple[Server, Path]) -> None:
    server, repository = changing
    graphs.tagger(repository, "guest", factor=9)
    assert index(server)["guest", ""]["reason"] == "not loaded"
    assert total(server, "guest")[0] == 503
    assert change(server, "load", "guest") == (200, {})
    assert total(server, "guest") == (200, 9)
    assert server.metric("sluice_requests_total", model="guest") == 1
    assert change(server, "unload", "guest", unload_dependents=True) == (200, {})
    assert index(server)["guest", "1"] == {
        "name": "guest",
        "version": "1",
        "state": "UNAVAILABLE",
        "reason": "unloaded",
    }
    assert total(server, "guest")[0] == 503
    assert change(server, "load", "guest") == (200, {})
    assert total(server, "guest") == (200, 9)
    assert change(server, "load", "nothing")[0] == 404
    assert change(server, "unload", "nothing")[0] == 404


def test_a_configuration_that_comes_with_the_request(changing: tuple[Server, Path]) -> None:
    server, repository = changing
    graphs.tagger(repository, "configured")
    config = json.dumps({"max_batch_size": 3, "dynamic_batching": {"default_queue_policy": {"max_queue_size": 2}}})
    assert change(server, "load", "configured", config=config) == (200, {})
    assert server.request("GET", "/v2/models/configured/config")[1]["max_batch_size"] == 3
    status, body = change(server, "load", "configured", config="{")
    assert status == 400
    assert "JSON" in body["error"]
    assert total(server, "configured") == (200, 2)


def test_files_that_come_with_the_request(changing: tuple[Server, Path], tmp_path: Path) -> None:
    server, _ = changing
    content = graphs.tagger(tmp_path, factor=77).read_bytes()
    with triton_http.InferenceServerClient(server.netloc) as client:
        client.load_model("sent", config="{}", files={"file:4/model.onnx": content})
    assert total(server, "sent", "4") == (200, 77)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.load_model("sent", config="{}", files={"file:5/model.onnx": content})
    assert ready(server, "sent") == ["5"]
    outside = {"config": "{}", "file:../../x/1/model.onnx": base64.b64encode(content).decode()}
    status, body = change(server, "load", "sent", **outside)
    assert status == 400
    assert "../../x/1/model.onnx" in body["error"]
    assert total(server, "sent") == (200, 77)


def test_python_that_comes_with_the_request_does_not_run(changing: tuple[Server, Path]) -> None:
    server, _ = changing
    code = base64.b64encode(b"raise SystemExit").decode()
    config = json.dumps(
        {
            "backend": "python",
            "input": [{"name": "x", "data_type": "TYPE_INT64", "dims": [1]}],
            "output": [{"name": "y", "data_type": "TYPE_INT64", "dims": [1]}],
        }
    )
    status, body = change(server, "load", "intruder", **{"config": config, "file:1/model.py": code})
    assert status == 400
    assert "python" in body["error"]


def test_statistics_of_every_version(server: Server) -> None:
    rows = server.request("GET", "/v2/models/all/stats")[1]["model_stats"]
    assert [row["version"] for row in rows] == ["1", "2", "3", "10"]
    everything = server.request("GET", "/v2/models/stats")[1]["model_stats"]
    assert {row["name"] for row in everything} >= {"all", "classifier", "echo", "fixed"}
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        inputs = int64(triton_grpc, input_ids=np.ones((1, 2), np.int64))
        client.infer("all", inputs, model_version="2")
        counted = client.get_inference_statistics("all", "2").model_stats[0]
    assert counted.inference_count >= 1
    assert counted.inference_stats.success.count >= 1
