"""Models come from the Hub, of which a small one runs here."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from smallhub import COMMIT, SmallHub, small_hub

from sluice.convert.hub import Hub, pull
from sluice.errors import ModelError
from sluice.store import manifest

GOLDEN = Path(__file__).parents[2] / "models" / "golden" / "bert-mean"
pytest.importorskip("huggingface_hub")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    monkeypatch.setenv("no_proxy", "*")
    directory = Path(shutil.copytree(GOLDEN, tmp_path / "org"))
    (directory / "pytorch_model.bin").write_bytes(b"runs code")
    (directory / "modeling.py").write_text("raise SystemExit")
    with small_hub(directory) as server:
        yield server


@pytest.fixture
def hub(server: SmallHub, tmp_path: Path) -> Hub:
    return Hub(timeout=5, endpoint=f"http://127.0.0.1:{server.server_port}", cache=tmp_path / "cache")


def silent(step: str, done: int, total: int) -> None:
    return None


def test_a_model_is_imported_once_for_each_commit(server: SmallHub, hub: Hub, tmp_path: Path) -> None:
    models = tmp_path / "models"
    done = pull("hf://org/model", models, None, None, hub, silent)
    assert done.directory == models / "model/1"
    sealed = manifest.read(done.directory)
    assert sealed is not None
    assert sealed.source == f"hf://org/model@{COMMIT}"
    manifest.verify(done.directory, sealed)
    assert not any(path.endswith((".bin", ".py")) for path in server.asked)
    again = pull("hf://org/model@main", models, None, None, hub, silent)
    assert (again.directory, again.is_new) == (done.directory, False)
    server.commit = "b" * 40
    assert pull("hf://org/model", models, None, None, hub, silent).directory == models / "model/2"


def test_offline_the_cache_is_used(server: SmallHub, hub: Hub, tmp_path: Path) -> None:
    offline = Hub(offline=True, endpoint=hub.endpoint, cache=hub.cache)
    with pytest.raises(ModelError, match="in the cache, and nothing shall be downloaded"):
        pull("hf://org/model", tmp_path / "models", None, None, offline, silent)
    assert server.asked == []
    pull("hf://org/model", tmp_path / "models", None, None, hub, silent)
    asked = len(server.asked)
    assert pull("hf://org/model", tmp_path / "models", "other", "3", offline, silent).is_new
    assert len(server.asked) == asked
    assert (tmp_path / "models/other/3/model.onnx").is_file()


def test_damaged_weights_are_refused(server: SmallHub, hub: Hub, tmp_path: Path) -> None:
    pull("hf://org/model", tmp_path / "models", None, None, hub, silent)
    weights = next((tmp_path / "cache").rglob("model.safetensors")).resolve()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        pull("hf://org/model", tmp_path / "models", "other", None, hub, silent)
    assert not (tmp_path / "models/other").exists()


@pytest.mark.parametrize(
    ("code", "name", "why"),
    [
        (401, "RepoNotFound", "there is no such model"),
        (404, "RepoNotFound", "there is no such model"),
        (403, "GatedRepo", "is not for everybody"),
        (404, "RevisionNotFound", "there is no such revision"),
    ],
)
def test_refusals_are_told(code: int, name: str, why: str, server: SmallHub, hub: Hub, tmp_path: Path) -> None:
    server.refusal = (code, name)
    with pytest.raises(ModelError, match=f"hf://org/model@v1: {why}"):
        pull("hf://org/model@v1", tmp_path / "models", None, None, hub, silent)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "source", ["hf://model", "hf://a/b/c", "hf://a/b@", "hf://a/b?x", "hf://me:SECRET@a/b?token=SECRET"]
)
def test_what_is_no_address_is_said(source: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no address on the Hub") as caught:
        pull(source, tmp_path, None, None, hub, silent)
    assert "SECRET" not in caught.value.message
