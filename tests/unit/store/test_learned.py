"""What was learned is kept for the same circumstances only, and a bad file is no worse than none."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from sluice.store import learned

CIRCUMSTANCES: learned.Circumstances = {"device": "a fast one", "threads": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    version = tmp_path / "model" / "3"
    version.mkdir(parents=True)
    return learned.path_of(version, "cpu")


def test_kept_beside_the_version(path: Path) -> None:
    assert path.parts[-3:] == ("model", ".learned", "3-cpu.json")
    learned.write(path, CIRCUMSTANCES, {"floor": 1.5})
    assert learned.read(path, CIRCUMSTANCES) == {"floor": 1.5}
    assert [entry.name for entry in path.parent.iterdir()] == ["3-cpu.json"]


def test_nothing_under_other_circumstances(path: Path) -> None:
    learned.write(path, CIRCUMSTANCES, {"floor": 1.5})
    assert learned.read(path, {**CIRCUMSTANCES, "threads": 2}) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"cost": {}}', b"\xff"])
def test_a_bad_file_is_no_file(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert learned.read(path, CIRCUMSTANCES) is None


def test_no_file_and_no_place_for_one(path: Path) -> None:
    assert learned.read(path, CIRCUMSTANCES) is None
    path.parent.parent.joinpath(".learned").write_text("in the way")
    learned.write(path, CIRCUMSTANCES, {})  # costs a profile at the next start and no more
    assert learned.read(path, CIRCUMSTANCES) is None
    assert "File exists" in learned.trouble.text
    learned.trouble.over("")


def test_a_full_disk_is_said_once_and_leaves_no_part_of_a_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learned.write(path, CIRCUMSTANCES, {"floor": 1.5})
    caplog.set_level("INFO", "sluice")
    with monkeypatch.context() as full:
        full.setattr("os.replace", fails_with(errno.ENOSPC))
        for _ in range(2):
            assert not learned.write(path, CIRCUMSTANCES, {"floor": 2.5})
    repository = path.parents[2]
    assert learned.trouble.text.endswith(f"in {repository} for the next start: No space left on device")
    assert learned.read(path, CIRCUMSTANCES) == {"floor": 1.5}
    assert [entry.name for entry in path.parent.iterdir()] == ["3-cpu.json"]
    assert learned.write(path, CIRCUMSTANCES, {"floor": 2.5})
    assert learned.trouble.text == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_repository_that_may_not_be_written_is_no_trouble(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.replace", fails_with(errno.EROFS))
    assert learned.write(path, CIRCUMSTANCES, {"floor": 2.5})  # there is nothing to try again
    assert learned.trouble.text == ""
    assert not caplog.records


def fails_with(code: int) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise OSError(code, "x")

    return fail
