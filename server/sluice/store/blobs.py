"""The cache of downloads: files under their sha256, the least recently used of which go when they take too much.

    <cache>/blobs/<sha256>         a file, read-only; its time of change is when it was used last
    <cache>/addresses/<key>.json   what an address gave, and which blob that is
    <cache>/partial/<key>/         a download that was begun

A blob in use, and a download under way, is locked, and never removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sluice.errors import ConfigError, ModelError, system_reason

PLACE = "SLUICE_CACHE"
LIMIT = "SLUICE_CACHE_LIMIT"
_USUAL_LIMIT = "20GB"
_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:bytes|([kKMGT]i?B))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Address(msgspec.Struct, frozen=True):
    """What an address gave when it was asked last."""

    source: str  # without what may be secret
    validator: str
    sha256: str


@dataclass(frozen=True)
class Blob:
    sha256: str
    size: int
    used: float  # seconds since 1970
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partial:
    key: str
    size: int  # on the disk
    used: float


def size_of(text: str) -> int:
    """A size as people write it: 500MB, 20GB, 1.5GiB; ConfigError if it is none."""
    found = _SIZE.fullmatch(text.strip())
    if not found or (found[2] or "") not in _UNITS:
        raise ConfigError(f"{text!r} is not a size; write it as 500MB or 20GB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit  # bytes

    @classmethod
    def usual(cls) -> Cache:
        """Where the environment says, or else in the user's directory for such things."""
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        place = os.environ.get(PLACE) or os.path.join(home, "sluice")
        try:
            limit = size_of(os.environ.get(LIMIT) or _USUAL_LIMIT)
        except ConfigError as error:
            raise ConfigError(f"{LIMIT}: {error.message}") from error
        return cls(Path(place), limit)

    @contextmanager
    def partial(self, key: str) -> Iterator[Path]:
        """The directory of a download, which nobody else uses or removes meanwhile."""
        path = self.directory / "partial" / key
        while True:
            handle = _locked_directory(path, self.directory)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    break
            os.close(handle)  # it was removed before we had the lock
        try:
            yield path
        finally:
            os.close(handle)

    @contextmanager
    def adopt(self, path: Path, sha256: str) -> Iterator[Path]:
        """Make the file, which lies in a partial, a blob, and use it."""
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            path.chmod(0o444)
            target = self._blob(sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            os.utime(target)
            self.prune(self.limit)
            yield target

    @contextmanager
    def using(self, sha256: str) -> Iterator[Path | None]:
        """A blob for as long as it is used; None if it is not there, or is not what it was, and is removed then."""
        path = self._blob(sha256)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            yield None
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                path.unlink(missing_ok=True)
                yield None
                return
            with suppress(OSError):
                os.utime(path)
            yield path if path.exists() else None

    def address(self, key: str) -> Address | None:
        try:
            return msgspec.json.decode(self._address(key).read_bytes(), type=Address)
        except (OSError, msgspec.MsgspecError):
            return None

    def note(self, key: str, address: Address) -> None:
        path = self._address(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(address))
        temporary.replace(path)

    def blobs(self) -> list[Blob]:
        """Those used last first."""
        sources: dict[str, list[str]] = {}
        for path in _entries(self.directory / "addresses"):
            if (found := self.address(path.stem)) is not None and found.source not in sources.get(found.sha256, []):
                sources.setdefault(found.sha256, []).append(found.source)
        found_blobs = []
        for path in _entries(self.directory / "blobs"):
            with suppress(OSError):
                if _SHA256.fullmatch(path.name):
                    stat = path.stat()
                    told = tuple(sorted(sources.get(path.name, [])))
                    found_blobs.append(Blob(path.name, stat.st_size, stat.st_mtime, told))
        return sorted(found_blobs, key=lambda blob: (-blob.used, blob.sha256))

    def partials(self) -> list[Partial]:
        found = []
        for path in _entries(self.directory / "partial"):
            with suppress(OSError):
                stats = [each.stat() for each in path.iterdir()]
                taken = sum(stat.st_blocks * 512 for stat in stats)
                found.append(Partial(path.name, taken, max((s.st_mtime for s in stats), default=path.stat().st_mtime)))
        return sorted(found, key=lambda partial: (-partial.used, partial.key))

    def size(self) -> int:
        return sum(blob.size for blob in self.blobs()) + sum(partial.size for partial in self.partials())

    def prune(self, limit: int) -> int:
        """Remove what was used longest ago until no more than `limit` bytes are left; how many were freed."""
        entries: list[Blob | Partial] = [*self.blobs(), *self.partials()]
        excess = sum(entry.size for entry in entries) - limit
        freed = 0
        for entry in sorted(entries, key=lambda entry: entry.used):
            if freed >= excess and limit > 0:
                break
            freed += entry.size if self._remove(entry) else 0
        self._forget()
        return freed

    def verify(self) -> list[str]:
        """Read every blob; those that are not what they were are removed, and returned."""
        wrong = []
        for blob in self.blobs():
            with self.using(blob.sha256) as path:
                if path is None:
                    wrong.append(blob.sha256)
        self._forget()
        return wrong

    def _remove(self, entry: Blob | Partial) -> bool:
        """Unless somebody uses it."""
        path = self._blob(entry.sha256) if isinstance(entry, Blob) else self.directory / "partial" / entry.key
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if isinstance(entry, Blob):
                path.unlink()
            else:
                shutil.rmtree(path)
            return True
        except OSError:
            return False
        finally:
            os.close(handle)

    def _forget(self) -> None:
        """Addresses whose blob is gone."""
        for path in _entries(self.directory / "addresses"):
            found = self.address(path.stem)
            if found is None or not self._blob(found.sha256).exists():
                path.unlink(missing_ok=True)

    def _blob(self, sha256: str) -> Path:
        return self.directory / "blobs" / sha256

    def _address(self, key: str) -> Path:
        return self.directory / "addresses" / f"{key}.json"


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _locked_directory(path: Path, root: Path) -> int:
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except FileNotFoundError:
        return _locked_directory(path, root)  # it was removed in between
    except OSError as error:
        raise ModelError(f"{error.filename or path}: the cache cannot be used: {system_reason(error)}") from error
    return handle
