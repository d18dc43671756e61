"""What may not lie in a version's directory: links that lead astray, pickles, libraries, and graphs gone bad."""

import os
import pickle
import shutil
from pathlib import Path

import graphs
import pytest

from sluice.errors import ModelError
from sluice.store.inspection import inspect
from sluice.store.repository import VersionFiles, find


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    models = tmp_path / "models"
    graphs.tagger(models, "graph")
    graphs.python_echo(models, "code")
    return models


def version(repository: Path, name: str) -> VersionFiles:
    (files,) = find(repository, name).versions
    return files


def refusal(repository: Path, name: str, *pickle_directories: Path) -> str:
    try:
        inspect(version(repository, name), list(pickle_directories))
    except ModelError as error:
        return error.message
    return ""


@pytest.mark.parametrize("name", ["graph", "code"])
def test_links_out_of_the_repository_are_refused(repository: Path, name: str) -> None:
    directory = repository / name / "1"
    assert refusal(repository, name) == ""
    for place, target in {"": "../../../outside/secret.txt", "deep/": "../../../../outside"}.items():
        link = directory / place / "link"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        said = "its link leads out of the repository; put the file itself there"
        assert refusal(repository, name) == f"{name}/1/{place}link: {said}"
        link.unlink()
    # Those that stay inside are followed, once; those that lead nowhere do no harm, nor does what is no file.
    (directory / "circle").symlink_to("circle")
    (directory / "self").symlink_to(".")
    (directory / ".lock").symlink_to("user@host.1:2")
    os.mkfifo(directory / "pipe")
    assert refusal(repository, name) == ""
    (repository / "shared").mkdir()
    (directory / "shared").symlink_to("../../shared")
    (repository / "shared" / "x").write_bytes(pickle.dumps({}))
    assert refusal(repository, name).startswith(f"{name}/1/")
    assert "shared/x: is a pickle" in refusal(repository, name)


def test_a_linked_repository_is_its_own_root(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(repository)
    (repository / "graph" / "1" / "labels.txt").symlink_to("../labels.txt")
    (repository / "graph" / "labels.txt").write_text("a\n")
    assert refusal(tmp_path / "alias", "graph") == ""


@pytest.mark.parametrize("name", ["graph", "code"])
def test_pickles_are_refused_unless_the_operator_allows_them(repository: Path, name: str) -> None:
    (repository / name / "1" / "deep").mkdir()
    (repository / name / "1" / "deep" / "innocent.txt").write_bytes(pickle.dumps(Path("/"), 4))
    reason = refusal(repository, name)
    assert reason.startswith(
        f"{name}/1/deep/innocent.txt: is a pickle, which runs code when it is read; it names pathlib."
    )
    assert "models.pickle_directories" in reason
    assert refusal(repository, name, repository / "other", Path("/nowhere")) == reason
    assert refusal(repository, name, repository / name) == ""


def test_a_directory_is_allowed_by_where_it_is(repository: Path) -> None:
    (repository / "graph" / "1" / "weights.pt").write_bytes(pickle.dumps({}))
    shutil.move(repository / "graph", repository / "code" / "graph")
    (repository / "graph").symlink_to("code/graph")
    assert refusal(repository, "graph", repository / "graph") == ""
    (repository / "trusted").mkdir()
    assert "is a pickle" in refusal(repository, "graph", repository / "trusted")


@pytest.mark.parametrize(
    "content",
    [b"\x7fELF\2\1\1", b"\xcf\xfa\xed\xfe", b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0"],
    ids=["elf", "mach", "pe"],
)
def test_libraries_of_custom_operators_are_refused(repository: Path, content: bytes) -> None:
    for name in ("graph", "code"):
        (repository / name / "1" / "operators").write_bytes(content)
    assert refusal(repository, "graph").startswith("graph/1/operators: is a library of machine code")
    assert refusal(repository, "code") == ""  # which could run anything


def test_the_graph_is_inspected(repository: Path) -> None:
    (repository / "graph" / "1" / "model.onnx").write_bytes(b"")
    assert refusal(repository, "graph") == "graph/1/model.onnx: is empty"
