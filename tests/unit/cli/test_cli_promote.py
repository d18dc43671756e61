"""`sluice promote`, `sluice rollback` and `sluice models history` on a directory, as they are typed."""

import getpass
import json
from pathlib import Path

import graphs
import pytest

from sluice.cli.main import main
from sluice.store import aliases
from sluice.store.manifest import seal

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number in ("1", "2"):
        (tmp_path / "models" / "m" / number).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def run(*arguments: str) -> int:
    return main([*arguments, "--repository", "models"])


def test_there_and_back_again(repository: Path, capsys: Captured) -> None:
    assert run("promote", "m", "1", "--by", "ann") == 0
    assert run("promote", "m", "2", "--by", "bob", "--reason", "faster, as right") == 0
    assert run("promote", "m", "2") == 0
    assert run("rollback", "m", "--reason", "not as right") == 0
    assert capsys.readouterr().out.splitlines() == [
        "production of m is version 1 now",
        "production of m is version 2 now, it was 1",
        "production of m is version 2 already",
        "production of m is version 1 now, it was 2",
    ]
    assert aliases.read(repository / "m") == {"production": "1", "previous": "2"}
    assert run("models", "history", "m") == 0
    out = capsys.readouterr().out
    assert "faster, as right" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["production", "1"] in rows
    assert ["previous", "2"] in rows
    assert [row[1:4] for row in rows if "production" in row[2:]] == [
        ["ann", "production", "1"],
        ["bob", "production", "1"],
        [getpass.getuser(), "production", "2"],
    ]


def test_other_aliases_and_json(capsys: Captured) -> None:
    assert run("promote", "m", "2", "--alias", "staging", "--by", "ann", "--json") == 0
    change = json.loads(capsys.readouterr().out)
    assert (change["alias"], change["before"], change["after"]) == ("staging", "", "2")
    assert run("promote", "m", "staging", "--json") == 0
    assert json.loads(capsys.readouterr().out)["after"] == "2"
    assert run("models", "history", "m", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["aliases"] == {"production": "2", "staging": "2"}
    assert found["history"][0] == change


def test_an_alias_is_taken_away(repository: Path, capsys: Captured) -> None:
    assert run("promote", "m", "2", "--alias", "staging") == 0
    assert run("models", "unalias", "m", "staging", "--by", "ann", "--reason", "done") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "m has no staging any more, it was version 2"
    assert aliases.read(repository / "m") == {}
    last = aliases.history(repository / "m")[-1]
    assert (last.by, last.alias, last.before, last.after, last.reason) == ("ann", "staging", "2", "", "done")
    assert run("models", "unalias", "m", "staging") == 1
    assert "version staging is not found among aliases; there are none" in capsys.readouterr().err


def test_what_cannot_be_is_said(capsys: Captured) -> None:
    assert run("models", "history", "m") == 0
    assert capsys.readouterr().out == "no aliases\n"
    for arguments, reason in (
        (("promote", "m", "3"), "'m' has no version 3; there are 1, 2"),
        (("promote", "nothing", "1"), "there is no model 'nothing' in models"),
        (("promote", "../models/m", "1"), "there is no model '../models/m' in models"),
        (("promote", "m", "1", "--alias", "Prod"), "'Prod' is not an alias: one starts with"),
        (("rollback", "m"), "'m' version previous is not found among aliases; there are none"),
        (("models", "history", "nothing"), "there is no model 'nothing'"),
    ):
        assert run(*arguments) == 1
        assert reason in capsys.readouterr().err


def test_what_would_answer_without_production_must_be_approved(
    repository: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("1", "2"):
        graphs.tagger(repository, "m", number)
    assert run("promote", "m", "1") == 0
    monkeypatch.setenv("SLUICE_MODELS__APPROVAL", "evaluated")
    assert run("models", "unalias", "m", "production") == 1
    assert "version 2 would answer, and is not approved: it is not sealed" in capsys.readouterr().err
    assert aliases.read(repository / "m") == {"production": "1"}
    digest = seal(repository / "m" / "2").digest()
    seal(repository / "m" / "2", metrics={"evaluation.verdict": "passed", "evaluation.digest": digest})
    assert run("models", "unalias", "m", "production") == 0
    assert aliases.read(repository / "m") == {}
