"""Servers on fixed ports that are stopped and started again, as whoever rolls a release out does it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.compare.processes import free_ports

PATIENCE = 90.0  # seconds for anything that a server does
_PAUSE = 0.02  # between two questions


def until(condition: Callable[[], bool], what: str, alive: Callable[[], None] = lambda: None) -> None:
    """Ask until it is true; `alive` may see that it never will be, and raise."""
    end = time.monotonic() + PATIENCE
    while not condition():
        alive()
        if time.monotonic() > end:
            raise TimeoutError(f"it never came true: {what}")
        time.sleep(_PAUSE)


@dataclass
class Replica:
    """One of several servers of the same models."""

    folder: Path
    repository: Path
    flags: Sequence[str]
    number: int
    ports: list[int] = field(default_factory=lambda: free_ports(3))  # HTTP, gRPC, metrics
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        names = ("--http-port", "--grpc-port", "--metrics-port")
        ports = [part for name, port in zip(names, self.ports, strict=True) for part in (name, str(port))]
        command = [sys.executable, "-m", "sluice.cli.main", "serve", "--repository", str(self.repository)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *ports, *self.flags], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    @property
    def log(self) -> Path:
        return self.folder / f"replica-{self.number}.log"

    def ask(self, method: str, path: str, body: Any = None, port: int = 0) -> tuple[int, bytes]:
        """Status and body; 0 if nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.ports[0], timeout=PATIENCE)
        try:
            connection.request(method, path, json.dumps(body).encode() if body is not None else None)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def ready(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"a server ended by itself, see {self.log}: {self.log.read_text()[-600:]}")
        return self.ask("GET", "/v2/health/ready")[0] == 200

    def metric(self, name: str) -> float:
        """The sum over its labels."""
        _, body = self.ask("GET", "/metrics", port=self.ports[2])
        samples = [line.rpartition(" ") for line in body.decode().splitlines()]
        return sum(float(value) for sample, _, value in samples if sample.partition("{")[0] == name)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """As an orchestrator does: SIGTERM, and all the time it wants. An interrupt skips the lame duck."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
