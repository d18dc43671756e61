"""`python -m loadtests.memory`: what a worker process takes after thousands of batches of random shapes, and of giants.

It talks to one real worker process as the server does, without a queue, so that each batch has just the shape wanted.
Prints the memory that only the worker has, and that of its slot, at each stage; exits with 1 when a stage is beyond the
bound.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from loadtests.bodies import MEDIAN_LENGTH, P95_LENGTH
from sluice.spec import NUMPY_TYPES
from sluice.workers import wire
from sluice.workers.slots import Slot, aligned, array_at

BOUND = 64.0  # MiB above what the worker has once warm
WARM = (8, 32, 128, 256)  # the lengths that the server warms by default, alone and with as many rows as fit
ROWS = 64
MEBI = 1 << 20

Message = TypeVar("Message", bound=wire.Message)


class Worker:
    """A worker process and its only slot, driven from here."""

    def __init__(self, model: Path) -> None:
        self._slot = Slot.create("sluice-memory")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptors = (theirs.fileno(), self._slot.descriptor)
        command = [sys.executable, "-P", "-m", "sluice.workers.child", str(os.getpid()), *map(str, descriptors)]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=descriptors)
        self._hear(wire.Started)
        load = wire.Load("model", "onnxruntime", str(model), str(model.parent), {}, "cpu", 1, None, (), ())
        self._socket.send(wire.encode(load))
        loaded = self._hear(wire.Loaded)
        self._inputs = loaded.inputs
        # the pooled embedding rather than every token's state, as the server answers by default
        pooled = [port.name for port in loaded.outputs if len(port.dims) == 2]
        self._outputs = tuple(wire.Wanted(name, None) for name in pooled or [loaded.outputs[0].name])

    def _hear(self, kind: type[Message]) -> Message:
        packet = self._socket.recv(wire.MAX_PACKET)
        if not packet:
            raise SystemExit("the worker ended")
        message = wire.decode_for_server(memoryview(packet))
        if not isinstance(message, kind):
            raise SystemExit(f"the worker said: {message}")
        return message

    def run(self, rows: int, length: int) -> float:
        """Compute a batch of this shape; the seconds it took."""
        places, offset = [], 0
        for port in self._inputs:
            size = rows * length * NUMPY_TYPES[port.datatype].itemsize
            places.append(wire.Place(port.name, port.datatype, (rows, length), offset, size))
            offset = aligned(offset + size)
        size = offset
        while True:
            self._slot.grow(size)
            for place in places:
                array_at(self._slot.memory, place)[...] = 1
            run = wire.Run(0, "model", 0, self._slot.size, tuple(places), self._outputs, offset)
            self._socket.send(wire.encode(run))
            answer = self._hear(wire.Message)
            if isinstance(answer, wire.Done):
                return answer.seconds
            if not isinstance(answer, wire.Overflow):
                raise SystemExit(f"the worker said: {answer}")
            size = answer.size  # with room for the outputs as well

    def private(self) -> float:
        """MiB that only this process has."""
        lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

    def shared(self) -> float:
        """MiB that the slot really takes."""
        return os.fstat(self._slot.descriptor).st_blocks * 512 / MEBI

    def close(self) -> None:
        self._socket.close()  # which ends the process
        self._process.wait(10)
        self._slot.close()


def shapes(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """Random shapes within a batch's limit; a text longer than that is a batch of its own."""
    chance = random.Random(arguments.seed)
    made = []
    for _ in range(arguments.batches):
        if arguments.lengths == "uniform":
            length = chance.randint(1, arguments.longest)
        else:
            spread = math.log(P95_LENGTH / MEDIAN_LENGTH) / 1.645
            length = min(arguments.longest, max(2, round(chance.lognormvariate(math.log(MEDIAN_LENGTH), spread))))
        made.append((chance.randint(1, max(1, min(ROWS, arguments.tokens // length))), length))
    return made


def stages(arguments: argparse.Namespace) -> list[tuple[str, list[tuple[int, int]]]]:
    """What is run before each look at the memory."""
    made = shapes(arguments)
    marks = [mark for mark in (100, 1000, 2000, 5000) if mark < len(made)]
    full = [max(1, min(ROWS, arguments.tokens // length)) for length in WARM]
    stages = [
        ("warm", [shape for rows, length in zip(full, WARM, strict=True) for shape in ((1, length), (rows, length))])
    ]
    for begin, end in zip([0, *marks], [*marks, len(made)], strict=True):
        stages.append((f"{end} random shapes", made[begin:end]))
    if arguments.giant:
        stages += [("a giant", [(arguments.giant, arguments.longest)]), ("128 random shapes later", made[:128])]
    return stages


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="memory", description="Memory of a worker after batches of random shapes.")
    parser.add_argument("--model", type=Path, default=Path("models/minilm/1/model.onnx"), help="an ONNX encoder")
    parser.add_argument("--batches", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--tokens", type=int, default=256, help="most padded tokens in a batch (256)")
    parser.add_argument("--longest", type=int, default=512, help="longest text (512)")
    parser.add_argument("--lengths", choices=("uniform", "lognormal"), default="uniform", help="their distribution")
    parser.add_argument("--giant", type=int, default=32, help="rows of the giant batch, 0 = none (32)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    table = Table(box=SIMPLE_HEAD, title=f"{chosen.model}, {chosen.tokens} tokens, {chosen.lengths} lengths")
    for heading in ("after", "worker MiB", "above warm", "slot MiB", "computed s"):
        table.add_column(heading, justify="left" if heading == "after" else "right")
    warm, exceeded = 0.0, False
    worker = Worker(chosen.model)
    try:
        table.add_row("loading", f"{worker.private():.0f}", "", f"{worker.shared():.2f}", "")
        for name, batches in stages(chosen):
            began = time.monotonic()
            computed = sum(worker.run(*shape) for shape in batches)
            private = worker.private()
            warm = private if name == "warm" else warm
            exceeded |= private > warm + BOUND and name != "a giant"
            table.add_row(name, f"{private:.0f}", f"{private - warm:.0f}", f"{worker.shared():.2f}", f"{computed:.1f}")
            print(f"{name}: {private:.0f} MiB, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    finally:
        worker.close()
    Console().print(table)
    print(f"{'BEYOND' if exceeded else 'within'} the bound of {BOUND:.0f} MiB above a warm worker")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
