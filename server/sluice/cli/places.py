"""Where in a repository the version lies that a command line names."""

from pathlib import Path

from sluice.cli.console import CommandError


def version_directory(target: str, repository: Path) -> Path:
    """The directory of NAME's latest version, of NAME/N, or the one that is at a path."""
    for place in (repository / target, Path(target)):
        if place.is_dir():
            return _latest(place) or place
    raise CommandError(
        f"{target}: there is neither such a model in {repository} nor such a directory",
        "name a model, a model's version as minilm/2, or the directory of one",
    )


def _latest(place: Path) -> Path | None:
    """The latest version if `place` is a model's directory, and not a version's."""
    numbers = [path.name for path in place.iterdir() if path.is_dir() and path.name.isascii() and path.name.isdigit()]
    versions = [number for number in numbers if not number.startswith("0") or number == "0"]
    return place / max(versions, key=int) if versions else None
