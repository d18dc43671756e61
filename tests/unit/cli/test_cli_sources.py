"""`sluice pull` and `sluice cache`, as they are typed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphs import identity
from objectstores import S3, Proxy, s3_server
from smallhub import COMMIT, small_hub
from website import Site

from sluice.cli.main import main
from sluice.store import manifest


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


def test_the_hub_is_where_the_environment_says(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "models").mkdir()
    golden = Path(__file__).parents[2] / "models" / "golden" / "bert-mean"
    with small_hub(golden) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "no_proxy": "*"}
        for said in ("is in", "is already in"):
            done = subprocess.run(
                [sys.executable, "-m", "sluice.cli.main", "pull", "hf://org/model"],
                env=os.environ | environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert f"hf://org/model {said} models/model/1" in done.stdout
    sealed = manifest.read(tmp_path / "models/model/1")
    assert sealed is not None
    assert sealed.source == f"hf://org/model@{COMMIT}"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    pytest.importorskip("s3fs")
    with s3_server() as url, Proxy(url) as proxy:
        store = S3(url, proxy)
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        yield store


def test_a_model_is_pulled_from_a_bucket(
    bucket: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("small.onnx", identity(tmp_path / "origin").read_bytes())
    assert main(["pull", "s3://models/small.onnx"]) == 0
    assert capsys.readouterr() == ("small 1.0.0 is in models/small/1\n", "")
    assert main(["pull", "s3://models/small.onnx"]) == 0
    assert capsys.readouterr().out == "small 1.0.0 is already in models/small/1, nothing to do\n"
    assert main(["cache", "list"]) == 0
    assert "s3://models/small.onnx" in capsys.readouterr().out
    assert main(["pull", "s3://models/other.onnx"]) == 1
    assert capsys.readouterr().err == "error: s3://models/other.onnx: there is no such object, and none below it\n"
    assert main(["pull", "s3://nowhere/small.onnx"]) == 1
    assert capsys.readouterr().err == "error: s3://nowhere: there is no such bucket\n"
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert main(["pull", "gs://models/small.onnx"]) == 1
    assert "pip install 'sluice[gs]'" in capsys.readouterr().err
