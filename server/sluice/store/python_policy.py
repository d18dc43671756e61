"""Whose Python code may run, and who may bring pickles: only files below a directory that the operator has named."""

from collections.abc import Sequence
from pathlib import Path

from sluice.errors import ModelError


def check_allowed(path: Path, allowed: Sequence[Path]) -> None:
    """Refuse `path` unless it lies, after following every link, below one of the `allowed` directories."""
    if not allowed:
        raise ModelError(
            f"{path} is Python code, and none may run: name its directory in models.python_directories to allow it"
        )
    try:
        real = path.resolve(strict=True)
        directories = [directory.resolve() for directory in allowed]
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise ModelError(f"{path} cannot be followed to a file: {error}") from error
    if not any(real.is_relative_to(directory) for directory in directories):
        names = ", ".join(str(directory) for directory in directories)
        raise ModelError(
            f"{path} is Python code outside the allowed directories ({names}): move it there, "
            "or name its directory in models.python_directories"
        )


def is_below(path: Path, directories: Sequence[Path]) -> bool:
    """Whether it lies, after following every link, below one of the directories."""
    try:
        real = path.resolve(strict=True)
        return any(real.is_relative_to(directory.resolve()) for directory in directories)
    except (OSError, RuntimeError):
        return False
