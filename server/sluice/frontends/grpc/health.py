"""grpc.health.v1: the same health that everybody else asks for, as load balancers ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluice.errors import UnknownModel, UnknownThing
from sluice.frontends.grpc.call import Call, Methods, Send, decoded, parse
from sluice.frontends.grpc.servicer import SERVICE as INFERENCE
from sluice.frontends.grpc.streams import Streams
from sluice.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from sluice.health import Health

SERVICE = "grpc.health.v1.Health"

Status = HealthCheckResponse.ServingStatus


class HealthServicer:
    """Services are "" and the inference service for the server, "model" and "model/version" for one model."""

    def __init__(self, health: Health, streams: Streams) -> None:
        self._health = health
        self._streams = streams

    def methods(self) -> Methods:
        return Methods(
            unary={f"/{SERVICE}/Check": decoded(HealthCheckRequest, self.check)},
            server_streams={f"/{SERVICE}/Watch": self.watch},
        )

    async def check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        status = self._status(request.service)
        if status == Status.SERVICE_UNKNOWN:
            raise UnknownThing(f"unknown service '{request.service}'")
        return HealthCheckResponse(status=status)

    async def watch(self, call: Call, message: bytes, send: Send) -> None:
        """The status now, and each that differs from the last one sent, until the client leaves or the server stops."""
        service = parse(HealthCheckRequest, message).service
        await self._streams.wait(self._watch(service, send))

    async def _watch(self, service: str, send: Send) -> None:
        sent: Status | None = None
        while True:
            status = self._status(service)
            if status != sent:
                await send(HealthCheckResponse(status=status).SerializeToString())
                sent = status
            else:
                await self._health.changed()  # nothing can change between the look above and this wait

    def _status(self, service: str) -> Status:
        try:
            if service in ("", INFERENCE):
                ready = self._health.ready()
            else:
                model, _, version = service.partition("/")
                ready = self._health.model_ready(model, version)
        except UnknownModel:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if ready else Status.NOT_SERVING
