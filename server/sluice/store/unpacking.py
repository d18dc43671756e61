"""Makes a version of a package: it appears in the repository whole and verified, or not at all, and replaces nothing.

It is written beside its place, hashed on the way, brought to the disk and then renamed, one package into a model at a
time. What a killed unpacking left behind begins with a dot, is no version to anybody, and is removed by the next one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import ModelError, system_reason
from sluice.store import manifest, repository
from sluice.store.contents import CARD, MANIFEST
from sluice.store.manifest import Manifest
from sluice.store.package import Package, Progress, silent

_STAGING = ".unpacking-"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Unpacked:
    directory: Path
    manifest: Manifest
    is_new: bool  # False: this very version was there already


def unpack(path: Path, models: Path, number: str | None = None, progress: Progress = silent) -> Unpacked:
    """Put the package's version into the repository, under this number, or else the next that is free."""
    if number is not None and not _NUMBER.fullmatch(number):
        raise ModelError(f"{number!r} is no version directory's name, which is a whole number from 1")
    with Package.open(path) as package:
        name = package.manifest.name
        if not repository.is_name(name):
            raise ModelError(f"{path}: a model cannot be called {name!r} in a repository")
        parent = find_parent(package, models)
        model = models / name
        try:
            model.mkdir(parents=True, exist_ok=True)
            with _locked(model):
                if there := _already_there(package.manifest, model, number):
                    return Unpacked(there, package.manifest, False)
                target = model / (number or str(max((int(each.name) for each in _numbered(model)), default=0) + 1))
                _write(package, parent, target, progress)
                return Unpacked(target, package.manifest, True)
        except OSError as error:
            place = error.filename or model
            raise ModelError(f"{place}: cannot be written or read: {system_reason(error)}") from error
        finally:
            with suppress(OSError):
                model.rmdir()  # which was made for it, and nothing came into


def find_parent(package: Package, models: Path) -> tuple[Path, Manifest] | None:
    """The version that a delta was made against, wherever in the repository it is."""
    if package.recipe is None or not models.is_dir():
        return None
    origin = package.recipe.parent
    others = (path for path in sorted(models.iterdir()) if path.name != origin.name and repository.is_name(path.name))
    first = [models / origin.name] if repository.is_name(origin.name) else []
    for model in (*first, *others):
        for directory in _numbered(model):
            with suppress(ModelError, OSError):  # a version that is wrong is nobody's parent
                found = manifest.read(directory)
                if found is not None and found.digest() == origin.digest:
                    return directory, found
    return None


def _numbered(model: Path) -> Iterable[Path]:
    try:
        return sorted(path for path in model.iterdir() if _NUMBER.fullmatch(path.name))
    except OSError:
        return []


def _already_there(content: Manifest, model: Path, number: str | None) -> Path | None:
    """Where this very version is; ModelError if another has its number."""
    for directory in _numbered(model) if number is None else [model / number]:
        with suppress(ModelError, OSError):
            if manifest.read(directory) == content:
                return directory
    if number is not None and os.path.lexists(model / number):
        raise ModelError(f"{model / number}: it exists and is another version; unpack it as another number")
    return None


@contextmanager
def _locked(model: Path) -> Iterator[None]:
    """One at a time, so that whatever another left half done can be told and removed."""
    handle = os.open(model, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for left in model.glob(f"{_STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _write(package: Package, parent: tuple[Path, Manifest] | None, target: Path, progress: Progress) -> None:
    rebuild = package.rebuild(parent)
    free = shutil.disk_usage(target.parent).free
    if package.size > free:
        raise ModelError(f"{target}: it takes {package.size} bytes, and {free} are free on the disk")
    staging = target.parent / f"{_STAGING}{target.name}"
    staging.mkdir()
    done = 0
    try:
        for entry in package.manifest.files:
            place = staging / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                for chunk in package.file(entry, rebuild):
                    file.write(chunk)
                    done += len(chunk)
                    progress("unpack", done, package.size)
                file.flush()
                os.fsync(file.fileno())
        for name, text in ((MANIFEST, package.manifest_text), (CARD, package.card())):
            if text is not None:
                (staging / name).write_bytes(text)
                _sync(staging / name)
        for folder, _, _ in os.walk(staging):
            _sync(Path(folder))
        staging.rename(target)
        _sync(target.parent)
        _sync(target.parent.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
