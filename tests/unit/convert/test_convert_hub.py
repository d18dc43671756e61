"""Models come from the Hub, of which a small one runs here: its listing, its files, its refusals."""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sluice.convert.hub import Hub, pull
from sluice.errors import ModelError
from sluice.store import manifest

GOLDEN = Path(__file__).parents[2] / "models" / "golden" / "bert-mean"
COMMIT = "a" * 40
pytest.importorskip("huggingface_hub")


class SmallHub(ThreadingHTTPServer):
    """Has one model, org/model, whose files are those of `directory`."""

    daemon_threads = False

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.commit = COMMIT
        self.refusal: tuple[int, str] | None = None
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        hub = self.server
        path = self.path.partition("?")[0]
        hub.asked.append(path)
        headers = {"X-Repo-Commit": hub.commit}
        if hub.refusal:
            return self._send(hub.refusal[0], b"{}", headers | {"X-Error-Code": hub.refusal[1]}, with_body)
        if path.startswith("/api/models/org/model/tree/"):
            return self._send(200, json.dumps(self._tree()).encode(), headers, with_body)
        if path.startswith("/api/models/org/model"):
            told = {"id": "org/model", "sha": hub.commit, "siblings": [], "tags": [], "downloads": 0, "likes": 0}
            return self._send(200, json.dumps(told | {"private": False}).encode(), headers, with_body)
        found = re.fullmatch(r"/org/model/resolve/[^/]+/(.+)", path)
        file = hub.directory / found[1] if found else None
        if file is None or not file.is_file():
            return self._send(404, b"", headers | {"X-Error-Code": "RepoNotFound"}, with_body)
        content = file.read_bytes()
        return self._send(200, content, headers | {"ETag": f'"{_name(file, content)}"'}, with_body)

    def _tree(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for path in sorted(each for each in self.server.directory.rglob("*") if each.is_file()):
            content = path.read_bytes()
            entry = {"type": "file", "path": path.relative_to(self.server.directory).as_posix(), "size": len(content)}
            entry["oid"] = hashlib.sha1(content).hexdigest()
            if path.suffix == ".safetensors":
                entry["lfs"] = {"oid": _name(path, content), "size": len(content), "pointerSize": 1}
            entries.append(entry)
        return entries

    def _send(self, code: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _name(path: Path, content: bytes) -> str:
    kind = hashlib.sha256 if path.suffix == ".safetensors" else hashlib.sha1
    return kind(content).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    monkeypatch.setenv("no_proxy", "*")
    directory = Path(shutil.copytree(GOLDEN, tmp_path / "org"))
    (directory / "pytorch_model.bin").write_bytes(b"runs code")
    (directory / "modeling.py").write_text("raise SystemExit")
    with SmallHub(directory) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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


@pytest.mark.parametrize("source", ["hf://model", "hf://a/b/c", "hf://a/b@", "hf://a/b?x"])
def test_what_is_no_address_is_said(source: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no address on the Hub"):
        pull(source, tmp_path, None, None, hub, silent)
