"""`sluice pack`, `sluice unpack` and `sluice verify`, as they are typed."""

from pathlib import Path

import pytest
from graphs import identity

from sluice.cli.main import main
from sluice.store import manifest


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _sealed(number: str, weights: bytes) -> Path:
    directory = identity(Path("models"), "identity").parent
    directory = directory if number == "1" else directory.rename(f"models/identity/{number}")
    (directory / "weights.bin").write_bytes(weights)
    manifest.seal(directory)
    return directory


def test_a_version_travels_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    _sealed("1", bytes(range(256)) * 1000)
    assert main(["pack", "models/identity/1"]) == 0
    assert capsys.readouterr().out.startswith("identity-1.0.0.sluice has 2")
    assert main(["verify", "identity-1.0.0.sluice"]) == 0
    assert "identity-1.0.0.sluice is identity 1.0.0, whole and unchanged: sha256:" in capsys.readouterr().out
    assert main(["unpack", "identity-1.0.0.sluice", "--repository", "elsewhere", "--as", "3"]) == 0
    assert capsys.readouterr().out == "identity 1.0.0 is in elsewhere/identity/3\n"
    assert main(["unpack", "identity-1.0.0.sluice", "-r", "elsewhere"]) == 0
    assert capsys.readouterr().out == "identity 1.0.0 is already in elsewhere/identity/3, nothing to do\n"
    assert main(["verify", "identity", "-r", "elsewhere"]) == 0


def test_a_changed_version_travels_as_a_delta(capsys: pytest.CaptureFixture[str]) -> None:
    weights = b"".join(number.to_bytes(4, "big") for number in range(250_000))
    _sealed("2", weights + b"more")
    _sealed("1", weights)
    assert main(["pack", "identity/2", "--against", "identity/1", "-o", "delta"]) == 0
    said = capsys.readouterr().out
    assert "it needs identity 1.0.0 (sha256:" in said
    assert "  model.onnx: as it is there\n" in said
    assert "  weights.bin: " in said
    assert Path("delta").stat().st_size < len(weights) / 3
    assert main(["verify", "delta", "-r", "elsewhere"]) == 1
    assert "unpack that version first" in capsys.readouterr().err
    assert main(["verify", "delta"]) == 0


def test_what_is_not_there_or_not_whole_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "identity/1"]) == 1
    assert "hint: name a model" in capsys.readouterr().err
    directory = _sealed("1", b"weights")
    assert main(["pack", "identity/1", "-o", "x"]) == 0
    (directory / "weights.bin").write_bytes(b"changed")
    assert main(["verify", "identity/1"]) == 1
    assert "weights.bin is changed" in capsys.readouterr().err
    Path("x").write_bytes(Path("x").read_bytes()[:-1])
    assert main(["verify", "x"]) == 1
    assert capsys.readouterr().err == "error: x: it is cut short or no package\n"
    assert main(["unpack", "nowhere"]) == 1
