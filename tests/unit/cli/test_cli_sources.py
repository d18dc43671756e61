"""`sluice pull` and `sluice cache`, as they are typed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphs import identity
from website import Site

from sluice.cli.main import main


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site() as site:
        site.files["/small.onnx"] = identity(tmp_path / "origin").read_bytes()
        yield site


def test_a_model_is_pulled(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", f"{site.url}/small.onnx"]) == 0
    assert capsys.readouterr() == ("small 1.0.0 is in models/small/1\n", "")
    assert main(["pull", f"{site.url}/small.onnx"]) == 0
    assert capsys.readouterr().out == "small 1.0.0 is already in models/small/1, nothing to do\n"
    assert main(["pull", f"{site.url}/small.onnx", "--offline", "--name", "x", "--as", "4", "-r", "there"]) == 0
    assert capsys.readouterr().out == "x 4.0.0 is in there/x/4\n"
    assert main(["pull", "there/x/4", "--timeout", "3"]) == 0
    assert capsys.readouterr().out == "x 4.0.0 is in models/x/1\n"
    assert main(["pull", f"{site.url}/other.onnx?key=secret"]) == 1
    assert capsys.readouterr().err == f"error: {site.url}/other.onnx: the server says 404 Not Found\n"


def test_the_cache_is_looked_after(site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["pull", f"{site.url}/small.onnx"]) == 0
    capsys.readouterr()
    assert main(["cache", "list"]) == 0
    assert f"{site.url}/small.onnx" in capsys.readouterr().out
    assert main(["cache", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(blob["size"], blob["sources"]) for blob in told["files"]] == [
        (len(site.files["/small.onnx"]), [f"{site.url}/small.onnx"])
    ]
    assert main(["cache", "verify"]) == 0
    assert capsys.readouterr().out == "1 files, all as they were downloaded\n"
    assert main(["cache", "size"]) == 0
    assert (
        capsys.readouterr().out == f"{tmp_path}/cache holds {len(site.files['/small.onnx'])} bytes of at most 20.0 GB\n"
    )
    blob = tmp_path / "cache/blobs" / told["files"][0]["sha256"]
    blob.chmod(0o600)
    blob.write_bytes(b"damaged")
    assert main(["cache", "verify"]) == 1
    assert "1 damaged and removed" in capsys.readouterr().err
    assert main(["pull", f"{site.url}/small.onnx"]) == 0
    assert main(["cache", "prune", "--to", "1MB"]) == 0
    assert main(["cache", "prune"]) == 0
    assert capsys.readouterr().out.endswith(f"removed, 0 bytes left in {tmp_path}/cache\n")
    assert main(["cache", "prune", "--to", "much"]) == 1


def test_what_is_not_on_the_hub_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("huggingface_hub")
    assert main(["pull", "hf://model"]) == 1
    assert "is no address on the Hub" in capsys.readouterr().err
    assert main(["pull", "hf://org-of-nobody/model-of-nobody", "--offline"]) == 1
    assert "in the cache, and nothing shall be downloaded" in capsys.readouterr().err
    assert not Path("models").exists()
