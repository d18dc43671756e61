"""Makes a version of a package: it appears in the repository whole and verified, or not at all, and replaces nothing.

It is hashed while it is written beside its place; see `placing`.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from sluice.errors import ModelError
from sluice.store import manifest, placing, repository
from sluice.store.contents import CARD, MANIFEST, SIGNATURE
from sluice.store.joining import joined
from sluice.store.manifest import Manifest
from sluice.store.package import Package, Progress, silent
from sluice.store.placing import Placed


def unpack(
    path: Path, models: Path, number: str | None = None, progress: Progress = silent, name: str | None = None
) -> Placed:  # fmt: skip
    """Put the package's version into the repository, under this number, or else the next that is free.

    `name` is the model's in the repository, if it is not the manifest's.
    """
    with Package.open(path) as package:
        name = package.manifest.name if name is None else name
        if not repository.is_name(name):
            raise ModelError(f"{path}: a model cannot be called {name!r} in a repository")
        parent = find_parent(package, models)

        def make(staging: Path, target: Path) -> Manifest:
            _write(package, parent, staging, target, progress)
            return package.manifest

        return joined(placing.place(models, name, number, make, package.manifest), package.signature())


def find_parent(package: Package, models: Path) -> tuple[Path, Manifest] | None:
    """The version that a delta was made against, wherever in the repository it is."""
    if package.recipe is None or not models.is_dir():
        return None
    origin = package.recipe.parent
    others = (path for path in sorted(models.iterdir()) if path.name != origin.name and repository.is_name(path.name))
    first = [models / origin.name] if repository.is_name(origin.name) else []
    for model in (*first, *others):
        for directory in placing.versions(model):
            with suppress(ModelError, OSError):  # a version that is wrong is nobody's parent
                found = manifest.read(directory)
                if found is not None and found.digest() == origin.digest:
                    return directory, found
    return None


def _write(
    package: Package, parent: tuple[Path, Manifest] | None, staging: Path, target: Path, progress: Progress
) -> None:  # fmt: skip
    rebuild = package.rebuild(parent)
    free = shutil.disk_usage(staging).free
    if package.size > free:
        raise ModelError(f"{target}: it takes {package.size} bytes, and {free} are free on the disk")
    done = 0
    for entry in package.manifest.files:
        place = staging / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            for chunk in package.file(entry, rebuild):
                file.write(chunk)
                done += len(chunk)
                progress("unpack", done, package.size)
    texts = ((MANIFEST, package.manifest_text), (CARD, package.card()), (SIGNATURE, package.signature()))
    for name, text in texts:
        if text is not None:
            (staging / name).write_bytes(text)
