"""What the harness does to the machine: servers and their processes, the network's and the disk's speed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STOP_PATIENCE = 60.0

_INSIDE = "CHAOS_NETWORK"
_BURST = 128 << 10  # more than the largest packet of the loopback device
_BLKIO = Path("/sys/fs/cgroup/blkio")


@dataclass
class Server:
    """A `sluice serve` of its own process, on free ports."""

    process: subprocess.Popen[str]
    http: str  # host:port
    grpc: str
    metrics: str  # URL
    log: Path
    stopped: set[int] = field(default_factory=set)  # processes that we hold still

    @classmethod
    def start(cls, repository: Path, log: Path, flags: Sequence[str]) -> Server:
        command = [sys.executable, "-m", "sluice.cli.main", "serve", "--repository", str(repository)]
        command += ["--python-directory", str(repository), "--lame-duck", "0", "--log-format", "json"]
        command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", *flags]
        with log.open("a") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=log.parent)
        addresses: dict[str, str] = {}
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if words and words[0] in ("HTTP", "gRPC", "metrics"):
                addresses[words[0]] = words[1]
            if "metrics" in addresses:
                http = addresses["HTTP"].removeprefix("http://")
                return cls(process, http, addresses["gRPC"], addresses["metrics"], log)
        raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """Its worker processes that live, be they held still or not."""
        return [pid for pid in children(self.process.pid) if state(pid) not in ("Z", "X", "")]

    def signal(self, pid: int, number: signal.Signals) -> bool:
        """Whether it was there to get it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            if number is signal.SIGSTOP:
                self.stopped.add(pid)
            elif number is signal.SIGCONT:
                self.stopped.discard(pid)
            return True
        return False

    def metric(self, name: str, *labels: str) -> float:
        """Samples of the metrics page with these `name="value"` labels, summed; 0 when there are none."""
        with urllib.request.urlopen(self.metrics, timeout=30) as reply:
            text = reply.read().decode()
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for shown, value in found if all(label in shown for label in labels))

    def stop(self) -> tuple[int, list[int]]:
        """Its exit code, and which of its processes it left behind (they are ended)."""
        workers = children(self.process.pid)
        for pid in list(self.stopped):
            self.signal(pid, signal.SIGCONT)
        if self.alive:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        end = time.monotonic() + 5
        while (left := [pid for pid in workers if state(pid) not in ("Z", "X", "")]) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return code, left


def children(pid: int) -> list[int]:
    """The processes that this one's threads have started; a file each, so that it can be asked often."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def state(pid: int) -> str:
    """One letter, as in ps; empty if there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def memory(pid: int) -> tuple[float, float]:
    """MiB of a process: its proportional share of what is resident, and of that what is no file's, which the system
    could drop at will."""
    lines: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            lines[name] = float(rest.split()[0]) / 1024
    return lines.get("Pss", 0.0), lines.get("Pss_Anon", 0.0) + lines.get("Pss_Shmem", 0.0)


# The network: a namespace of our own, whose loopback device can be slowed down without hurting anybody.


def enter_network(module: str, arguments: Sequence[str]) -> str:
    """Become a process in a network namespace of its own; returns why not, or "" once we are there."""
    command = ["unshare", "--net", sys.executable, "-m", module, *arguments]
    if os.environ.get(_INSIDE):
        return "" if _ran("ip", "link", "set", "lo", "up") else "the loopback device cannot be brought up"
    if not all(shutil.which(tool) for tool in ("unshare", "ip", "tc")):
        return "unshare, ip or tc is not installed"
    if not _ran("unshare", "--net", "true"):
        return "network namespaces are not allowed here"
    return os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})  # which does not return


@contextlib.contextmanager
def slow_network(megabits: float) -> Iterator[bool]:
    """While it lasts everything between server and clients passes a token bucket; False if it cannot be had."""
    rate = f"{megabits:g}mbit"
    slowed = bool(os.environ.get(_INSIDE)) and _ran(
        "tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", rate, "burst", str(_BURST), "latency", "400ms"
    )
    try:
        yield slowed
    finally:
        if slowed:
            _ran("tc", "qdisc", "del", "dev", "lo", "root")


def _ran(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


# The disk: a control group whose reads of the repository's device are throttled.


class SlowDisk:
    """Throttles what a server's processes read from the device that a folder is on."""

    def __init__(self, folder: Path) -> None:
        self._group = _BLKIO / f"sluice-chaos-{os.getpid()}"
        self._folder = folder
        device = folder.stat().st_dev
        self._device = f"{os.major(device)}:{os.minor(device)}"
        self.unable = self._prepare()

    def _prepare(self) -> str:
        if not (_BLKIO / "blkio.throttle.read_bps_device").exists() and not os.access(_BLKIO, os.W_OK):
            return "no blkio control group (version 1) can be written here"
        try:
            self._group.mkdir(exist_ok=True)
            self._limit(1 << 40)
        except OSError as error:
            self.close()
            return f"the device {self._device} cannot be throttled: {error.strerror}"
        return ""

    def hold(self, pids: Sequence[int]) -> None:
        """These processes and all they start."""
        if self.unable:
            return
        for pid in pids:
            with contextlib.suppress(OSError):
                (self._group / "cgroup.procs").write_text(str(pid))

    def _limit(self, bytes_per_second: int) -> None:
        (self._group / "blkio.throttle.read_bps_device").write_text(f"{self._device} {bytes_per_second}")

    @contextlib.contextmanager
    def slow(self, bytes_per_second: int) -> Iterator[None]:
        """The folder's files leave the memory, and come back at this rate."""
        for path in self._folder.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
        self._limit(bytes_per_second)
        try:
            yield
        finally:
            self._limit(0)

    def close(self) -> None:
        """Its processes have ended."""
        with contextlib.suppress(OSError):
            self._group.rmdir()
