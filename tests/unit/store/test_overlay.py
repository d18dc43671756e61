"""Files of a load request become a repository of one model; what cannot be written is the client's doing or ours."""

import errno
import tempfile
from pathlib import Path

import pytest

from sluice.errors import InvalidRequest, ModelError
from sluice.store import overlay


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_files_lie_where_they_were_sent_to() -> None:
    root = overlay.write("m", {"file:1/model.onnx": b"x", "file:2/data/y": b"y"})
    assert (root / "m/1/model.onnx").read_bytes() == b"x"
    assert (root / "m/2/data/y").read_bytes() == b"y"


@pytest.mark.parametrize(
    "names",
    [
        ["file:../x"],
        ["file:/etc/x"],
        ["file:.hidden/x"],
        ["file:"],
        ["file:1", "file:1/x"],
        ["file:" + 300 * "a"],
        ["\0"],
    ],
)
def test_what_a_client_may_not_send(names: list[str], temporary: Path) -> None:
    with pytest.raises(InvalidRequest):
        overlay.write("m", dict.fromkeys(names, b""))
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "/", "/etc", "a/b", "a/..", "\0"])
def test_names_that_lead_elsewhere(name: str, temporary: Path) -> None:
    with pytest.raises(InvalidRequest):
        overlay.write(name, {"file:x/y": b""})
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_cannot_take_it_is_not_the_clients_fault(
    code: int, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(code, "x", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match="the files of the load request cannot be written: "):
        overlay.write("m", {"file:1/model.onnx": b"x"})
    assert not list(temporary.iterdir())


def test_no_place_for_temporary_files(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    with pytest.raises(ModelError, match="No such file or directory"):
        overlay.write("m", {"file:1/model.onnx": b"x"})
