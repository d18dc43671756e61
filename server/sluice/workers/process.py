"""One life of a worker process, from the server's side: spawn it, exchange messages, learn of its end.

A process never comes back: after `gone` was called the object is finished, and a new life is a new object.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sluice.encryption import keys
from sluice.workers import wire
from sluice.workers.devices import Device
from sluice.workers.slots import Slot

log = logging.getLogger("sluice.workers")
prints = logging.getLogger("sluice.workers.output")

_PRINT_CHUNK = 64 << 10
# Of what a process says without end, so much is taken in one turn of the event loop: the others want theirs as well.
# What follows from the end of a batch takes half a millisecond, and a small model ends some while one is looked at.
_MOST_SECONDS = 0.0005
_MOST_CHUNKS = 4
_LONGEST_PRINT = 64 << 10


class Process:
    """A spawned worker; `received` gets its messages, `gone` is called once, with how it ended."""

    def __init__(self, device: Device, received: Callable[[wire.ToServer], None], gone: Callable[[str], None]) -> None:
        self._device = device
        self._received = received
        self._gone = gone
        self._packet = bytearray(wire.MAX_PACKET)
        self._popen: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._pidfd = -1
        self._printed = -1
        self._unfinished = b""
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int:
        return self._popen.pid if self._popen is not None else 0

    def start(self, slots: list[Slot]) -> None:
        """Raises OSError when the system gives no process or no descriptors; nothing is left behind then."""
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                printed, writing = os.pipe2(os.O_CLOEXEC)
                undo.callback(os.close, printed)
                try:
                    popen = self._spawn([theirs.fileno(), *(slot.descriptor for slot in slots)], writing)
                finally:
                    os.close(writing)
            undo.callback(popen.wait)
            undo.callback(popen.kill)
            pidfd = os.pidfd_open(popen.pid)
            undo.pop_all()
        os.set_blocking(printed, False)
        ours.setblocking(False)
        self._popen, self._socket, self._printed, self._pidfd = popen, ours, printed, pidfd
        loop = asyncio.get_running_loop()
        loop.add_reader(ours.fileno(), self._read)
        loop.add_reader(self._pidfd, self._end)
        loop.add_reader(self._printed, self._read_prints)

    def _spawn(self, descriptors: list[int], writing: int) -> subprocess.Popen[bytes]:
        # -P: the directory the server was started in must not shadow any module. Spawned from the main thread, because
        # the worker asks the kernel to be killed with the thread that spawned it.
        command = [sys.executable, "-P", "-m", "sluice.workers.child", str(os.getpid()), *map(str, descriptors)]
        return subprocess.Popen(
            command,
            env={**_environment(), **self._device.environment()},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            pass_fds=descriptors,
        )

    def send(self, message: wire.ToWorker) -> None:
        """Hand over a message. A worker that does not read is as good as dead, and one that died is noticed soon."""
        if self._socket is None:
            return
        try:
            self._socket.send(wire.encode(message))
        except BlockingIOError:
            log.error("worker %s does not read its messages; killing it", self._device.name)
            self.kill()
        except OSError:
            pass  # the process is ending: `_end` is about to be called

    def _read(self, seconds: float = _MOST_SECONDS) -> None:
        view, until = memoryview(self._packet), time.monotonic() + seconds
        while self._socket is not None:
            try:
                size = self._socket.recv_into(self._packet)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            if not size:
                # Nobody holds the other end any more. The process itself may take a moment longer to go.
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
                return
            self._received(wire.decode_for_server(view[:size]))
            if time.monotonic() > until:
                return

    def _read_prints(self) -> None:
        """What a model's code or a library prints becomes lines of our log, so that they stay whole and in form."""
        for _ in range(_MOST_CHUNKS):
            if self._printed < 0:
                return
            try:
                text = os.read(self._printed, _PRINT_CHUNK)
            except BlockingIOError:
                return
            lines = (self._unfinished + text).split(b"\n")
            self._unfinished = lines.pop() if text else b""
            if len(self._unfinished) > _LONGEST_PRINT:
                lines.append(self._unfinished)
                self._unfinished = b""
            for line in lines:
                if line.strip():
                    shown = line.rstrip().decode(errors="replace")
                    prints.info("%s", shown, extra={"worker": self._device.name})
            if not text:
                asyncio.get_running_loop().remove_reader(self._printed)
                os.close(self._printed)
                self._printed = -1

    def _end(self) -> None:
        self._read(math.inf)  # what it said before it died, which has an end
        self._read_prints()
        code = self._popen.wait() if self._popen is not None else 0
        self._close()
        self._ended.set()
        self._gone(f"exit code {code}" if code >= 0 else f"signal {_name(-code)}")

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._printed >= 0:  # a process of the model's own may hold the other end
            loop.remove_reader(self._printed)
            os.close(self._printed)
            self._printed = -1
        if self._pidfd >= 0:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def kill(self) -> None:
        if self._popen is not None and not self._ended.is_set():
            self._popen.kill()

    async def stop(self, patience: float) -> None:
        """Ask it to end, and end it if it does not in time."""
        if self._popen is None:
            return
        self.send(wire.Stop())
        try:
            async with asyncio.timeout(patience):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()


def _environment() -> dict[str, str]:
    """Ours, without the keys of encrypted models: a worker is told what it needs, and may run anybody's code."""
    return {name: value for name, value in os.environ.items() if name != keys.VARIABLE}


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals, most of which have none
        return str(number)


@dataclass(frozen=True, slots=True)
class Look:
    """What the system says about a process."""

    anonymous: int  # bytes that are its own: neither pages of files nor shared memory, such as slots
    stopped: bool  # by a signal or a debugger


def look_at(pid: int) -> Look | None:
    """None when there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    kilobytes = fields.get("RssAnon", "0").split()
    return Look(int(kilobytes[0]) << 10, fields.get("State", "").split()[:1] in (["T"], ["t"]))
