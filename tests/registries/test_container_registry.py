"""Versions come from a real container registry, with and without a password, whole and in spite of what breaks."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest
from graphs import identity

from sluice.cli.main import main
from sluice.store import manifest
from sluice.store.packing import pack

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".venvs" / "registry" / "usr" / "bin" / "docker-registry"
PROGRAM = shutil.which("docker-registry") or str(INSTALLED)
START_PATIENCE = 60
TITLE = "org.opencontainers.image.title"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
# As htpasswd writes it: the password is "s3cret".
PASSWORDS = "anna:$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG\n"
CONFIGURATION = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {place}/blobs}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""

pytestmark = pytest.mark.skipif(
    not Path(PROGRAM).exists(), reason="docker-registry is not installed: `make registries` does that and runs this"
)


@dataclass
class Registry:
    host: str
    process: subprocess.Popen[bytes]
    login: str = ""  # base64

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, str]:
        """Status and where it is."""
        request = urllib.request.Request(self._url(path), body, method=method)
        request.add_header("Content-Type", kind or "application/octet-stream")
        if self.login:
            request.add_header("Authorization", f"Basic {self.login}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers.get("Location", "")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""

    def _url(self, path: str) -> str:
        return path if path.startswith("http") else f"http://{self.host}{path}"

    def push(self, repository: str, tag: str, files: Sequence[tuple[str, bytes]]) -> str:
        """As `oras push` does it; the digest."""
        layers = [self._blob(repository, content) | {"annotations": {TITLE: name}} for name, content in files]
        config = self._blob(repository, b"{}") | {"mediaType": "application/vnd.oci.empty.v1+json"}
        told = {"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers}
        content = json.dumps(told).encode()
        status, _ = self.ask("PUT", f"/v2/{repository}/manifests/{tag}", content, IMAGE)
        assert status == 201, status
        return f"sha256:{hashlib.sha256(content).hexdigest()}"

    def _blob(self, repository: str, content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        status, place = self.ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        assert status == 202, status
        joined = "&" if "?" in place else "?"
        status, _ = self.ask("PUT", f"{place}{joined}digest={digest}", content)
        assert status == 201, status
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(content)}


def launch(place: Path, more: str = "") -> Registry:
    place.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (place / "config.yml").write_text(CONFIGURATION.format(place=place, port=port) + more)
    with (place / "log").open("ab") as log:
        process = subprocess.Popen([PROGRAM, "serve", str(place / "config.yml")], stdout=log, stderr=log)
    registry = Registry(f"127.0.0.1:{port}", process)
    deadline = monotonic() + START_PATIENCE
    while not answers(registry):  # which paces the asking
        assert process.poll() is None, (place / "log").read_text()
        assert monotonic() < deadline, (place / "log").read_text()
    return registry


def answers(registry: Registry) -> bool:
    try:
        return registry.ask("GET", "/v2/")[0] in (200, 401)
    except OSError:
        return False


def end(registry: Registry) -> None:
    registry.process.send_signal(signal.SIGTERM)
    registry.process.wait(30)


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = launch(tmp_path / "registry")
    yield registry
    end(registry)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    directory = identity(tmp_path / "origin", "small").parent
    (directory / "weights.bin").write_bytes(random.Random(1).randbytes(40 << 20))  # which comes in four parts
    manifest.seal(directory)
    return directory


def files_of(directory: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(directory.iterdir())]


def test_a_version_comes_from_a_registry(
    registry: Registry, version: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    exact = registry.push("team/small", "1.0", files_of(version))
    assert main(["pull", f"oci://{registry.host}/team/small:1.0"]) == 0
    assert capsys.readouterr() == ("small 1.0.0 is in models/small/1\n", "")
    found = manifest.read(Path("models/small/1"))
    assert found == manifest.read(version)
    assert found is not None
    manifest.verify(Path("models/small/1"), found)
    assert main(["pull", f"oci://{registry.host}/team/small@{exact}"]) == 0
    assert capsys.readouterr().out == "small 1.0.0 is already in models/small/1, nothing to do\n"
    for reference in (":2.0", f"@sha256:{64 * '0'}"):
        assert main(["pull", f"oci://{registry.host}/team/small{reference}"]) == 1
        assert "the server says 404 Not Found" in capsys.readouterr().err


def test_a_package_comes_from_a_registry(
    registry: Registry, version: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    package = pack(version, version.parent / "small.sluice").path
    registry.push("small", "latest", [(package.name, package.read_bytes())])
    assert main(["pull", f"oci://{registry.host}/small"]) == 0
    assert main(["pull", f"oci://{registry.host}/small", "--offline", "--name", "other"]) == 0
    assert capsys.readouterr().out == "small 1.0.0 is in models/small/1\nsmall 1.0.0 is in models/other/1\n"


def test_files_alone_are_sealed_with_the_digest(registry: Registry, version: Path) -> None:
    exact = registry.push("small", "latest", [("net.onnx", (version / "model.onnx").read_bytes())])
    assert main(["pull", f"oci://{registry.host}/small", "--name", "net"]) == 0
    found = manifest.read(Path("models/net/1"))
    assert found is not None
    assert found.source == f"oci://{registry.host}/small:latest@{exact}"


def test_what_lies_damaged_in_the_registry_is_not_taken(
    registry: Registry, version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.push("small", "latest", files_of(version))
    (blob,) = (path for path in (tmp_path / "registry/blobs").rglob("data") if path.stat().st_size == 40 << 20)
    content = blob.read_bytes()
    blob.write_bytes(b"x" + content[1:])
    assert main(["pull", f"oci://{registry.host}/small"]) == 1
    assert "it is not kept" in capsys.readouterr().err
    assert not Path("models").exists() or not os.listdir("models")
    blob.write_bytes(content)
    assert main(["pull", f"oci://{registry.host}/small"]) == 0


def test_a_registry_with_a_password(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    place = tmp_path / "closed"
    place.mkdir()
    (place / "passwords").write_text(PASSWORDS)
    registry = launch(place, f"auth: {{htpasswd: {{realm: models, path: {place}/passwords}}}}\n")
    try:
        source = f"oci://{registry.host}/small"
        assert main(["pull", source]) == 1
        assert "asks for a name and password; log in with `docker login`" in capsys.readouterr().err
        login(tmp_path, registry.host, "wrong")
        assert main(["pull", source]) == 1
        assert "the server says 401 Unauthorized" in capsys.readouterr().err
        registry.login = login(tmp_path, registry.host, "s3cret")
        registry.push("small", "latest", files_of(version))
        assert main(["pull", source]) == 0
        assert capsys.readouterr().out == "small 1.0.0 is in models/small/1\n"
    finally:
        end(registry)


def login(place: Path, host: str, password: str) -> str:
    """As `docker login` writes it."""
    told = base64.b64encode(f"anna:{password}".encode()).decode()
    (place / "docker").mkdir(exist_ok=True)
    (place / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": told}}}))
    return told
