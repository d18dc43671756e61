"""`sluice encrypt` and `sluice decrypt`."""

import base64
import json
import resource
import subprocess
import sys
from pathlib import Path

import graphs
import pytest

from sluice.cli.main import main
from sluice.encryption.container import MAGIC
from sluice.encryption.keys import VARIABLE, Key
from sluice.store import manifest

SECRET = bytes(range(32))
KEY, ID = base64.b64encode(SECRET).decode(), Key(SECRET).id


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sealed model with weights in a file of their own, in ./models, and a key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, KEY)
    path = graphs.weights_apart(graphs.lookup(tmp_path / "models"))
    (path.parent / "labels.txt").write_text("cat\n")
    manifest.seal(path.parent)
    return tmp_path / "models"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert KEY not in text
        assert SECRET.hex() not in text
    return captured.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_there_and_back(capsys: pytest.CaptureFixture[str], models: Path) -> None:
    said = printed(capsys, "encrypt", "lookup")
    assert said.splitlines() == [
        "lookup 1.0.0+encrypted is in models/lookup/2",
        "  encrypted: model.onnx, weights.bin",
        "  as before: labels.txt",
        f"key {ID} is needed wherever it is served",
        "models/lookup/1 is there as before; remove it where nobody shall have it",
    ]
    assert "whole and unchanged" in printed(capsys, "verify", "lookup/2")
    said = printed(capsys, "decrypt", "lookup/2", "--as", "9")
    assert said.splitlines()[:2] == ["lookup 1.0.0 is in models/lookup/9", "  in the clear: model.onnx, weights.bin"]
    for name in ("model.onnx", "weights.bin", "labels.txt"):
        assert (models / "lookup" / "9" / name).read_bytes() == (models / "lookup" / "1" / name).read_bytes()
    assert "is already in models/lookup/1, nothing to do" in printed(capsys, "decrypt", "lookup/2")


def test_what_is_encrypted_is_shown(capsys: pytest.CaptureFixture[str], models: Path) -> None:
    printed(capsys, "encrypt", "lookup")
    shown = " ".join(printed(capsys, "models", "show", "lookup").split())
    assert "model.encryption aes-256-gcm" in shown
    assert f"model.key_id {ID}" in shown
    assert "parents.encrypted from lookup 1.0.0" in shown
    document = json.loads(printed(capsys, "models", "show", "lookup", "--json"))
    assert (document["model"]["encryption"], document["model"]["key_id"]) == ("aes-256-gcm", ID)
    differences = " ".join(printed(capsys, "models", "diff", "lookup/1", "lookup/2").split())
    assert "model.encryption aes-256-gcm new" in differences
    (models / "lookup" / "2" / "manifest.toml").unlink()
    document = json.loads(printed(capsys, "models", "show", "lookup/2", "--json"))
    assert [port["name"] for port in document["signature"]["inputs"]] == ["input_ids", "attention_mask"]
    assert "is lookup 2.0.0, 3 files" in printed(capsys, "seal", "lookup/2")
    assert "model.encryption" not in printed(capsys, "models", "show", "lookup/1")


def test_a_package_is_made_at_once(capsys: pytest.CaptureFixture[str], models: Path, tmp_path: Path) -> None:
    assert "lookup-1.0.0+encrypted.sluice has" in printed(capsys, "encrypt", "lookup", "-o", ".")
    assert f"key {ID} is needed" in printed(capsys, "encrypt", "lookup", "-o", "other.sluice")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lookup-1.0.0+encrypted.sluice",
        "models",
        "other.sluice",
    ]
    assert [path.name for path in (models / "lookup").iterdir()] == ["1"]
    printed(capsys, "unpack", "other.sluice")
    assert (models / "lookup" / "2" / "weights.bin").read_bytes().startswith(MAGIC)
    assert "it exists" in refused(capsys, "encrypt", "lookup/1", "-o", "other.sluice")
    assert "nowhere: there is no such directory" in refused(capsys, "encrypt", "lookup/1", "-o", "nowhere/a.sluice")


def test_a_disk_without_room_leaves_nothing_behind(models: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    command = [sys.executable, "-m", "sluice.cli.main", "encrypt", "lookup"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=little_room)
    assert done.returncode == 1
    assert "cannot be written or read: File too large" in done.stderr
    assert [path.name for path in (models / "lookup").iterdir()] == ["1"]


def test_keys_come_from_a_file_as_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE)
    assert "there is no key to encrypt with: set SLUICE_MODEL_KEY" in refused(capsys, "encrypt", "lookup")
    (tmp_path / "keys").write_text(f"{'22' * 32}\n")
    printed(capsys, "encrypt", "lookup/1", "--key-file", "keys", "--as", "2")
    (tmp_path / "sluice.toml").write_text('[models]\nkey_file = "keys"\n')
    (tmp_path / "keys").write_text(f"{KEY} # new\n{'22' * 32} # old\n")
    assert f"key {ID} is needed" in printed(capsys, "encrypt", "lookup/2")
    assert KEY not in printed(capsys, "config")
    assert "key_file" in printed(capsys, "config", "--json")


def test_what_cannot_be_done_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    printed(capsys, "encrypt", "lookup")
    assert f"lookup/2: is encrypted with the key {ID} already" in refused(capsys, "encrypt", "lookup")
    assert "lookup/1: is not encrypted" in refused(capsys, "decrypt", "lookup/1")
    assert "neither such a model in models nor" in refused(capsys, "encrypt", "nobody")
    assert "it exists and is another version" in refused(capsys, "encrypt", "lookup/1", "--as", "2")
    monkeypatch.setenv(VARIABLE, "hunter2")
    why = refused(capsys, "encrypt", "lookup/1")
    assert "SLUICE_MODEL_KEY, key 1: is no key; a key is 32 bytes in base64 or hexadecimal" in why
    assert "hunter2" not in why
    monkeypatch.setenv(VARIABLE, "33" * 32)
    assert f"lookup/2/model.onnx: is encrypted with the key {ID}; those given are" in refused(
        capsys, "decrypt", "lookup/2"
    )
