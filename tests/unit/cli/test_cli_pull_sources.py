"""`sluice pull` of models whose `model.toml` says where their versions come from."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphs import identity, tagger
from website import Site

from sluice.cli.main import main
from sluice.store import manifest

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site() as site:
        site.tag = ""  # so that an address is downloaded anew each time
        site.files["/a.onnx"] = identity(tmp_path / "origin", "a").read_bytes()
        site.files["/b.onnx"] = tagger(tmp_path / "origin", "b").read_bytes()
        yield site


def say(name: str, text: str) -> None:
    place = Path("models", name, "model.toml")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def test_a_model_is_brought_from_where_it_says(site: Site, capsys: Capture) -> None:
    say("net", f"max_queue = 3\n[source]\nfrom = '{site.url}/a.onnx'")
    assert main(["pull", "net"]) == 0
    assert capsys.readouterr() == ("net 1.0.0 is in models/net/1\n", "")
    found = manifest.read(Path("models/net/1"))
    assert found is not None
    assert (found.name, found.source) == ("net", f"{site.url}/a.onnx")
    assert main(["pull", "net"]) == 0
    assert capsys.readouterr().out == "net 1.0.0 is already in models/net/1, nothing to do\n"
    asked = len(site.requests)
    assert main(["pull", "net", "--missing"]) == 0
    assert capsys.readouterr().out == "net has a version, nothing to do\n"
    assert len(site.requests) == asked
    site.files["/a.onnx"] = site.files["/b.onnx"]
    assert main(["pull", "net"]) == 0
    assert capsys.readouterr().out == "net 2.0.0 is in models/net/2\n"
    assert main(["pull", "net", "--as", "7"]) == 0
    assert sorted(os.listdir("models/net")) == ["1", "2", "7", "model.toml"]


def test_a_version_that_is_there_is_not_asked_for(site: Site, capsys: Capture) -> None:
    say("net", f"[source]\nfrom = '{site.url}/a.onnx'\nversion = 3")
    assert main(["pull", "net"]) == 0
    assert capsys.readouterr().out == "net 3.0.0 is in models/net/3\n"
    asked = len(site.requests)
    assert main(["pull", "net"]) == 0
    assert main(["pull", "--all"]) == 0
    assert capsys.readouterr().out == 2 * "net has version 3, nothing to do\n"
    assert len(site.requests) == asked


def test_the_file_must_be_the_one_that_is_said(site: Site, capsys: Capture) -> None:
    say("net", f"[source]\nfrom = '{site.url}/a.onnx'\nsha256 = '{64 * '0'}'")
    assert main(["pull", "net"]) == 1
    assert f"not {64 * '0'}" in capsys.readouterr().err
    sha256 = hashlib.sha256(site.files["/a.onnx"]).hexdigest()
    say("net", f"[source]\nfrom = '{site.url}/a.onnx'\nsha256 = '{sha256}'")
    assert main(["pull", "net"]) == 0


def test_all_models_are_brought_and_one_that_is_wrong_stops_none(site: Site, capsys: Capture, tmp_path: Path) -> None:
    say("broken", "[source]\nfrm = 'x'")
    say("gone", f"[source]\nfrom = '{site.url}/gone.onnx'")
    say("here", f"[source]\nfrom = '{tmp_path}/origin/a/1'")
    say("net", f"[source]\nfrom = '{site.url}/a.onnx'")
    tagger(Path("models"), "own")
    assert main(["pull", "--all"]) == 1
    out, err = capsys.readouterr()
    assert out == "here 1.0.0 is in models/here/1\nnet 1.0.0 is in models/net/1\n"
    assert err.splitlines() == [
        "error: broken/model.toml, line 2: source.frm: unknown key; did you mean 'from'?",
        f"error: {site.url}/gone.onnx: the server says 404 Not Found",
    ]
    Path("models/broken/model.toml").unlink()
    site.files["/gone.onnx"] = site.files["/b.onnx"]
    assert main(["pull", "--all", "--missing"]) == 0
    assert capsys.readouterr().out == (
        "gone 1.0.0 is in models/gone/1\nhere has a version, nothing to do\nnet has a version, nothing to do\n"
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "say what to pull"),
        (["own"], "models/own/model.toml does not say where its versions come from"),
        (["net", "--name", "x"], "net is a model here, and keeps its name"),
        (["--all", "--as", "3"], "--all is every model with a [source]"),
        (["--all", "net"], "--all is every model with a [source]"),
        (["./net", "--missing"], "--missing is for models with a [source]"),
        (["broken"], "broken/model.toml, line 1: x: unknown key"),
        (["nobody"], "nobody: there is no such file or directory"),
        (["--all", "-r", "nowhere"], "the model repository nowhere cannot be read"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: list[str], why: str, capsys: Capture) -> None:
    say("own", "max_queue = 1")
    say("net", "[source]\nfrom = '/nowhere'")
    say("broken", "x = 1")
    assert main(["pull", *arguments]) == 1
    assert why in capsys.readouterr().err


def test_a_path_is_told_from_a_model_by_its_slash(tmp_path: Path, capsys: Capture) -> None:
    identity(tmp_path, "net")
    say("net", "[source]\nfrom = '/nowhere'")
    assert main(["pull", "./net/1"]) == 0
    assert capsys.readouterr().out == "net 1.0.0 is in models/net/1\n"
    assert main(["pull", "net"]) == 1
    assert "/nowhere: there is no such file" in capsys.readouterr().err


def test_addresses_of_registries_are_taken(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["pull", "oci://127.0.0.1:1/a:b:c"]) == 1
    assert "is no address in a registry" in capsys.readouterr().err
    assert main(["pull", "mlflow://models:/a"]) == 1
    assert "is no address in an MLflow registry" in capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    assert main(["pull", "mlflow://models:/a/1"]) == 1
    assert "set MLFLOW_TRACKING_URI" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert main(["pull", "mlflow://models:/a/1", "--offline"]) == 1
    assert "is not, or not whole, in the cache" in capsys.readouterr().err
