"""System shared memory that clients registered: named windows onto /dev/shm, read without copying.

A region belongs to the client that created it; the server only maps it. Every access first asks the kernel whether the
object is still as long as it was, because touching pages behind a shrunken end would kill the process.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluice.errors import InvalidRequest, UnknownThing, Unsupported

if TYPE_CHECKING:
    from sluice.request import Buffer

DIRECTORY = "/dev/shm"  # noqa: S108  where POSIX shared memory lives on Linux


@dataclass(frozen=True)
class Region:
    """What a client registered."""

    name: str
    key: str
    offset: int
    byte_size: int


class _Mapping:
    """An open region; its memory stays mapped until the last view of it dies, whoever unregistered it meanwhile."""

    __slots__ = ("_descriptor", "_end", "region", "view")

    def __init__(self, region: Region, descriptor: int) -> None:
        start = region.offset - region.offset % mmap.ALLOCATIONGRANULARITY
        self.region = region
        self._end = region.offset + region.byte_size
        mapped = mmap.mmap(descriptor, self._end - start, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, 0, start)
        self.view = memoryview(mapped)[region.offset - start :]
        self._descriptor = descriptor

    def whole(self) -> bool:
        return os.fstat(self._descriptor).st_size >= self._end

    def close(self) -> None:
        os.close(self._descriptor)


class Regions:
    """All registered regions by name; the only owner of their mappings."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._mappings: dict[str, _Mapping] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Map `byte_size` bytes at `offset` of the POSIX shared memory object `key`."""
        if not self._enabled:
            raise Unsupported("shared memory is switched off on this server (server.shared_memory)")
        if not name:
            raise InvalidRequest("name: a region needs a name")
        if name in self._mappings:
            raise InvalidRequest(f"name: shared memory region '{name}' is already registered")
        if offset < 0:
            raise InvalidRequest(f"offset: must not be negative, got {offset}")
        if byte_size <= 0:
            raise InvalidRequest(f"byte_size: must be positive, got {byte_size}")
        self._mappings[name] = _open(Region(name, key, offset, byte_size))

    def unregister(self, name: str) -> None:
        """Forget one region, or all with an empty name; an unknown name is no error, clients clean up blindly."""
        for known in [name] if name else list(self._mappings):
            mapping = self._mappings.pop(known, None)
            if mapping is not None:
                mapping.close()

    def status(self, name: str = "") -> list[Region]:
        """One region, or all of them."""
        if not name:
            return [mapping.region for mapping in self._mappings.values()]
        if name not in self._mappings:
            raise UnknownThing(f"shared memory region '{name}' is not registered")
        return [self._mappings[name].region]

    def read(self, name: str, offset: int, byte_size: int) -> memoryview:
        """A read-only view of part of a region; the client must not change it before it has the answer."""
        return self._window(name, offset, byte_size).toreadonly()

    def write(self, name: str, offset: int, byte_size: int, data: Buffer) -> None:
        """Put `data` at `offset`, where the client made room for `byte_size` bytes."""
        source = memoryview(data).cast("B")
        if len(source) > byte_size:
            raise InvalidRequest(
                f"shared memory region '{name}': {len(source)} bytes of output do not fit into the {byte_size} given"
            )
        self._window(name, offset, byte_size)[: len(source)] = source

    def close(self) -> None:
        self.unregister("")

    def _window(self, name: str, offset: int, byte_size: int) -> memoryview:
        mapping = self._mappings.get(name)
        if mapping is None:
            raise InvalidRequest(f"shared memory region '{name}' is not registered")
        if offset < 0 or byte_size < 0 or offset + byte_size > mapping.region.byte_size:
            raise InvalidRequest(
                f"shared memory region '{name}' has {mapping.region.byte_size} bytes, "
                f"{byte_size} at offset {offset} are not all inside"
            )
        if not mapping.whole():
            raise InvalidRequest(f"shared memory region '{name}' was made smaller since it was registered")
        return mapping.view[offset : offset + byte_size]


def _open(region: Region) -> _Mapping:
    file = region.key.removeprefix("/")
    if not file or "/" in file or "\0" in file or file in {".", ".."}:
        raise InvalidRequest(f"key: '{region.key}' is no name of a shared memory object")
    try:
        descriptor = os.open(f"{DIRECTORY}/{file}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise InvalidRequest(f"key: cannot open shared memory '{region.key}': {reason}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidRequest(f"key: '{region.key}' is no shared memory object")
        if region.offset + region.byte_size > found.st_size:
            raise InvalidRequest(
                f"byte_size: shared memory '{region.key}' has {found.st_size} bytes, "
                f"{region.byte_size} at offset {region.offset} are not all inside"
            )
        return _Mapping(region, descriptor)
    except (OSError, OverflowError, ValueError) as error:
        os.close(descriptor)
        raise InvalidRequest(f"key: cannot map shared memory '{region.key}': {error}") from error
    except InvalidRequest:
        os.close(descriptor)
        raise
