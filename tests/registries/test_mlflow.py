"""Versions come from a real MLflow tracking server, by MLflow's own client, in an environment that has both."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import onnxruntime
import pytest
from website import Site

from sluice.store import manifest
from sluice.store.manifest import Manifest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BIN = ROOT / ".venvs" / "mlflow" / "bin"
START_PATIENCE = 120

pytestmark = pytest.mark.skipif(
    not (BIN / "mlflow").exists(), reason="MLflow is not installed: `make registries` does that and runs this"
)


@dataclass
class Registry:
    uri: str
    runs: list[str]  # of the versions of `net`
    artifacts: Path


@dataclass
class Here:
    """A directory to pull into."""

    directory: Path
    uri: str

    def pull(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "python", "-W", "ignore", "-m", "sluice.cli.main", "pull", *arguments],
            cwd=self.directory,
            env=plain({"MLFLOW_TRACKING_URI": self.uri, "SLUICE_CACHE": str(self.directory / "cache")} | environment),
            capture_output=True,
            text=True,
            check=False,
        )

    def version(self, place: str) -> Manifest:
        found = manifest.read(self.directory / "models" / place)
        assert found is not None
        manifest.verify(self.directory / "models" / place, found)
        return found

    def models(self) -> list[str]:
        models = self.directory / "models"
        return sorted(path.name for path in models.iterdir()) if models.exists() else []


def plain(more: dict[str, str]) -> dict[str, str]:
    """The environment without what says where registries are."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return kept | {"PYTHONPATH": str(ROOT / "server"), "no_proxy": "*", "MLFLOW_DISABLE_TELEMETRY": "true"} | more


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    place = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{place}/mlflow.db",
        "--artifacts-destination",
        str(place / "artifacts"),
    ]
    with (place / "log").open("w") as log:
        server = subprocess.Popen([*command, *stores], cwd=place, env=plain({}), stdout=log, stderr=log)
        try:
            deadline = monotonic() + START_PATIENCE
            while server.poll() is None and not answers(f"{uri}/health"):  # which paces the asking
                assert monotonic() < deadline, (place / "log").read_text()
            assert server.poll() is None, (place / "log").read_text()
            script = [str(BIN / "python"), "-W", "ignore", str(HERE / "mlflow_models.py"), str(place / "runs.json")]
            subprocess.run(script, cwd=place, env=plain({"MLFLOW_TRACKING_URI": uri}), check=True)
            yield Registry(uri, json.loads((place / "runs.json").read_text()), place / "artifacts")
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture
def here(tmp_path: Path, registry: Registry) -> Here:
    return Here(tmp_path, registry.uri)


def factor(place: Path, size: int = 4) -> float:
    """What the model multiplies with."""
    import numpy as np

    session = onnxruntime.InferenceSession(place / "model.onnx")
    return float(session.run(None, {"x": np.ones((1, size), np.float32)})[0][0, 0])


def test_a_version_by_its_alias(here: Here, registry: Registry) -> None:
    done = here.pull("mlflow://models:/net@champion")
    assert (done.stdout, done.stderr, done.returncode) == ("net 1.0.0 is in models/net/1\n", "", 0)
    found = here.version("net/1")
    assert found.source == f"mlflow://models:/net/1#run={registry.runs[0]}"
    assert (found.licence, found.task) == ("Apache-2.0", "other")
    assert found.metrics == {
        "mlflow.metric.accuracy": 0.93,
        "mlflow.registry": registry.uri,
        "mlflow.tag.team": "search",
    }
    assert found.file("model.onnx") is not None
    assert not {"MLmodel", "requirements.txt", "python_env.yaml"} & {entry.path for entry in found.files}
    assert "Doubles *everything*." in (here.directory / "models/net/1/README.md").read_text()
    assert factor(here.directory / "models/net/1") == 2
    again = here.pull("mlflow://models:/net/champion")
    assert again.stdout == "net 1.0.0 is already in models/net/1, nothing to do\n"
    assert here.pull(found.source).stdout == again.stdout


def test_the_latest_with_data_of_its_own(here: Here, registry: Registry) -> None:
    done = here.pull("mlflow://models:/net/latest", "--name", "big", "--as", "7")
    assert (done.stdout, done.stderr) == ("big 7.0.0 is in models/big/7\n", "")
    assert here.version("big/7").source == f"mlflow://models:/net/2#run={registry.runs[1]}"
    assert len(here.version("big/7").files) == 2
    assert factor(here.directory / "models/big/7", 5000) == 3


