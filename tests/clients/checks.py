"""Runs a client's own script against a real server: other libraries and languages, each in its own environment.

Such a script is called with the server's HTTP and gRPC addresses and the gate file of the model `echo`. It runs every
function of its own whose name starts with `check_`, and prints a line of JSON for each: its name, and what went wrong
if something did. Each becomes a test here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import graphs
from servers import Server, end, launch

HERE = Path(__file__).parent
PATIENCE = 300.0

# Those whose elements can be sent as a list of values; the others travel raw.
TYPED = tuple(datatype for datatype in graphs.DATATYPES if datatype not in ("FP16", "BF16"))

Outcomes = dict[str, str]
"""What went wrong in each check; empty = nothing."""


def names(script: Path) -> list[str]:
    """The checks of a script, in its order."""
    return re.findall(r"^(?:export )?(?:async )?(?:def|function) check_(\w+)", script.read_text(), re.MULTILINE)


@contextmanager
def outcomes(directory: Path, *command: str) -> Iterator[Outcomes]:
    """Serves the models that the checks want and runs all of them."""
    repository, gate = directory / "models", directory / "gate"
    graphs.tagger(repository)
    graphs.identity(repository, datatypes=TYPED)
    graphs.identity(repository, "fp16", ("FP16",))
    graphs.identity(repository, "bf16", ("BF16",))
    graphs.python_echo(repository, gate=gate, more="max_queue = 1\nmax_batch_rows = 1\n")
    with serving(repository, directory) as server:
        try:
            yield run([*command, server.http, server.grpc, str(gate)], directory, server)
        finally:
            gate.unlink(missing_ok=True)


@contextmanager
def serving(repository: Path, directory: Path) -> Iterator[Server]:
    """A server for these models. It has one worker: when that answers, nothing that held it up before is left."""
    flags = ("--workers", "1", "--python-directory", str(repository))
    server = launch(repository, directory / "server.log", *flags)
    try:
        yield server
    finally:
        end(server)


def run(command: list[str], directory: Path, server: Server) -> Outcomes:
    """What a script prints about its checks."""
    environment = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{done.stderr}\n{server.output()}"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["check"]: line["failure"] for line in lines}
