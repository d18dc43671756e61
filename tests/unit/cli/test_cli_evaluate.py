"""`sluice evaluate` as people type it: what it prints, writes and exits with."""

import json
from pathlib import Path
from typing import Any

import encoders
import graphs
import pytest

from sluice.cli.main import main
from sluice.store import manifest


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sealed versions of ./models/words, and an alias."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLUICE_CONFIG", raising=False)
    for version, noise in (("1", 0.0), ("2", 0.01)):
        manifest.seal(encoders.encoder(tmp_path / "models", version, encoders.table(noise)))
    (tmp_path / "models" / "words" / "aliases.toml").write_text('production = "1"\n')
    return tmp_path / "models"


def done(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main(["evaluate", *arguments, "--samples", "30"]) == code
    return capsys.readouterr()


def metrics(directory: Path) -> dict[str, Any]:
    found = manifest.read(directory)
    assert found is not None
    return {name.removeprefix("evaluation."): value for name, value in found.metrics.items()}


def test_the_latest_version_is_evaluated_and_written(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    printed = done(capsys, "words", "--against", "production", "--min-accuracy", "0.9")
    lines = {line.split("  ")[0]: line for line in printed.out.splitlines()}
    assert lines["words/2"].split() == ["words/2", "result", "detail"]
    assert " ok " in lines["ordinary input"]
    assert lines["cosine_mean against words/1"].endswith("at least 0.9")
    assert printed.out.splitlines()[-1] == "passed: 30 samples of synthetic, output 'embedding' (embedding)"
    found = metrics(repository / "words" / "2")
    assert found["verdict"] == "passed"
    assert found["against"] == "words/1"
    assert found["samples"] == 30
    assert found["data"] == "synthetic"
    assert found["finite"] == "yes"
    assert found["required"] == "cosine_mean >= 0.9"
    assert 0.9 < found["cosine_mean"] <= 1
    assert metrics(repository / "words" / "1") == {}


@pytest.mark.parametrize("against", ["1", "production", "words/1", "words/production", "models/words/1"])
def test_another_version_may_be_named_in_many_ways(
    capsys: pytest.CaptureFixture[str], repository: Path, against: str
) -> None:
    printed = done(capsys, "models/words/2", "--against", against, "--no-write", "--json")
    assert json.loads(printed.out)["against"] == "words/1"


def test_a_version_below_the_bound_fails(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    printed = done(capsys, "words/2", "--against", "1", "--min", "cosine_min=0.99999999", code=1)
    assert "failed" in next(line for line in printed.out.splitlines() if line.startswith("cosine_min"))
    assert printed.out.splitlines()[-1].startswith("failed: ")
    assert printed.err.splitlines()[-1] != "error"
    assert metrics(repository / "words" / "2")["verdict"] == "failed"


def test_json_says_everything(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    document = json.loads(done(capsys, "words/production", "--json").out)
    assert document["verdict"] == "passed"
    assert (document["model"], document["version"]) == ("words", "1")
    assert document["written"] is True
    assert document["batching"]["padding"] == "any"
    assert {check["result"] for check in document["checks"]} == {"ok", "noted"}
    assert document["digest"] == metrics(repository / "words" / "1")["digest"]


def test_an_unsealed_version_is_evaluated_and_nothing_written(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    (repository / "words" / "2" / "manifest.toml").unlink()
    printed = done(capsys, "words/2")
    assert "not sealed" in printed.out
    assert "not written: it has no manifest; `sluice seal words/2` makes one" in printed.err
    assert not (repository / "words" / "2" / "manifest.toml").exists()


def test_a_signature_is_not_broken_unasked(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    directory = repository / "words" / "2"
    (directory / "model.sig").write_text("{}")
    before = (directory / "manifest.toml").read_bytes()
    printed = done(capsys, "words/2", code=1)
    assert "error: words/2 is signed" in printed.err
    assert "hint: evaluate before signing; or --force" in printed.err
    assert (directory / "manifest.toml").read_bytes() == before


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    printed = capsys.readouterr().out
    for option in (
        "--against",
        "--data",
        "--samples",
        "--min-accuracy",
        "--min",
        "--strict",
        "--force",
        "--json",
        "-r",
    ):
        assert f"{option} " in printed


def test_no_write_leaves_the_manifest(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    before = (repository / "words" / "1" / "manifest.toml").read_bytes()
    done(capsys, "words/1", "--no-write")
    assert (repository / "words" / "1" / "manifest.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nothing"], "nothing: there is neither such a model in models"),
        (["words/7"], "words/7: there is neither such a model"),
        (["words/staging"], "version staging is not found among aliases; there are production"),
        (["words", "--against", "staging"], "version staging is not found among aliases"),
        (["words", "--data", "missing.jsonl"], "missing.jsonl: cannot be read: No such file or directory"),
        (["words", "--min", "cosine"], "--min cosine: must be MEASURE=NUMBER"),
        (["words", "--min-accuracy", "0.9"], "name another version with --against, or give --data with labels"),
        (["words", "--task", "sorting"], "--task sorting: must be one of embedding, classification"),
        (["elsewhere"], "elsewhere: is no version's directory, which is called NAME/1"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], error: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert main(["evaluate", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    first, *hints = printed.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert all(line.startswith("hint: ") for line in hints)


def test_a_wrong_row_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('"ba"\n{"txt": "be"}\n')
    assert (
        "error: rows.jsonl, line 2: txt: did you mean 'text'?"
        in done(capsys, "words", "--data", "rows.jsonl", code=1).err
    )


def test_what_a_server_would_refuse_is_refused(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    (repository / "words" / "2" / "tokenizer.json").write_text("{}")
    assert "words/2 is not what its manifest says: tokenizer.json is changed" in done(capsys, "words/2", code=1).err
    graphs.python_echo(repository)
    assert "models.python_directories" in done(capsys, "echo", code=1).err
    assert "passed" in done(capsys, "echo", "--python-directory", "models").out
