"""What loading remembers of a version: what makes it another one, and what was learned, written until it is kept."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import graphs
import pytest

from sluice.config import settings
from sluice.loading import Loader
from sluice.scheduler.cost import Cost
from sluice.store import card, learned
from sluice.store.fingerprint import fingerprint_of
from sluice.store.manifest import seal
from sluice.store.repository import find

CIRCUMSTANCES: learned.Circumstances = {"device": "a fast one"}


@pytest.fixture
def version(tmp_path: Path) -> Any:
    directory = tmp_path / "model" / "3"
    directory.mkdir(parents=True)
    return SimpleNamespace(
        cost=Cost(),
        lane=SimpleNamespace(key="model/3"),
        spec=SimpleNamespace(name="model"),
        number="3",
        memory=learned.path_of(directory, "cpu"),
        circumstances=CIRCUMSTANCES,
    )


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    other: Any = None
    return Loader(settings.Models(repository=tmp_path), settings.Scheduler(), other, other, other)


def fails_with(error: Exception) -> Any:
    def fail(*arguments: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [OSError(28, "x"), RuntimeError("a bug")], ids=["full disk", "bug"])
async def test_what_could_not_be_kept_is_written_later(
    loader: Loader, version: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr("os.replace", fails_with(error))
        await loader.remember(version)
    assert learned.read(version.memory, CIRCUMSTANCES) is None
    await loader.remember(version)
    assert learned.read(version.memory, CIRCUMSTANCES) is not None


async def test_what_is_kept_is_not_written_again(loader: Loader, version: Any) -> None:
    await loader.remember(version)
    version.memory.unlink()
    await loader.remember(version)
    assert not version.memory.exists()
    version.cost.profile(1, 8, 0.001)
    version.cost.fit()
    await loader.remember(version)
    assert version.memory.exists()


def fingerprint(repository: Path) -> object:
    (files,) = find(repository, "tagger").versions
    return fingerprint_of(files)


def test_what_is_said_of_a_version_makes_it_no_other(tmp_path: Path) -> None:
    directory = graphs.tagger(tmp_path).parent
    before = fingerprint(tmp_path)
    card.write(directory, seal(directory))
    assert fingerprint(tmp_path) == before
    seal(directory, metrics={"cosine": 0.998})
    assert fingerprint(tmp_path) == before
    (directory / "labels.txt").touch()
    assert fingerprint(tmp_path) != before


def test_a_time_that_was_set_back_hides_no_change(tmp_path: Path) -> None:
    path = graphs.tagger(tmp_path)
    before, seen = fingerprint(tmp_path), path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert path.stat().st_size == seen.st_size
    assert fingerprint(tmp_path) != before
