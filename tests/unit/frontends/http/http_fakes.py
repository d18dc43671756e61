"""A server on a free port of this machine over an engine, catalog and health that do what a test tells them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from sluice.config.settings import Server
from sluice.errors import ShortOfMemory, SluiceError, UnknownModel
from sluice.frontends.http.server import HttpServer
from sluice.frontends.regions import Regions
from sluice.frontends.services import Services
from sluice.health import Condition, Part, Report
from sluice.inventory import Aliases, IndexRow, ModelMetadata
from sluice.request import InferRequest, InferResponse, Tensor
from sluice.spec import TensorSpec
from sluice.store.aliases import Change
from sluice.telemetry.statistics import ModelStatistics
from sluice.telemetry.switches import Switches

VECTOR = np.linspace(-1, 1, 384, dtype="<f4")


@dataclass
class FakeEngine:
    """Answers with the inputs as outputs; model `vector` with 384 floats; can be held, and can fail."""

    error: BaseException | None = None
    held: asyncio.Event | None = None
    seen: list[InferRequest] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    outputs: tuple[Tensor, ...] | None = None
    short_of_memory: str = ""

    reading: contextlib.AbstractContextManager[None] = field(default_factory=contextlib.nullcontext)

    def check_memory(self) -> None:
        if self.short_of_memory:
            raise ShortOfMemory(self.short_of_memory, retry_after=1.0)

    async def infer(self, request: InferRequest) -> InferResponse:
        self.seen.append(request)
        self.arrived.set()
        try:
            if self.held is not None:
                await self.held.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        outputs = self.outputs if self.outputs is not None else request.inputs
        if request.outputs and self.outputs is None:
            named = {tensor.name: tensor for tensor in request.inputs}
            outputs = tuple(named[output.name] for output in request.outputs)
        request.timeline.queued, request.timeline.assembled = 1.0, 1.0015
        request.timeline.compute_seconds = 0.002
        return InferResponse(request.model, request.version or "1", request.id, outputs)


CHANGE = Change("2026-01-02T03:04:05+00:00", "ann", "production", "1", "2", "it is better")


@dataclass
class FakeCatalog:
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1, -1), batch_axis=0),)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: SluiceError | None = None

    def _check(self, name: str) -> None:
        if name == "missing":
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        self._check(name)
        return ModelMetadata(name, ("1",), "onnxruntime_onnx", self.inputs, self.inputs, {})

    def configuration(self, name: str, version: str = "") -> dict[str, Any]:
        self._check(name)
        return {"name": name, "max_batch_size": 8}

    def statistics(self, name: str = "", version: str = "") -> list[ModelStatistics]:
        self._check(name)
        found = ModelStatistics(name or "echo", version or "1")
        found.success.add(0.5)
        return [found]

    def index(self, ready: bool = False) -> list[IndexRow]:
        rows = [IndexRow("echo", "1", "READY", ""), IndexRow("bad", "1", "UNAVAILABLE", "broken file")]
        return rows[:1] if ready else rows

    async def load(self, name: str, config: str | None = None, files: Mapping[str, bytes] = {}) -> None:
        self._check(name)
        if self.error is not None:
            raise self.error
        self.calls.append(("load", name, config, dict(files)))

    async def unload(self, name: str, dependents: bool = False) -> None:
        self._check(name)
        self.calls.append(("unload", name, dependents))

    def aliases(self, name: str) -> Aliases:
        self._check(name)
        return Aliases(name, {"production": "2"}, "2")

    async def history(self, name: str) -> list[Change]:
        return [CHANGE]

    async def promote(self, name: str, alias: str, version: str, by: str, reason: str = "") -> Change:
        self._check(name)
        self.calls.append(("promote", name, alias, version, by, reason))
        return CHANGE

    async def remove_alias(self, name: str, alias: str, by: str, reason: str = "") -> Change:
        self._check(name)
        self.calls.append(("remove_alias", name, alias, by, reason))
        return CHANGE


@dataclass
class FakeHealth:
    is_live: bool = True
    is_started: bool = True
    is_ready: bool = True
    is_stopping: bool = False

    def live(self) -> bool:
        return self.is_live

    def started(self) -> bool:
        return self.is_started

    def ready(self) -> bool:
        return self.is_ready

    def report(self) -> Report:
        parts = [Part("memory", "server", Condition.OK), Part("model", "echo/1", Condition.FAILED, "it is broken")]
        return Report(self.is_ready, [] if self.is_ready else ["model echo/1: it is broken"], parts, 1.5)

    def stopping(self) -> bool:
        return self.is_stopping

    def model_ready(self, name: str, version: str = "") -> bool:
        if name == "missing":
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        return self.is_ready


@dataclass
class Running:
    """A started server and its parts."""

    server: HttpServer
    port: int
    engine: FakeEngine
    catalog: FakeCatalog
    health: FakeHealth
    services: Services


@contextlib.asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Running]:
    limits = Server(http_port=0, **settings)
    engine, catalog, health = FakeEngine(), FakeCatalog(), FakeHealth()
    services = Services(
        engine=cast(Any, engine),
        catalog=cast(Any, catalog),
        health=cast(Any, health),
        regions=Regions(limits.shared_memory),
        switches=Switches(),
        limits=limits,
        tenant_header="x-tenant",
    )
    server = HttpServer(services, limits)
    port = await server.start()
    try:
        yield Running(server, port, engine, catalog, health, services)
    finally:
        await server.close(grace=0)
        services.regions.close()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A raw HTTP/1.1 client on one connection: what is sent is what the test wrote."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}) -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return await self.answer(head_only=method == "HEAD")

    async def answer(self, head_only: bool = False) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = 0 if head_only else int(headers.get("content-length", 0))
        return Answer(int(first.split(" ")[1]), headers, await self.reader.readexactly(size))

    async def ended(self) -> bool:
        """The server closed in good order and sent nothing more."""
        return await self.reader.read() == b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    connection = await Wire.connect(port)
    try:
        yield connection
    finally:
        await connection.close()


def infer_body(**changes: Any) -> bytes:
    body: dict[str, Any] = {
        "inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]}],
        **changes,
    }
    return json.dumps(body).encode()
