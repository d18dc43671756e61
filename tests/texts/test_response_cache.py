"""Answers used again, seen from outside: in headers, metrics and what workers compute."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import pytest
import redis as library
import texts
from onnx import helper
from servers import Server, StartServer
from traffic import until

from sluice.store import manifest

CACHE = ("--response-cache", "1000000", "--workers", "1")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    texts.embedder(tmp_path / "models")
    texts.classifier(tmp_path / "models")
    return tmp_path / "models"


def embed(server: Server, *asked: str, tenant: str = "") -> tuple[str, Any]:
    request = urllib.request.Request(
        f"{server.http}/embed", json.dumps({"inputs": asked, "model": "embedder"}).encode()
    )
    if tenant:
        request.add_header("x-tenant", tenant)
    with urllib.request.urlopen(request) as reply:
        return reply.headers["sluice-cache"], json.loads(reply.read())


def test_off_unless_asked_for(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, "--workers", "1")
    assert [embed(server, "red")[0] for _ in range(2)] == [None, None]


def test_hits_show(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, *CACHE)
    before = server.metric("nv_inference_exec_count", model="embedder")
    first, values = embed(server, "red", "cat")
    assert first == "miss"
    assert embed(server, "red", "cat") == ("hit", values)
    assert embed(server, "cat", "red") == ("hit", values[::-1])
    assert embed(server, "cat", "dog")[0] == "partial"
    assert embed(server, "red", tenant="another")[0] == "miss"
    assert server.metric("sluice_response_cache_hits_total", model="embedder") == 5
    assert server.metric("sluice_response_cache_misses_total", model="embedder") == 4
    assert server.metric("nv_inference_exec_count", model="embedder") - before <= 4
    _, stats = server.request("GET", "/v2/models/embedder/stats")
    assert stats["model_stats"][0]["inference_stats"]["cache_hit"]["count"] == 5
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["red"]}]}
    _, reply = server.request("POST", "/v2/models/embedder/infer", body)
    assert reply["parameters"] == {"sluice_cache": "hit"}


def test_a_new_version_answers_anew(repository: Path, start_server: StartServer) -> None:
    server = start_server(repository, *CACHE)
    body = {"inputs": "red", "model": "classifier", "raw_scores": True}
    _, old = server.request("POST", "/predict", body)
    shutil.copytree(repository / "classifier" / "1", repository / "classifier" / "2")
    shutil.copy(repository / "embedder" / "1" / "tokenizer.json", repository / "classifier" / "2")
    shutil.rmtree(repository / "classifier" / "1")
    assert server.request("POST", "/v2/repository/models/classifier/load")[0] == 200
    before = server.metric("sluice_response_cache_misses_total", model="classifier", version="2")
    assert server.request("POST", "/predict", body) == (200, old)
    assert server.metric("sluice_response_cache_misses_total", model="classifier", version="2") == before + 1


def test_the_same_files_with_other_settings_answer_for_themselves(tmp_path: Path, start_server: StartServer) -> None:
    models = tmp_path / "models"
    for name, fill in (("one", 1), ("hundred", 100)):
        save_sum(models / name / "1" / "model.onnx")
        (models / name / "model.toml").write_text(f'[[input]]\nname = "bias"\nfill = {fill}\n')
        manifest.seal(models / name / "1")
    server = start_server(models, *CACHE)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}

    def answer(name: str) -> Any:
        return server.request("POST", f"/v2/models/{name}/infer", body)[1]["outputs"][0]["data"]

    assert (answer("one"), answer("hundred")) == ([2, 3], [101, 102])
    (models / "one" / "model.toml").write_text('[[input]]\nname = "bias"\nfill = 7\n')
    assert server.request("POST", "/v2/repository/models/one/load")[0] == 200
    assert answer("one") == [8, 9]


def save_sum(path: Path) -> None:
    values = [graphs.value(name, "FP32", ["batch", 2]) for name in ("x", "bias", "y")]
    graphs.save(path, [helper.make_node("Add", ["x", "bias"], ["y"])], values[:2], values[2:])


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "secret"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        until(lambda: _answers(port), "Redis answers")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


PASSWORD = {"REDIS_PASSWORD": "secret"}


def test_replicas_share(repository: Path, start_server: StartServer, redis: str) -> None:
    manifest.seal(repository / "embedder" / "1")
    flags = (*CACHE, "--response-cache-redis", redis)
    one, other = (start_server(repository, *flags, environment=PASSWORD) for _ in range(2))
    _, values = embed(one, "red")
    with library.Redis.from_url(redis, password="secret") as client:
        until(lambda: client.dbsize() == 1, "it is kept there as well")
    before = other.metric("nv_inference_exec_count", model="embedder")
    assert embed(other, "red") == ("hit", values)
    assert embed(other, "red") == ("hit", values)
    assert other.metric("nv_inference_exec_count", model="embedder") == before
    assert "secret" not in one.output()


@pytest.mark.parametrize("environment", [PASSWORD, {}], ids=["killed", "without its password"])
def test_nothing_depends_on_it(
    repository: Path, start_server: StartServer, redis: str, environment: dict[str, str]
) -> None:  # fmt: skip
    manifest.seal(repository / "embedder" / "1")
    server = start_server(repository, *CACHE, "--response-cache-redis", redis, environment=environment)
    assert embed(server, "red")[0] == "miss"
    assert embed(server, "red")[0] == "hit"
    assert embed(server, "cat")[0] == "miss"
    if not environment:
        until(lambda: "response_cache.redis" in server.output(), "it is said")


def test_a_password_in_the_address_is_refused(repository: Path, start_server: StartServer) -> None:
    with pytest.raises(AssertionError, match="REDIS_PASSWORD") as refused:
        start_server(repository, *CACHE, "--response-cache-redis", "redis://:hunter2@127.0.0.1/0")
    assert "hunter2" not in str(refused.value)
