"""What stands behind the gRPC front end in its tests: an engine and a catalog to order, the other parts real."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc.aio

from sluice import errors
from sluice.config.settings import Server
from sluice.frontends.grpc.server import GrpcServer
from sluice.frontends.regions import Regions
from sluice.frontends.services import Services
from sluice.health import Health
from sluice.request import InferRequest, InferResponse, Parameter, Tensor
from sluice.spec import TensorSpec
from sluice.telemetry.statistics import BatchStatistics, Duration, ModelStatistics
from sluice.telemetry.switches import Switches


@dataclass
class StandInEngine:
    """Echoes; or raises `error`; or waits for `gate` when the request's id is in `held`."""

    error: Exception | None = None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[InferRequest] = field(default_factory=list)
    arrived: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    cancelled: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    reading: AbstractContextManager[None] = field(default_factory=nullcontext)

    async def infer(self, request: InferRequest) -> InferResponse:
        self.requests.append(request)
        self.arrived.release()
        if request.model == "unknown":
            raise errors.UnknownModel("Request for unknown model: 'unknown' is not found")
        if self.error is not None:
            raise self.error
        if request.id in self.held:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.release()
                raise
        outputs = tuple(Tensor(each.name, each.datatype, each.shape, each.data) for each in request.inputs)
        if request.outputs:
            by_name = {tensor.name: tensor for tensor in outputs}
            outputs = tuple(by_name[output.name] for output in request.outputs)
        return InferResponse(request.model, "3", request.id, outputs, self.parameters)


@dataclass
class StandInCatalog:
    """One model, "echo"; remembers what it was asked to load and unload."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None

    def metadata(self, name: str, version: str = "") -> Any:
        self._check(name)
        spec = TensorSpec("x", "INT64", (-1, -1), 0, 1)
        return SimpleNamespace(
            name=name,
            versions=("2", "3"),
            platform="onnxruntime_onnx",
            inputs=(spec,),
            outputs=(TensorSpec("y", "FP32", (-1, 384), 0),),
            properties={"padding": "any"},
        )

    def configuration(self, name: str, version: str = "") -> dict[str, Any]:
        self._check(name)
        return {
            "name": name,
            "backend": "onnxruntime",
            "max_batch_size": 64,
            "input": [{"name": "x", "data_type": "TYPE_INT64", "dims": [-1]}],
            "dynamic_batching": {},
            "model_transaction_policy": {"decoupled": False},
            "parameters": {"a": {"string_value": "b"}},
        }

    def statistics(self, name: str = "", version: str = "") -> list[ModelStatistics]:
        if name:
            self._check(name)
        statistics = ModelStatistics("echo", "3", last_inference_ms=7, inference_count=5, execution_count=2)
        statistics.success = Duration(4, 400)
        statistics.queue = Duration(4, 100)
        statistics.batches = {
            4: BatchStatistics(4, compute_infer=Duration(1, 9)),
            1: BatchStatistics(1, compute_infer=Duration(1, 8)),
        }
        return [statistics]

    def index(self, ready: bool = False) -> list[Any]:
        rows = [SimpleNamespace(name="echo", version="3", state="READY", reason="")]
        if not ready:
            rows.append(SimpleNamespace(name="broken", version="1", state="UNAVAILABLE", reason="no such file"))
        return rows

    async def load(self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("load", name, config, files))

    async def unload(self, name: str, dependents: bool = False) -> None:
        self.calls.append(("unload", name, dependents))

    def _check(self, name: str) -> None:
        if name != "echo":
            raise errors.UnknownModel(f"Request for unknown model: '{name}' is not found")


@dataclass
class StandInParts:
    """What health is computed from."""

    able: bool = True
    ready: dict[tuple[str, str], bool] = field(default_factory=lambda: {("echo", ""): True, ("echo", "3"): True})

    def lacking(self) -> list[str]:
        return []

    def capable(self) -> bool:
        return self.able

    def version_ready(self, name: str, version: str) -> bool:
        if (name, version) not in self.ready:
            raise errors.UnknownModel(f"Request for unknown model: '{name}' is not found")
        return self.ready[name, version]


@dataclass
class Bench:
    """A running server, a channel to it and everything behind it."""

    engine: StandInEngine
    catalog: StandInCatalog
    parts: StandInParts
    health: Health
    regions: Regions
    switches: Switches
    server: GrpcServer
    port: int
    channel: grpc.aio.Channel

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def unary(self, method: str, service: str = "inference.GRPCInferenceService") -> Any:
        """The method as a callable on bytes."""
        return self.channel.unary_unary(f"/{service}/{method}")

    async def infer(self, message: bytes, **call: Any) -> bytes:
        reply: bytes = await self.unary("ModelInfer")(message, **call)
        return reply

    def stream(self, **call: Any) -> Any:
        return self.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(**call)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Bench]:
    """A server on a free port, closed at the end."""
    limits = Server(**{"grpc_port": 0, **settings})
    parts = StandInParts()
    health = Health(parts)
    health.mark_started()
    services: Any = Services(
        engine=StandInEngine(),  # type: ignore[arg-type]
        catalog=StandInCatalog(),  # type: ignore[arg-type]
        health=health,
        regions=Regions(enabled=True),
        switches=Switches(),
        limits=limits,
        tenant_header="x-tenant",
    )
    server = GrpcServer(services, limits)
    port = await server.start()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield Bench(
            services.engine,
            services.catalog,
            parts,
            health,
            services.regions,
            services.switches,
            server,
            port,
            channel,
        )
    await server.close(0)
    services.regions.close()
