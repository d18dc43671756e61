"""What the server itself lives on, watched while it serves: memory, file descriptors, disks and the event loop's turns.

Looked at twice a second, beside requests and never because of one. What is seen are parts of the server's health and
metrics; when memory runs short, this is where relief is asked for: first smaller batches and empty caches, then that
nothing new be let in, before the kernel picks a process to kill.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import logging
import os
import resource
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sluice.errors import system_reason
from sluice.health import Condition, Part
from sluice.pressure import BEGINS, Gauge, Level, Memory, Reading
from sluice.telemetry import logs
from sluice.telemetry.complaints import Complaint

log = logging.getLogger("sluice.vitals")

PERIOD = 0.5
# While memory stays short, caches that have filled again are emptied again.
_TRIM_EVERY = 5.0
# The share of their usual size that batches keep while memory is short.
SHRUNK = 0.25
_LITTLE_SPACE = 32 << 20
_DISK_PERIOD = 5.0
_DISK_PATIENCE = 5.0
_LONG_TURN = 0.5
_TURNS_KEPT = 20
# Of those that may be open; from there on it is said.
_MANY_OPEN = 0.9
# So many are used at once by starting a worker or loading a model.
_FEW_LEFT = 8
# Somebody who allows more than this means "any number"; some libraries go through all that are allowed.
_ENOUGH_FILES = 1 << 20

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


@dataclass(frozen=True, slots=True)
class Relief:
    """What can be done about memory that runs short."""

    squeeze: Callable[[float], None]  # keep batches below this share of their usual size; 1 = as usual
    trim: Callable[[], None]  # have the workers give back what they do not need now
    refuse: Callable[[str], None]  # let nothing new in, for this reason; empty = let it in again


class Vitals(Collector):
    """Watches from `start` to `close`; what it saw last is its `parts`."""

    def __init__(self, memory: Memory, relief: Relief, disks: Iterable[Disk] = (), *, period: float = PERIOD) -> None:
        self.notify: Callable[[], None] = lambda: None  # called after each look
        self._memory = memory
        self._relief = relief
        self._period = period
        self._disks = list(disks)
        self._gauge = Gauge()
        self._reading: Reading | None = None
        self._refusing = False
        self._share = 1.0
        self._trimmed = -_TRIM_EVERY
        self._delays: deque[float] = deque([0.0], maxlen=_TURNS_KEPT)
        self._files = Files()
        self._reader = ThreadPoolExecutor(1, "sluice-memory")
        self._watching: asyncio.Task[None] | None = None
        self._broken = Complaint(log)

    def start(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._watching = None
        # Its last look may still be at work.
        await asyncio.to_thread(self._reader.shutdown)
        self._memory.close()

    async def room(self) -> int:
        """Bytes that may still be taken before batches have to shrink; negative if it is time already."""
        reading = await asyncio.get_running_loop().run_in_executor(self._reader, self._memory.read)
        return int(BEGINS[Level.SHRINK] * reading.bound.limit) - reading.bound.used

    async def _watch(self) -> None:
        """Until cancelled. Whatever goes wrong with looking must not end the watch."""
        loop = asyncio.get_running_loop()
        while True:
            now = time.monotonic()
            try:
                await loop.run_in_executor(self._reader, self._files.look)  # some kernels have to list them all
                for disk in self._disks:
                    disk.look(now)
                await self._look_at_memory(now)
            except Exception as error:
                self._broken.raised(f"the server cannot watch what it lives on: {error!r}")
            else:
                self._broken.over("the server can watch again what it lives on")
            self.notify()
            due = loop.time() + self._period
            await asyncio.sleep(self._period)
            self._delays.append(max(0.0, loop.time() - due))

    async def _look_at_memory(self, now: float) -> None:
        try:
            self._reading = await asyncio.get_running_loop().run_in_executor(self._reader, self._memory.read)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return  # no descriptor for another worker's file: what was read last must do; `Files` says what is wrong
        before, level = self._gauge.level, self._gauge.judge(self._reading.bound.share)
        if level > before:
            log.warning("memory is running short: %s; %s", self._memory_text(), _DONE[level])
            if level >= Level.SHRINK:
                gc.collect()  # once: it stops everything, and finds little when it is called again and again
        elif level < before:
            log.info("memory is less short: %s; %s", self._memory_text(), _DONE[level])
        self._relieve(level)
        if level >= Level.SHRINK and now - self._trimmed >= _TRIM_EVERY:
            self._trimmed = now
            self._relief.trim()
            await asyncio.get_running_loop().run_in_executor(self._reader, _trim_own)

    def _relieve(self, level: Level) -> None:
        """Ask for what the level needs and has not got yet."""
        refusing = level is Level.REFUSE
        if refusing is not self._refusing:
            self._relief.refuse(f"the server's memory is nearly used up ({self._memory_text()})" if refusing else "")
            self._refusing = refusing
        share = SHRUNK if level >= Level.SHRINK else 1.0
        if share != self._share:
            self._relief.squeeze(share)
            self._share = share

    def _memory_text(self) -> str:
        if self._reading is None:
            return "not looked at yet"
        bound = self._reading.bound
        return f"{bound.share:.0%} of the {bound.name}'s {_size(bound.limit)}"

    # What is seen.

    def parts(self) -> list[Part]:
        now = time.monotonic()
        return [
            Part("memory", "server and workers", _CONDITIONS[self._gauge.level], self._memory_text()),
            self._files.part(),
            *(disk.part(now) for disk in self._disks),
            self._loop_part(),
            *_log_parts(),
        ]

    def _loop_part(self) -> Part:
        longest = max(self._delays)
        condition = Condition.DEGRADED if longest > _LONG_TURN else Condition.OK
        window = self._period * _TURNS_KEPT
        return Part("loop", "event loop", condition, f"longest delay in {window:g} s: {longest * 1000:.0f} ms")

    def collect(self) -> Iterator[Metric]:
        reading = self._reading
        memory = GaugeMetricFamily(
            "sluice_memory_bytes",
            "Bytes held: by the server, by its workers, and shared by them (counted once).",
            labels=("part",),
        )
        if reading is not None:
            for name in ("server", "workers", "shared"):
                memory.add_metric((name,), getattr(reading, name))
        yield memory
        bound = GaugeMetricFamily(
            "sluice_memory_budget_bytes", "The tightest bound of the memory, and whose it is.", labels=("bound",)
        )
        used = GaugeMetricFamily(
            "sluice_memory_used_bytes", "Bytes used of that bound, by whomever it counts.", labels=("bound",)
        )
        if reading is not None:
            bound.add_metric((reading.bound.name,), reading.bound.limit)
            used.add_metric((reading.bound.name,), reading.bound.used)
        yield bound
        yield used
        yield GaugeMetricFamily(
            "sluice_memory_level", "0 fine, 1 short, 2 batches are shrunk, 3 nothing new is let in.", self._gauge.level
        )
        yield GaugeMetricFamily(
            "sluice_event_loop_delay_seconds",
            "Longest delay of the event loop in the last ten seconds.",
            max(self._delays),
        )


_CONDITIONS = {
    Level.OK: Condition.OK,
    Level.WARN: Condition.DEGRADED,
    Level.SHRINK: Condition.DEGRADED,
    Level.REFUSE: Condition.FAILED,
}
_DONE = {
    Level.OK: "all is as usual",
    Level.WARN: "nothing is done about it yet",
    Level.SHRINK: "batches are kept small and caches are emptied",
    Level.REFUSE: "new requests are refused",
}


def _trim_own() -> None:
    """Freed memory that the allocator keeps goes back; other C libraries than GNU's have no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _log_parts() -> list[Part]:
    lost = logs.lost()
    return [Part("log", "standard error", Condition.DEGRADED, lost)] if lost else []


