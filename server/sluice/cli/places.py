"""Where in a repository the version lies that a command line names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sluice.cli.console import CommandError

if TYPE_CHECKING:
    from sluice.store.repository import VersionFiles


def version_directory(target: str, repository: Path) -> Path:
    """The directory of NAME's latest version, of NAME/N, or the one that is at a path."""
    for place in (repository / target, Path(target)):
        if place.is_dir():
            return _latest(place) or place
    raise CommandError(
        f"{target}: there is neither such a model in {repository} nor such a directory",
        "name a model, a model's version as minilm/2, or the directory of one",
    )


def version_files(target: str, repository: Path, beside: VersionFiles | None = None) -> VersionFiles:
    """The version of NAME (its latest), NAME/N, NAME/ALIAS or of a directory, with what its operator says of it;
    where another version is known already, N or ALIAS of the same model as well."""
    from sluice.store.aliases import is_number
    from sluice.store.repository import find

    if beside is not None and "/" not in target and not (repository / target).is_dir():
        target, repository = f"{beside.model}/{target}", beside.directory.parents[1]
    directory = version_directory(_numbered(target, repository), repository).absolute()
    if not is_number(directory.name):
        raise CommandError(f"{target}: is no version's directory, which is called NAME/1, NAME/2, …")
    found = find(directory.parents[1], directory.parent.name, also=directory.name)
    files = next((each for each in found.versions if each.version == directory.name), None)
    if files is None:
        reasons = [reason for version, reason in found.problems if version in ("", directory.name)]
        raise CommandError(reasons[0] if reasons else f"{directory}: is not among the model's versions")
    return files


def _numbered(target: str, repository: Path) -> str:
    """With the number that an alias stands for."""
    from sluice.store import aliases

    name, _, version = target.rpartition("/")
    model = repository / name
    if not name or not model.is_dir() or (repository / target).exists() or Path(target).exists():
        return target
    return f"{name}/{aliases.resolve(name, aliases.read(model), version)}"


def _latest(place: Path) -> Path | None:
    """The latest version if `place` is a model's directory, and not a version's."""
    numbers = [path.name for path in place.iterdir() if path.is_dir() and path.name.isascii() and path.name.isdigit()]
    versions = [number for number in numbers if not number.startswith("0") or number == "0"]
    return place / max(versions, key=int) if versions else None
