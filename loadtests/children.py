"""Processes under measurement and those that measure them, for every bench in this folder."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from loadtests.bodies import Body

ROOT = Path(__file__).resolve().parents[1]
WARM_SECONDS = 0.2
START_SECONDS = 60.0

Figures = dict[str, float]


class MeasuringError(Exception):
    """Something under measurement did not start or answer; its columns stay empty."""


class Child:
    """A process of this package that is asked, and answers, by lines of JSON; it ends when its input is closed."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = " ".join((module, *arguments))
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"loadtests.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise MeasuringError(f"{self._name} ended: {_tail(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MeasuringError(answer["error"])
        return answer

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self.tell(message)
        return self.hear()

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        _end(self.process, patience=5)
        self._log.close()


@dataclass(frozen=True, slots=True)
class Target:
    """A server process under measurement."""

    name: str
    pid: int
    grpc: int
    http: int
    metrics: int = 0

    def port(self, protocol: str) -> int:
        return self.grpc if protocol == "gRPC" else self.http


@dataclass(frozen=True, slots=True)
class Run:
    """How one window of load is to be."""

    protocol: str
    in_flight: int
    seconds: float


def measure(client: Child, target: Target, run: Run, bodies: list[Body]) -> Figures:
    """Load one server for a while; the client's figures."""
    return client.ask(
        {
            "protocol": run.protocol,
            "port": target.port(run.protocol),
            "pid": target.pid,
            "in_flight": run.in_flight,
            "warm_seconds": WARM_SECONDS,
            "seconds": run.seconds,
            "bodies": [(base64.b64encode(body.data).decode(), body.tokens) for body in bodies],
        }
    )


@contextlib.contextmanager
def child(module: str, *arguments: str) -> Iterator[Child]:
    opened = Child(module, *arguments)
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def whole_server(repository: Path, *flags: str) -> Iterator[Target]:
    """The server as an operator starts it, on free ports, once it is ready."""
    http, grpc, metrics = _free_ports(3)
    command = [sys.executable, "-c", "import sys; from sluice.cli.main import main; sys.exit(main())", "serve"]
    command += ["--repository", str(repository), "--http-port", str(http), "--grpc-port", str(grpc)]
    command += ["--metrics-port", str(metrics), *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=repository.parent, env=environment, stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            if not _becomes_ready(process, http):
                raise MeasuringError(f"the server did not become ready: {_tail(log)}")
            yield Target("server", process.pid, grpc, http, metrics)
        finally:
            process.send_signal(signal.SIGINT)  # an interrupt has no lame-duck time
            _end(process, patience=20)


def _becomes_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
            return True
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[Any], patience: float) -> None:
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: IO[str]) -> str:
    """The last line of a process's standard error, which names what went wrong."""
    log.seek(0)
    return log.read().strip().rpartition("\n")[2][-400:]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def noting(notes: list[str], where: str = "") -> Iterator[None]:
    """Go on without what failed, and say so once."""
    try:
        yield
    except MeasuringError as error:
        note = f"{where}{error}"
        if note not in notes:
            notes.append(note)
