"""The server that is fuzzed, the valid requests to begin with, and what must be true of it afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import graphs
import psutil
from servers import Server, end, launch
from tritonclient.grpc import service_pb2 as pb
from wires import Ask, Input, call, http_call, tokens

MUTATIONS = 10_000
MOST_GROWTH = 300 << 20
NUMBERS = tuple(datatype for datatype in graphs.DATATYPES if datatype not in ("BYTES", "FP16", "BF16"))
HALVES = ("FP16", "BF16")
NEEDED = {"tagger", "lookup", "numbers", "halves", "texts"}  # models that no mutation may take away

GOOD = tokens(1, 2, 3, 4, 5, 6, rows=2)
NUMBERS_ASK = Ask(
    "numbers",
    tuple(
        Input(f"INPUT{index}", datatype, (1, 2), (True, False) if datatype == "BOOL" else (1, 2))
        for index, datatype in enumerate(NUMBERS)
    ),
)
ASKS = (
    GOOD,
    Ask("tagger", GOOD.inputs, version="1", outputs=(("total", {"classification": 1}), ("tokens", {})),
        parameters={"priority": 2, "timeout": 10_000_000, "sequence_id": 3, "sequence_start": True}),
    Ask("lookup", GOOD.inputs[:1], outputs=(("embedding", {}),)),
    NUMBERS_ASK,
    Ask("texts", (Input("INPUT0", "BYTES", (2, 1), ("a", "bcd")),)),
    Ask("tagger", GOOD.inputs, outputs=(
        ("tokens", {"shared_memory_region": "fuzz", "shared_memory_offset": 64, "shared_memory_byte_size": 64}),)),
)  # fmt: skip


@dataclass
class Target:
    """A server with its processes as they were when it started."""

    server: Server
    memory: SharedMemory
    workers: set[int]
    size: int

    def check(self) -> None:
        """It lives, nothing of it died, it answers right, and neither grew nor logged beyond reason."""
        assert self.server.process.poll() is None
        assert {worker.pid for worker in self.server.workers()} == self.workers, self.server.output()[-5000:]
        reply = http_call(self.server, "POST", GOOD.path(), GOOD.json())
        assert reply.json["outputs"][1]["data"] == [12, 30]
        assert call(self.server, "ModelInfer", GOOD.message()).raw_output_contents[1] == bytes(
            [12, *bytes(7), 30, *bytes(7)]
        )
        for ask in ASKS[2:5]:
            reply = http_call(self.server, "POST", ask.path(), ask.json())
            assert reply.status == 200, reply.body
            assert call(self.server, "ModelInfer", ask.message()).outputs
        assert _resident(self.server) - self.size < MOST_GROWTH
        output = self.server.output()
        for bad in ("Traceback", "unexpected error", "internal error"):
            at = output.find(bad)
            assert at < 0, output[max(0, at - 1000) : at + 4000]


@contextlib.contextmanager
def target(root: Path) -> Iterator[Target]:
    """A server of several models, impatient with slow clients."""
    models = root / "models"
    graphs.tagger(models)
    graphs.tagger(models, "spare")
    graphs.lookup(models)
    graphs.identity(models, "numbers", NUMBERS)
    graphs.identity(models, "halves", HALVES)
    graphs.identity(models, "texts", ("BYTES",))
    impatient = {"SLUICE_SERVER__BODY_TIMEOUT": "1", "SLUICE_SERVER__HEADER_TIMEOUT": "1"}
    server = launch(models, root / "log", "--max-message-bytes", str(8 << 20), environment=impatient)
    memory = SharedMemory(create=True, size=4096)
    try:
        register(server, memory)
        for ask in ASKS:  # all of them are valid, or their mutations would test little
            assert http_call(server, "POST", ask.path(), ask.json()).status == 200
            assert call(server, "ModelInfer", ask.message()).outputs
        yield Target(server, memory, {worker.pid for worker in server.workers()}, _resident(server))
    finally:
        memory.close()
        memory.unlink()
        end(server)


def register(server: Server, memory: SharedMemory) -> None:
    call(server, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="fuzz"))
    message: Any = pb.SystemSharedMemoryRegisterRequest(name="fuzz", key=memory.name, byte_size=4096)
    call(server, "SystemSharedMemoryRegister", message)


def _resident(server: Server) -> int:
    """Bytes of memory of the server and its workers together."""
    processes = [psutil.Process(server.process.pid), *server.workers()]
    return sum(int(process.memory_info().rss) for process in processes)
