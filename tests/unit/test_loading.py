"""What was learned of a version is written until it is kept, and whatever is wrong with that ends nothing else."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sluice.config import settings
from sluice.loading import Loader
from sluice.scheduler.cost import Cost
from sluice.store import learned

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
