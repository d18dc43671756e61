"""A server process and all it started: started, asked whether it answers, paused, measured, ended."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from typing import Any

import psutil

from loadtests.compare.contestants import Start

_KILLED_PATIENCE = 2.0  # a killed process whose parent does not collect it is never seen to end
_IDLE_SHARE = 0.25  # of one core, below which a server counts as having worked off its load
_IDLE_WINDOW = 0.3


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class ServerProcess:
    """A server and its descendants."""

    def __init__(self, how: Start) -> None:
        self.how = how
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[psutil.Process] = []

    def start(self) -> None:
        with (self.how.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.how.command,
                cwd=self.how.folder,
                env=self.how.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt at the terminal is for the comparison, which ends its servers
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return (self.how.folder / "log").read_text(errors="replace").strip()[-600:]
        return ""

    def tree(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(self._process.pid)
            return [leader, *leader.children(recursive=True)]
        return []

    def memory(self) -> tuple[float, float]:
        """RSS and PSS of the tree, in MiB. PSS counts a page that several share once, RSS as often as it is mapped."""
        rss = pss = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                full: Any = process.memory_full_info()
                rss += full.rss / 2**20
                pss += full.pss / 2**20
        return rss, pss

    def settle(self, patience: float) -> bool:
        """Wait until it computes no more; False if it still does after `patience` seconds."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            before = cpu_seconds(self.tree())
            time.sleep(_IDLE_WINDOW)
            if cpu_seconds(self.tree()) - before < _IDLE_SHARE * _IDLE_WINDOW:
                return True
        return False

    def pause(self) -> None:
        self._paused = self.tree()
        _signal(self._paused, signal.SIGSTOP)

    def resume(self) -> None:
        _signal(reversed(self._paused), signal.SIGCONT)
        self._paused = []

    def stop(self) -> None:
        """Ask it to end, and end what is left."""
        if self._process is None:
            return
        self.resume()
        tree = self.tree()
        if self.running:
            self._process.send_signal(signal.SIGINT if self.how.ended_by_interrupt else signal.SIGTERM)
        _, alive = psutil.wait_procs(tree, timeout=self.how.end_patience)
        _signal(alive, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=_KILLED_PATIENCE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_PATIENCE)
        self._process = None


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Of processes that live; what one used that has ended is not known."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def machine_seconds() -> float:
    """Of CPU that the whole machine has used so far, whoever did."""
    times: Any = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user already
    return float(sum(times)) - float(idle) - float(guests)
