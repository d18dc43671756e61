"""Puts a version into a repository: it appears whole and verified, or not at all, and replaces nothing.

It is made beside its place, brought to the disk and then renamed, one version of a model at a time. What a killed
process left behind begins with a dot, is no version to anybody, and is removed by the next one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import ModelError, system_reason
from sluice.store import disk, manifest, repository
from sluice.store.manifest import Manifest

_STAGING = ".unpacking-"
NUMBER = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Placed:
    directory: Path
    manifest: Manifest
    is_new: bool  # False: this very version was there already
    note: str = ""  # what became of a signature that came with it then

    @property
    def told(self) -> str:
        """Where it is, for people to read."""
        if self.is_new:
            return f"in {self.directory}"
        return f"already in {self.directory}, {self.note or 'nothing to do'}"


def place(
    models: Path,
    name: str,
    number: str | None,
    make: Callable[[Path, Path], Manifest],
    content: Manifest | None = None,
) -> Placed:
    """Have `make` fill a directory, the first of the two, that will become the second, and put it there.

    `number` None is the next that is free. If `content` is known beforehand, that very version is looked for first;
    otherwise a version with the same files is, once it is made.
    """
    model = _model(models, name, number)
    missing = [path for path in (model, *model.parents) if not os.path.exists(path)]
    try:
        model.mkdir(parents=True, exist_ok=True)
        with disk.locked(model, _STAGING):
            return _place(model, number, make, content)
    except OSError as error:
        shown = error.filename or model
        raise ModelError(f"{shown}: cannot be written or read: {system_reason(error)}") from error
    finally:
        with suppress(OSError):
            model.rmdir()  # where nothing came into it
            for path in missing[1:]:  # and what was made for it
                path.rmdir()


def present(models: Path, name: str, number: str | None, content: Manifest) -> Placed | None:
    """This very version, if it is there, under this number or, without one, under any."""
    there = _found(_model(models, name, number), number, content.__eq__)
    return Placed(there, content, False) if there else None


def versions(model: Path) -> Iterable[Path]:
    """The directories of its versions."""
    try:
        return sorted(path for path in model.iterdir() if NUMBER.fullmatch(path.name))
    except OSError:
        return []


def _model(models: Path, name: str, number: str | None) -> Path:
    """The model's directory; ModelError for names that cannot be."""
    if number is not None and not NUMBER.fullmatch(number):
        raise ModelError(f"{number!r} is no version directory's name, which is a whole number from 1")
    if not repository.is_name(name):
        raise ModelError(f"a model cannot be called {name!r} in a repository")
    return models / name


def _place(
    model: Path, number: str | None, make: Callable[[Path, Path], Manifest], content: Manifest | None
) -> Placed:  # fmt: skip
    if content is not None and (there := _found(model, number, content.__eq__)):
        return Placed(there, content, False)
    target = model / (number or str(max((int(each.name) for each in versions(model)), default=0) + 1))
    if content is not None and os.path.lexists(target):
        raise _taken(target)
    staging = model / f"{_STAGING}{target.name}"
    staging.mkdir()
    try:
        made = make(staging, target)
        if content is None:
            if there := _found(model, number, lambda other: other.digest() == made.digest()):
                return Placed(there, manifest.read(there) or made, False)
            if os.path.lexists(target):
                raise _taken(target)
        for folder, _, names in os.walk(staging):
            for name in (*names, "."):
                disk.sync(Path(folder, name))
        staging.rename(target)
        disk.sync(model)
        disk.sync(model.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Placed(target, made, True)


def _found(model: Path, number: str | None, is_it: Callable[[Manifest], bool]) -> Path | None:
    for directory in versions(model) if number is None else [model / number]:
        with suppress(ModelError, OSError):  # a version that is wrong is not it
            found = manifest.read(directory)
            if found is not None and is_it(found) is True:
                return directory
    return None


def _taken(target: Path) -> ModelError:
    return ModelError(f"{target}: it exists and is another version; choose another number")