def test_what_was_pulled_is_there_without_a_network(here: Here) -> None:
    assert here.pull("mlflow://models:/net@champion").returncode == 0
    for source, name in (("mlflow://models:/net@champion", "a"), ("mlflow://models:/net/1", "b")):
        done = here.pull(source, "--offline", "--name", name)
        assert done.stdout == f"{name} 1.0.0 is in models/{name}/1\n", done.stderr
    assert here.version("a/1").files == here.version("net/1").files
    done = here.pull("mlflow://models:/net/2", "--offline")
    assert "mlflow://models:/net/2: is not, or not whole, in the cache" in done.stderr
    done = here.pull("mlflow://models:/net/1#run=0123", "--offline")
    assert "is not, or not whole, in the cache" in done.stderr


def test_a_second_repository_takes_it_from_the_cache(here: Here, registry: Registry, tmp_path: Path) -> None:
    assert here.pull("mlflow://models:/net/1").returncode == 0
    moved = registry.artifacts.with_name("moved")
    registry.artifacts.rename(moved)
    try:
        done = here.pull("mlflow://models:/net@champion", "-r", "second")
        assert done.stdout == "net 1.0.0 is in second/net/1\n", done.stderr
        done = here.pull("mlflow://models:/net/2")
        assert done.returncode == 1
        assert "error: mlflow://models:/net/2: " in done.stderr
    finally:
        if registry.artifacts.exists():
            shutil.rmtree(registry.artifacts)
        moved.rename(registry.artifacts)
    assert here.models() == ["net"]
    assert not [*(tmp_path / "models" / "net").glob(".*")]
    assert here.pull("mlflow://models:/net/2").stdout == "net 2.0.0 is in models/net/2\n"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("mlflow://models:/nobody/1", "there is no such model, version or alias"),
        ("mlflow://models:/nobody/latest", "there is no such model, or it has no version"),
        ("mlflow://models:/empty/latest", "there is no such model, or it has no version"),
        ("mlflow://models:/net/9", "there is no such model, version or alias"),
        ("mlflow://models:/net@Production", "there is no such model, version or alias"),
        ("mlflow://models:/net/1#run=0123", "version 1 is not of the run 0123"),
        ("mlflow://models:/pickled/1", "has no ONNX flavour, but python_function; log the model with mlflow.onnx"),
    ],
)
def test_what_is_not_there_is_said(source: str, why: str, here: Here) -> None:
    done = here.pull(source)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {source.partition('#')[0]}: {why}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert here.models() == []


def test_a_server_that_is_not_there_or_wants_a_password(here: Here) -> None:
    few = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"}
    done = here.pull("mlflow://models:/net/1", MLFLOW_TRACKING_URI="http://anna:s3cret@127.0.0.1:1", **few)
    assert done.stderr == "error: mlflow://models:/net/1: http://127.0.0.1:1 does not answer\n"
    with Site() as site:
        site.password = "x"
        done = here.pull("mlflow://models:/net/1", MLFLOW_TRACKING_URI=site.url, **few)
    assert f"{site.url} does not let us; MLFLOW_TRACKING_USERNAME and" in done.stderr
    assert here.models() == []


def test_a_model_is_brought_from_where_its_model_toml_says(here: Here) -> None:
    place = here.directory / "models" / "mine"
    place.mkdir(parents=True)
    (place / "model.toml").write_text("[source]\nfrom = 'mlflow://models:/net@champion'\nversion = 4")
    assert here.pull("--all", "--missing").stdout == "mine 4.0.0 is in models/mine/4\n"
    assert here.pull("mine").stdout == "mine has version 4, nothing to do\n"


def test_the_package_that_is_missing_is_named(tmp_path: Path) -> None:
    """In the environment of the tests, which has none."""
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "sluice.cli.main", "pull", "mlflow://models:/net/1"],
        cwd=tmp_path,
        env=plain({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "SLUICE_CACHE": str(tmp_path / "cache")}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "error: the package 'mlflow' is not installed\nhint: pip install 'sluice[mlflow]'\n"
