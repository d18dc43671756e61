"""The Open Inference Protocol over HTTP: inference, health, metadata, configuration and statistics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sluice.errors import InvalidRequest, TooLarge
from sluice.frontends import metadata
from sluice.frontends.http import body, codec
from sluice.frontends.http.reply import REQUEST_ID, Reply, json_reply, request_id
from sluice.frontends.http.routes import Route
from sluice.frontends.http.timeouts import deadline
from sluice.request import Buffer, Timeline
from sluice.text.inputs import MOST_TEXTS, PAIR, TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.http.schema import InputBody
    from sluice.frontends.services import Services
    from sluice.telemetry.statistics import Duration, ModelStatistics


class OpenInference:
    """Endpoints that clients of models use."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tenant_header = services.tenant_header.encode()

    def routes(self) -> list[Route]:
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        routes = [
            Route("GET", "/", self.server_metadata),
            Route("GET", "/v2", self.server_metadata),
            Route("GET", "/v2/health/live", self.live),
            Route("GET", "/v2/health/ready", self.ready),
            Route("GET", "/v2/health/started", self.started),
            Route("GET", "/v2/models/stats", self.statistics),
        ]
        for path in (model, version):
            routes += [
                Route("POST", f"{path}/infer", self.infer),
                Route("GET", path, self.model_metadata),
                Route("GET", f"{path}/ready", self.model_ready),
                Route("GET", f"{path}/config", self.model_configuration),
                Route("GET", f"{path}/stats", self.statistics),
            ]
        return routes

    async def infer(self, exchange: Exchange) -> Reply:
        timeline = Timeline()
        services = self._services
        with services.engine.reading:
            services.engine.check_memory()
            decoded = self._decode(exchange, await body.read(exchange, services.limits.max_message_bytes), timeline)
            decoded.request.tenant = services.tenant(exchange.headers.get(self._tenant_header, b"").decode("latin-1"))
        exchange.cancel_on_disconnect = True
        response = await services.engine.infer(decoded.request)
        reply = codec.encode(response, decoded.wishes, services.regions)
        _add_headers(reply.headers, decoded.request.id, timeline)
        return reply

    def _decode(self, exchange: Exchange, content: Buffer, timeline: Timeline) -> codec.Decoded:
        services, headers = self._services, exchange.headers
        target = codec.Target(
            exchange.model,
            exchange.version,
            headers.get(REQUEST_ID, b"").decode("latin-1"),
            deadline(headers, timeline.received),
            timeline,
        )
        length = _json_length(headers)
        if length == 0:
            inputs = services.catalog.metadata(exchange.model, exchange.version).inputs
            return codec.decode_raw(content, target, inputs)
        return codec.decode(content, length, target, services.regions, partial(self._check, target))

    def _check(self, target: codec.Target, inputs: list[InputBody]) -> None:
        """More texts than anybody answers are refused before they are read."""
        many = next((one for one in inputs if one.name in (TEXT, PAIR) and one.shape[:1] > [MOST_TEXTS]), None)
        if many is None:
            return
        text = self._services.catalog.route(target.model, target.version).version.text
        if text is not None:
            why = f"and at most {MOST_TEXTS} texts come in one request"
            raise TooLarge(f"input '{many.name}' has {many.shape[0]} elements, {why}")

    async def live(self, exchange: Exchange) -> Reply:
        live = self._services.health.live()
        return json_reply({"live": live}, 200 if live else 503)

    async def ready(self, exchange: Exchange) -> Reply:
        """`?verbose` adds the reasons and the condition of every part; the status is the same."""
        health = self._services.health
        if not _is_asked_for(b"verbose", exchange.query):
            ready = health.ready()
            return json_reply({"ready": ready}, 200 if ready else 503)
        report = health.report()
        return json_reply(metadata.health(report), 200 if report.ready else 503)

    async def started(self, exchange: Exchange) -> Reply:
        started = self._services.health.started()
        return json_reply({"started": started}, 200 if started else 503)

    async def server_metadata(self, exchange: Exchange) -> Reply:
        return json_reply(metadata.server_metadata(self._services.limits))

    async def model_metadata(self, exchange: Exchange) -> Reply:
        return json_reply(metadata.model_metadata(self._services.catalog.metadata(exchange.model, exchange.version)))

    async def model_ready(self, exchange: Exchange) -> Reply:
        ready = self._services.health.model_ready(exchange.model, exchange.version)
        return json_reply({"name": exchange.model, "ready": ready}, 200 if ready else 503)

    async def model_configuration(self, exchange: Exchange) -> Reply:
        return json_reply(self._services.catalog.configuration(exchange.model, exchange.version))

    async def statistics(self, exchange: Exchange) -> Reply:
        found = self._services.catalog.statistics(exchange.model, exchange.version)
        return json_reply({"model_stats": [_statistics(entry) for entry in found]})


def _is_asked_for(name: bytes, query: bytes) -> bool:
    """As `?name`, `?name=1` or `?name=true`."""
    for given in query.split(b"&"):
        key, _, value = given.partition(b"=")
        if key == name:
            return value.lower() not in (b"0", b"false", b"no")
    return False


def _json_length(headers: Mapping[bytes, bytes]) -> int | None:
    value = headers.get(codec.JSON_LENGTH)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise InvalidRequest("Inference-Header-Content-Length: expected a whole number of bytes")
    return int(value)


def _add_headers(headers: list[bytes], id: str, timeline: Timeline) -> None:
    if echo := request_id(id):
        headers.append(echo)
    if timeline.queued and timeline.assembled:
        headers.append(b"x-queue-time-ms: %.3f\r\n" % ((timeline.assembled - timeline.queued) * 1000))
    if timeline.compute_seconds:
        headers.append(b"x-compute-time-ms: %.3f\r\n" % (timeline.compute_seconds * 1000))


def _statistics(entry: ModelStatistics) -> dict[str, Any]:
    """Every field is a JSON number: perf_analyzer crashes on one that is missing or a string."""
    return {
        "name": entry.name,
        "version": entry.version,
        "last_inference": entry.last_inference_ms,
        "inference_count": entry.inference_count,
        "execution_count": entry.execution_count,
        "inference_stats": {
            "success": _duration(entry.success),
            "fail": _duration(entry.fail),
            "queue": _duration(entry.queue),
            "compute_input": _duration(entry.compute_input),
            "compute_infer": _duration(entry.compute_infer),
            "compute_output": _duration(entry.compute_output),
            "cache_hit": _duration(entry.cache_hit),
            "cache_miss": _duration(entry.cache_miss),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": batch.batch_size,
                "compute_input": _duration(batch.compute_input),
                "compute_infer": _duration(batch.compute_infer),
                "compute_output": _duration(batch.compute_output),
            }
            for _, batch in sorted(entry.batches.items())
        ],
        "memory_usage": [],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
