"""What the readers of a model's files share: errors that say where, and paths that stay where they belong."""

import difflib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sluice.errors import ModelError
from sluice.store.settings import BACKENDS

MAX_TEXT_BYTES = 16 << 20  # nobody writes more by hand; a device or a weights file in its place is an error


def complaint(file: str, line: int | None, field: str, why: str) -> ModelError:
    """An error that names file, line where known, and field."""
    place = f"{file}, line {line}" if line else file
    return ModelError(printable(f"{place}: {field}: {why}" if field else f"{place}: {why}"))


def printable(text: str) -> str:
    """What somebody else wrote, fit for a line of the log."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to append to a message about an unknown word; the known ones in full when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def read_text(path: Path, file: str) -> str:
    """A configuration file's text."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise complaint(file, None, "", f"is larger than {MAX_TEXT_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise complaint(file, line, "", "is not UTF-8 text") from error
    except OSError as error:
        raise complaint(file, None, "", f"cannot be read: {error.strerror}") from error


def relative(text: str) -> str:
    """`text` if it names a file below the directory it is relative to; ValueError otherwise."""
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError(f"must be a file name inside the model's directory, not {text!r}")
    return text


def read_labels(directory: Path, filename: str) -> tuple[str, ...]:
    """One label per line of a file that really lies in the model's directory; ValueError says why not."""
    path = directory / relative(filename)
    try:
        if not path.resolve(strict=True).is_relative_to(directory.resolve()):
            raise ValueError(f"{filename!r} leads out of the model's directory")
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise ValueError(f"{filename!r} is larger than {MAX_TEXT_BYTES} bytes")
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{filename!r} is not UTF-8 text") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise ValueError(f"{filename!r} cannot be read from the model's directory") from error


def backend(name: str) -> str:
    """`name` if this server has such a backend; ValueError otherwise."""
    if name not in BACKENDS:
        raise ValueError(f"backend '{name}' is not available here; there are {' and '.join(BACKENDS)}")
    return name
