"""How near memory is to its bound: what is used is read from the system, and levels that do not flutter follow from it.

Whatever bounds this process counts, the tightest decides: each memory cgroup it is in, up to the root (a limit may be
set on any of them), and either the operator's budget for the server and its workers or, without one, the machine.

What the kernel gives back by itself before it kills anything, which is all that is cached from files, is not counted
as used. Kubernetes counts a part of it, but a server must not refuse work because its models' files are in the cache.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path, PurePosixPath

# More than any machine has: how version 1 of cgroups says that there is no limit.
_NO_LIMIT = 1 << 60
_LARGEST_FILE = 64 << 10


class Level(IntEnum):
    OK = 0
    WARN = 1  # say so
    SHRINK = 2  # smaller batches, empty caches
    REFUSE = 3  # nothing new


# The share at which a level begins, and below which it ends. While all is refused there is little left that could
# be given back: a server that comes to rest a few points below where refusing begins must serve again.
BEGINS: Mapping[Level, float] = {Level.WARN: 0.80, Level.SHRINK: 0.88, Level.REFUSE: 0.95}
ENDS: Mapping[Level, float] = {Level.WARN: 0.76, Level.SHRINK: 0.84, Level.REFUSE: 0.94}


class Gauge:
    """A level that rises at once, and falls only when the share is well below where the level began."""

    def __init__(self) -> None:
        self.level = Level.OK

    def judge(self, share: float) -> Level:
        reached = max((level for level, begins in BEGINS.items() if share >= begins), default=Level.OK)
        while self.level > reached and share < ENDS[self.level]:
            self.level = Level(self.level - 1)
        self.level = max(self.level, reached)
        return self.level


@dataclass(frozen=True, slots=True)
class Bound:
    """Something that limits how much memory may be used."""

    name: str  # "budget", "container", "machine"
    used: int
    limit: int

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment."""

    server: int  # bytes that only the server process holds
    workers: int  # that only worker processes hold
    shared: int  # slots, and clients' regions: counted once
    bound: Bound  # the tightest


class Memory:
    """Reads what is used and what limits it.

    Files are kept open: those of `/proc` and of cgroups tell the present whenever they are read, and can be read when
    no descriptor is left to open one.
    """

    def __init__(self, budget: int, root: Path = Path("/"), pid: int = 0) -> None:
        self._budget = budget
        self._proc = root / "proc"
        self._pid = pid or os.getpid()
        self._files: dict[Path, int] = {}
        self._groups = list(_groups(root, self._proc / str(self._pid)))

    def read(self) -> Reading:
        """Takes some file reads, a fraction of a millisecond in all; not for the event loop's thread."""
        server, shared = self._process(self._pid)
        workers = sum(self._process(pid)[0] for pid in self._children())
        bounds = list(self._limits())
        if self._budget:
            bounds.append(Bound("budget", server + workers + shared, self._budget))
        else:
            bounds.append(self._machine())
        return Reading(server, workers, shared, max(bounds, key=lambda bound: bound.share))

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _process(self, pid: int) -> tuple[int, int]:
        """Its own bytes and those of shared memory that it has touched; nothing of one that has ended."""
        text = self._text(self._proc / str(pid) / "status")
        values = dict(line.split(":", 1) for line in text.splitlines() if line.startswith(("RssAnon:", "RssShmem:")))
        return _kibibytes(values.get("RssAnon", "")), _kibibytes(values.get("RssShmem", ""))

    def _children(self) -> list[int]:
        """The processes that the main thread has started: the workers."""
        pids = [int(word) for word in self._text(self._proc / f"{self._pid}/task/{self._pid}/children").split()]
        known = {self._proc / str(pid) / "status" for pid in (self._pid, *pids)}
        for gone in [path for path in self._files if path.name == "status" and path not in known]:
            self._forget(gone)
        return pids

    def _limits(self) -> Iterator[Bound]:
        for group in self._groups:
            limits = [_bytes(self._text(group.directory / name)) for name in group.limits]
            limit = min((limit for limit in limits if limit), default=0)
            if limit:
                used = _bytes(self._text(group.directory / group.usage))
                statistics = dict(
                    line.split(" ", 1) for line in self._text(group.directory / "memory.stat").splitlines()
                )
                cached = sum(int(statistics.get(name, 0)) for name in group.cached)
                yield Bound("container", max(0, used - cached), limit)

    def _machine(self) -> Bound:
        values = dict(line.split(":", 1) for line in self._text(self._proc / "meminfo").splitlines())
        total, available = _kibibytes(values.get("MemTotal", "")), _kibibytes(values.get("MemAvailable", ""))
        return Bound("machine", total - available, total)

    def _text(self, path: Path) -> str:
        """A file that is not there, or no longer tells anything, is empty."""
        try:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._files[path], _LARGEST_FILE, 0).decode()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # what is not known is not nothing
            self._forget(path)
            return ""

    def _forget(self, path: Path) -> None:
        descriptor = self._files.pop(path, -1)
        if descriptor >= 0:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Group:
    """A memory cgroup, and how its version names things."""

    directory: Path
    limits: tuple[str, ...]
    usage: str
    cached: tuple[str, ...]


def _groups(root: Path, process: Path) -> Iterator[_Group]:
    """The groups that a process is in, itself and upwards.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and …/cgroup-v1/memory.html. Beyond `memory.high` processes are
    slowed down until nothing moves, so it counts as a limit as well.
    """
    memberships = dict(_memberships(process / "cgroup"))
    for mount in _mounts(process / "mountinfo"):
        if mount.version not in memberships:
            continue
        for directory in _upwards(root, mount, memberships[mount.version]):
            if mount.version == 2:
                cached: tuple[str, ...] = ("inactive_file", "active_file", "slab_reclaimable")
                yield _Group(directory, ("memory.max", "memory.high"), "memory.current", cached)
            else:
                cached = ("total_inactive_file", "total_active_file")
                yield _Group(directory, ("memory.limit_in_bytes",), "memory.usage_in_bytes", cached)


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    top: str  # the group that is seen at the mount's root
    place: str


def _memberships(path: Path) -> Iterator[tuple[int, str]]:
    for line in _lines(path):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield 2, group
        elif "memory" in controllers.split(","):
            yield 1, group


def _mounts(path: Path) -> Iterator[_Mount]:
    for line in _lines(path):
        before, _, after = line.partition(" - ")
        top, place = before.split(" ")[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            yield _Mount(2, top, place)
        elif kind == "cgroup" and "memory" in options.split(","):
            yield _Mount(1, top, place)


def _upwards(root: Path, mount: _Mount, group: str) -> Iterator[Path]:
    """From a group's directory to the mount's root. A group outside of what is mounted is seen as the root itself."""
    place = root / mount.place.lstrip("/")
    inside = PurePosixPath("/")
    with contextlib.suppress(ValueError):
        inside = "/" / PurePosixPath(group).relative_to(mount.top)
    if ".." in inside.parts:
        inside = PurePosixPath("/")
    for each in (inside, *inside.parents):
        yield place / str(each).lstrip("/")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _kibibytes(text: str) -> int:
    """As in `RssAnon:   1234 kB`."""
    words = text.split()
    return int(words[0]) << 10 if words else 0


def _bytes(text: str) -> int:
    """A number of bytes; 0 for none, and where there is no limit."""
    text = text.strip()
    value = int(text) if text.isdecimal() else 0
    return value if value < _NO_LIMIT else 0
