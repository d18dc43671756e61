from pathlib import Path

import pytest

from sluice.errors import ModelError
from sluice.store.python_policy import check_allowed


def _file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_nothing_is_allowed_unless_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"models\.python_directories"):
        check_allowed(_file(tmp_path / "m/1/model.py"), [])


def test_below_an_allowed_directory(tmp_path: Path) -> None:
    check_allowed(_file(tmp_path / "m/1/model.py"), [tmp_path / "elsewhere", tmp_path / "m"])


def test_a_directory_whose_name_only_begins_alike_is_not_allowed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="outside the allowed directories"):
        check_allowed(_file(tmp_path / "models2/1/model.py"), [tmp_path / "models"])


def test_links_are_followed_on_both_sides(tmp_path: Path) -> None:
    outside = _file(tmp_path / "outside/model.py")
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "model.py").symlink_to(outside)
    with pytest.raises(ModelError, match="outside the allowed directories"):
        check_allowed(allowed / "model.py", [allowed])
    (tmp_path / "alias").symlink_to(outside.parent)
    check_allowed(allowed / "model.py", [tmp_path / "alias"])
    check_allowed(allowed / ".." / "outside" / "model.py", [outside.parent])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be followed"):
        check_allowed(tmp_path / "model.py", [tmp_path])


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "model.py").symlink_to(tmp_path / "model.py")
    with pytest.raises(ModelError, match="cannot be followed"):
        check_allowed(tmp_path / "model.py", [tmp_path])