class Files:
    """The server's file descriptors.

    What happens when none is left: connections are closed as soon as they come, on the gRPC port they wait, and
    everything that has one works on.
    """

    def __init__(self) -> None:
        self._complaint = Complaint(log)
        self._open = 0
        self._allowed = 0

    def look(self) -> None:
        self._open = open_files()
        self._allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if self._open + _FEW_LEFT > self._allowed:
            text = f"file descriptors are used up ({self}): no connection can be accepted and no worker be started"
            self._complaint.raised(text, sort="none")
        elif self._open > _MANY_OPEN * self._allowed:
            self._complaint.raised(f"file descriptors are nearly used up ({self})", sort="few")
        elif self._open <= (_MANY_OPEN - 0.1) * self._allowed:
            self._complaint.over(f"there are file descriptors again ({self})")

    def __str__(self) -> str:
        return f"{self._open} of {self._allowed} are open"

    def part(self) -> Part:
        condition = Condition.DEGRADED if self._complaint.text else Condition.OK
        return Part("files", "descriptors", condition, self._complaint.text or str(self))


def open_files() -> int:
    """How many descriptors this process has open. Needs none itself where the kernel tells (Linux 6.2 and later)."""
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError as error:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if error.errno == errno.EMFILE else 0


def allow_more_files(wanted: int) -> None:
    """Let this process, and the workers it will start, open as many files as it may; say so if that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("only %d files may be open; server.max_connections asks for %d", allowed, wanted)


class Disk:
    """A file system with room or without. It is asked by a thread of its own, since one that hangs answers nobody."""

    def __init__(
        self,
        name: str,
        directory: Path,
        trouble: Callable[[], str] = str,
        *,
        ask: Callable[[Path], os.statvfs_result] = os.statvfs,
    ) -> None:
        self._name = name
        self._directory = directory
        self._trouble = trouble  # what is known of writing to it; empty = nothing bad
        self._complaint = Complaint(log)
        self._ask_system = ask
        self._asked = self._answered = -_DISK_PERIOD
        self._seen = (Condition.OK, "not looked at yet")

    def look(self, now: float) -> None:
        """Ask again, unless it owes an answer or gave one lately."""
        waiting = self._asked > self._answered
        if waiting and now - self._asked > _DISK_PATIENCE:
            self._complaint.raised(f"the disk of {self._directory} does not answer", sort="silent")
        if not waiting and now - self._asked >= _DISK_PERIOD:
            thread = threading.Thread(target=self._ask, args=(now,), name="sluice-disk", daemon=True)
            self._asked = now
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left; it will be asked the next time
                self._asked = self._answered

    def _ask(self, asked: float) -> None:
        try:
            told = self._ask_system(self._directory)
        except OSError as error:
            condition, text = Condition.DEGRADED, f"{self._directory}: {system_reason(error)}"
        else:
            free = told.f_bavail * told.f_frsize
            no_more = told.f_files > 0 and not told.f_favail
            condition = Condition.DEGRADED if free < _LITTLE_SPACE or no_more else Condition.OK
            text = f"{self._directory}: {_size(free)} free{', no room for another file' if no_more else ''}"
        self._seen = condition, text
        if condition is Condition.OK:
            self._complaint.over(f"the disk has room again ({text})")
        else:
            self._complaint.raised(f"the disk is short ({text})", sort="short")
        self._answered = asked

    def part(self, now: float) -> Part:
        if self._asked > self._answered and now - self._asked > _DISK_PATIENCE:
            text = f"{self._directory} has not answered for {now - self._asked:.0f} s"
            return Part("disk", self._name, Condition.DEGRADED, text)
        if trouble := self._trouble():
            return Part("disk", self._name, Condition.DEGRADED, trouble)
        return Part("disk", self._name, *self._seen)


def temporary_directory() -> Path:
    """Where files that come with load requests go; none, and the system's own reason shows, where nothing can be
    written."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return Path("/tmp")  # noqa: S108 - to show its state, nothing is written there


def _size(size: int) -> str:
    for unit, one in _UNITS:
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"
