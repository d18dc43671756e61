"""`sluice seal`, `sluice models show` and `sluice models diff`, which need no server."""

import json
from pathlib import Path
from typing import Any

import graphs
import pytest

from sluice.cli.main import main
from sluice.store import manifest


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three versions in ./models, none of them sealed."""
    monkeypatch.chdir(tmp_path)
    for version, factor in (("1", 2), ("2", 3), ("10", 5)):
        graphs.tagger(tmp_path / "models", "tagger", version, factor)
        (tmp_path / "models" / "tagger" / version / "labels.txt").write_text("cat\n")
    return tmp_path / "models"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(printed(capsys, *arguments, "--json"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "version"),
    [
        ("tagger", "10"),
        ("tagger/2", "2"),
        ("models/tagger/2", "2"),
        ("models/tagger", "10"),
        ("./models/tagger/1", "1"),
    ],
)
def test_seal_finds_the_version(
    capsys: pytest.CaptureFixture[str], repository: Path, target: str, version: str
) -> None:
    assert f"is tagger {version}.0.0, 2 files, sha256:" in printed(capsys, "seal", target)
    directory = repository / "tagger" / version
    sealed = manifest.read(directory)
    assert sealed is not None
    manifest.verify(directory, sealed)
    assert (directory / "README.md").read_text().startswith("# tagger\n")


def test_seal_writes_down_what_it_is_told(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    said = ("version=1.2.0", "licence=Apache-2.0", "task=other", "metrics.cosine=0.998", "metrics.texts=1000")
    printed(capsys, "seal", "tagger/1", *(part for each in said for part in ("--set", each)))
    printed(capsys, "seal", "tagger/1", "--set", "metrics.note=on German", "--set", "metrics.texts=", "--set", "task=")
    sealed = manifest.read(repository / "tagger" / "1")
    assert sealed is not None
    assert (sealed.version, sealed.licence, sealed.task) == ("1.2.0", "Apache-2.0", "")
    assert sealed.metrics == {"cosine": 0.998, "note": "on German"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("seal", "nobody"), "neither such a model in models nor such a directory"),
        (("seal", "tagger/3"), "neither such a model"),
        (("seal", "tagger", "--set", "licence"), "must be KEY=VALUE"),
        (("seal", "tagger", "--set", "license=MIT"), "did you mean 'licence'?"),
        (("seal", "tagger", "--set", "metrics.=1"), "did you mean 'metrics.NAME'?"),
        (("seal", "tagger", "--set", "version=two"), "version: must be like 1.2.0"),
        (("models", "show", "nobody"), "neither such a model"),
        (("models", "diff", "tagger/1", "nobody"), "neither such a model"),
    ],
)
def test_mistakes_are_explained(
    capsys: pytest.CaptureFixture[str], repository: Path, arguments: tuple[str, ...], why: str
) -> None:
    assert why in refused(capsys, *arguments)
    assert not list(repository.rglob("manifest.toml"))


def test_show_prints_everything(capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "seal", "tagger/2", "--set", "licence=MIT", "--set", "metrics.cosine=0.998")
    lines = [line.split() for line in printed(capsys, "models", "show", "tagger/2").splitlines()]
    for words in (
        ["sealed", "yes"],
        ["version", "2.0.0"],
        ["licence", "MIT"],
        ["model.opsets.ai.onnx", "17"],
        ["input_ids", "INT64", "[batch,", "sequence]"],
        ["cosine", "0.998"],
    ):
        assert words in lines
    shown = as_json(capsys, "models", "show", "tagger/2")
    assert shown["files"]["labels.txt"]["size"] == 4
    assert (shown["sealed"], shown["metrics"]) == (True, {"cosine": 0.998})


def test_show_reads_what_is_not_sealed(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    shown = as_json(capsys, "models", "show", "tagger", "--repository", str(repository))
    assert (shown["sealed"], shown["version"]) == (False, "10.0.0")
    assert "created" not in shown
    assert not list(repository.rglob("manifest.toml"))


def test_show_says_what_is_wrong_with_a_manifest(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    (repository / "tagger" / "1" / "manifest.toml").write_text("manifest = 1\n")
    assert "error: tagger/1/manifest.toml: name: is missing" in refused(capsys, "models", "show", "tagger/1")


def test_diff_tells_what_differs(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    (repository / "tagger" / "2" / "more.txt").write_text("")
    printed(capsys, "seal", "tagger/1", "--set", "metrics.cosine=1", "--set", "licence=MIT")
    printed(capsys, "seal", "tagger/2", "--set", "metrics.cosine=0.75")
    told = as_json(capsys, "models", "diff", "tagger/1", "tagger/2")
    rows = {row["field"]: (row["first"], row["second"]) for row in told["differences"]}
    assert {"version", "licence", "metrics.cosine", "digest", "files.model.onnx", "files.more.txt"} <= rows.keys()
    assert rows["version"] == ("1.0.0", "2.0.0")
    assert rows["licence"] == ("MIT", None)
    assert rows["files.more.txt"][0] is None
    assert told["same_files"] == ["labels.txt"]
    lines = [line.split() for line in printed(capsys, "models", "diff", "tagger/1", "tagger/2").splitlines()]
    assert ["metrics.cosine", "1", "0.75", "-0.25"] in lines
    assert ["licence", "MIT", "gone"] in lines
    assert ["files.more.txt", "0", "bytes,", "e3b0c44298fc", "new"] in lines
    assert lines[-1] == ["1", "files", "are", "the", "same,", "4", "bytes"]


def test_diff_compares_signatures(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    graphs.lookup(repository)
    told = as_json(capsys, "models", "diff", "tagger/1", "lookup")
    rows = {row["field"]: (row["first"], row["second"]) for row in told["differences"]}
    assert rows["outputs.embedding"] == (None, {"datatype": "FP32", "shape": ["batch", 8]})
    assert "inputs.input_ids" not in rows


def test_a_version_does_not_differ_from_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no differences" in printed(capsys, "models", "diff", "tagger/1", "tagger/1")
