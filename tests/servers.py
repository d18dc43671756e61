"""Real servers for tests: each its own process on free ports, ended and checked for leftovers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

START_PATIENCE = 60.0
STOP_PATIENCE = 60.0
# Tests hold workers up for as long as a busy machine makes them, and count what they compute; those that are about
# hanging and signs of life say so themselves.
PATIENT = {"SLUICE_WORKERS__HANG_TIMEOUT": "60", "SLUICE_HEALTH__PROBE_INTERVAL": "0"}


@dataclass
class Server:
    """A running `sluice serve`."""

    process: subprocess.Popen[str]
    http: str = ""  # http://127.0.0.1:<port>
    grpc: str = ""  # 127.0.0.1:<port>
    metrics: str = ""  # http://127.0.0.1:<port>/metrics
    log: Path = Path()
    printed: list[str] = field(default_factory=list)

    @property
    def netloc(self) -> str:
        """host:port, as tritonclient's HTTP clients want it."""
        return self.http.removeprefix("http://")

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """An HTTP exchange without any client library: status and decoded JSON (or None)."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.http}{path}", data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                status, content = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
        return status, json.loads(content) if content else None

    def metric(self, name: str, **labels: str) -> float:
        """One sample of the metrics port; 0 when it is not there."""
        with urllib.request.urlopen(self.metrics, timeout=30) as reply:
            text = reply.read().decode()
        total = 0.0
        for line in text.splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? ([^ ]+)", line)
            if found and all(f'{label}="{wanted}"' in (found[1] or "") for label, wanted in labels.items()):
                total += float(found[2])
        return total

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Signal it and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_PATIENCE)

    def output(self) -> str:
        return self.log.read_text()


StartServer = Callable[..., Server]


def launch(repository: Path, log: Path, *flags: str, environment: dict[str, str] | None = None) -> Server:
    """Start a server and wait for its announcement."""
    command = [sys.executable, "-m", "sluice.cli.main", "serve", "--repository", str(repository)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *ports, "--workers", "2", "--lame-duck", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **PATIENT, **(environment or {})},
            cwd=log.parent,
        )
    server = Server(process, log=log)
    assert process.stdout is not None
    for line in process.stdout:
        server.printed.append(line.rstrip("\n"))
        if line.startswith("HTTP"):
            server.http = line.split()[1]
        elif line.startswith("gRPC"):
            server.grpc = line.split()[1]
        elif line.startswith("metrics"):
            server.metrics = line.split()[1]
            return server
    process.wait()
    process.stdout.close()
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def end(server: Server) -> None:
    """Stop a server if it still runs, and see that it left no process behind."""
    workers = server.workers() if server.process.poll() is None else []
    server.stop()
    assert server.process.stdout is not None
    server.process.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, f"left behind: {alive}"
