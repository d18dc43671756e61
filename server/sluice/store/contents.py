"""What lies in a version's directory, and the sha256 of each file."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath, PurePosixPath

from sluice.errors import ModelError, system_reason

MANIFEST = "manifest.toml"
CARD = "README.md"
SIGNATURE = "model.sig"
# What is written beside the model and says nothing of what it computes, and the same while it is being written.
_BESIDE = re.compile(r"(\.)?(manifest\.toml|README\.md|model\.sig)(?(1)\.\d+)")
_REMEMBERED = 10_000
_THREADS = min(4, os.cpu_count() or 1)
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")

_Identity = tuple[int, int, int, int, int]


def name_of_file(text: str) -> str:
    """`text` if a manifest may name a file so, which lies below its directory; ValueError otherwise."""
    path = PurePosixPath(text)
    if _UNREADABLE.search(text):
        raise ValueError(f"{text!r}: a file's name is without control characters and backslashes, and UTF-8")
    if not path.parts or path.is_absolute() or ".." in path.parts or str(path) != text:
        raise ValueError(f"{text!r}: must name a file inside the version's directory")
    if is_beside(path):
        raise ValueError(f"{text!r}: is not one of the files that a manifest is over")
    return text


def is_beside(path: PurePath) -> bool:
    """Whether it is the manifest, the card or the signature, which a manifest is not over. `path` is below the
    version's directory."""
    return _BESIDE.fullmatch(path.as_posix()) is not None


def staged(path: Path) -> Path:
    """Where a manifest, a card or a signature is written before it is moved into its place."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def files_of(directory: Path) -> list[str]:
    """Every file below it but those beside the model, as "a/b"; ModelError for what cannot be vouched for."""
    place = f"{directory.parent.name}/{directory.name}"
    found: list[str] = []

    def fail(error: OSError) -> None:
        raise ModelError(f"{error.filename or directory}: cannot be read: {system_reason(error)}") from error

    root = directory.resolve()
    for folder, folders, names in os.walk(directory, onerror=fail):
        base = Path(folder).relative_to(directory)
        for name in (*folders, *names):
            relative = (base / name).as_posix()
            shown = f"{place}/{relative}"
            is_link, mode = _look(Path(folder, name), shown, root)
            if name in folders:
                if is_link:
                    raise ModelError(f"{shown}: is a link to a directory; put the directory itself there")
                continue
            if not stat.S_ISREG(mode):
                raise ModelError(f"{shown}: is neither a file nor a directory")
            if not is_beside(base / name):
                try:
                    found.append(name_of_file(relative))
                except ValueError as error:
                    raise ModelError(f"{place}: {error}") from error
    return sorted(found)


def _look(path: Path, shown: str, root: Path) -> tuple[bool, int]:
    """Whether it is a link, and the mode of what it is or leads to, which lies in the directory."""
    try:
        is_link = path.is_symlink()
        if is_link and not path.resolve(strict=True).is_relative_to(root):
            raise ModelError(f"{shown}: its link leads out of the version's directory; put the file itself there")
        return is_link, path.stat().st_mode
    except RuntimeError as error:  # links in a circle, before Python 3.13
        raise ModelError(f"{shown}: its links lead in a circle") from error
    except OSError as error:
        raise ModelError(f"{shown}: cannot be read: {system_reason(error)}") from error


class Hashes:
    """The sha256 and size of files, several at a time; a file that seems unchanged is read once.

    That is enough against damage and accidents, not against somebody who can write into the files: see `_identity`.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Identity, str]] = {}
        self._lock = threading.Lock()
        self.looked_up: Counter[bool] = Counter()  # whether a file's was known

    def afresh(self) -> Hashes:
        """One that knows nothing yet, for a single look at files that nobody may have changed."""
        fresh = Hashes()
        fresh.looked_up = self.looked_up
        return fresh

    def of(self, directory: Path, names: Iterable[str]) -> dict[str, tuple[str, int]]:
        """By name; ModelError if one cannot be read."""
        names = list(names)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="sluice-hash") as pool:
            return dict(zip(names, pool.map(self._file, (directory / name for name in names)), strict=True))

    def _file(self, path: Path) -> tuple[str, int]:
        key = str(path.resolve())
        try:
            with path.open("rb") as file:
                before = _identity(file.fileno())
                with self._lock:
                    known = self._known.get(key)
                    hit = known is not None and known[0] == before
                    self.looked_up[hit] += 1
                if known is not None and hit:
                    return known[1], before[0]
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                after = _identity(file.fileno())
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {system_reason(error)}") from error
        if before != after:
            raise ModelError(f"{path}: was written to while it was read")
        with self._lock:
            self._known[key] = after, digest
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
        return digest, after[0]


def _identity(descriptor: int) -> _Identity:
    """What usually changes with a file's content. It need not: what is written through a shared mapping may change none
    of it."""
    seen = os.fstat(descriptor)
    return seen.st_size, seen.st_mtime_ns, seen.st_ino, seen.st_dev, seen.st_ctime_ns
