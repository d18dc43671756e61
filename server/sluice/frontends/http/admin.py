"""Endpoints that change or show the server: repository, shared memory, trace and log settings."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from sluice.errors import InvalidRequest, Unsupported
from sluice.frontends.http import body, schema
from sluice.frontends.http.reply import Reply, json_reply
from sluice.frontends.http.routes import Route

if TYPE_CHECKING:
    import msgspec

    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.services import Services

T = TypeVar("T")

_FILE = "file:"
_BY = b"sluice-by"


class Admin:
    """Endpoints that operators and tools use."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        routes = [
            Route("GET", "/v2/logging", self.log),
            Route("POST", "/v2/logging", self.update_log),
        ]
        for path in ("/v2/repository", "/v2/repository/{repository}"):
            routes += [
                Route("POST", f"{path}/index", self.index),
                Route("POST", f"{path}/models/{{model}}/load", self.load),
                Route("POST", f"{path}/models/{{model}}/unload", self.unload),
            ]
        routes += [
            Route("GET", "/v2/models/{model}/aliases", self.aliases),
            Route("POST", "/v2/models/{model}/aliases/{alias}", self.promote),
            Route("DELETE", "/v2/models/{model}/aliases/{alias}", self.remove_alias),
        ]
        for path in ("/v2/trace/setting", "/v2/models/{model}/trace/setting"):
            routes += [Route("GET", path, self.trace), Route("POST", path, self.update_trace)]
        for path in ("/v2/systemsharedmemory", "/v2/systemsharedmemory/region/{region}"):
            routes += [
                Route("GET", f"{path}/status", self.regions),
                Route("POST", f"{path}/unregister", self.unregister),
            ]
        routes.append(Route("POST", "/v2/systemsharedmemory/region/{region}/register", self.register))
        for path in ("/v2/cudasharedmemory", "/v2/cudasharedmemory/region/{region}"):
            routes += [
                Route("GET", f"{path}/status", self.cuda_regions),
                Route("POST", f"{path}/unregister", self.cuda_unregister),
            ]
        routes.append(Route("POST", "/v2/cudasharedmemory/region/{region}/register", self.cuda_register))
        return routes

    # Repository

    async def index(self, exchange: Exchange) -> Reply:
        wanted = await self._json(exchange, schema.INDEX)
        return json_reply([asdict(row) for row in self._services.catalog.index(wanted.ready)])

    async def load(self, exchange: Exchange) -> Reply:
        sent = await self._json(exchange, schema.LOAD)
        config: str | None = None
        files: dict[str, bytes] = {}
        for name, value in sent.parameters.items():
            at = f"parameters.{name}"
            if name != "config" and not name.startswith(_FILE):
                raise InvalidRequest(f"{at}: unknown; config and {_FILE}<path> are possible")
            if not isinstance(value, str):
                raise InvalidRequest(f"{at}: expected str")
            if name == "config":
                config = value
                continue
            try:
                files[name.removeprefix(_FILE)] = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise InvalidRequest(f"{at}: not base64") from None
        await self._services.catalog.load(exchange.model, config, files)
        return json_reply({})

    async def unload(self, exchange: Exchange) -> Reply:
        sent = await self._json(exchange, schema.UNLOAD)
        await self._services.catalog.unload(exchange.model, sent.parameters.unload_dependents)
        return json_reply({})

    # Aliases

    async def aliases(self, exchange: Exchange) -> Reply:
        catalog = self._services.catalog
        now = catalog.aliases(exchange.model)
        changes = await catalog.history(exchange.model)
        return json_reply({**asdict(now), "history": [asdict(change) for change in changes]})

    async def promote(self, exchange: Exchange) -> Reply:
        sent = await self._json(exchange, schema.PROMOTE)
        change = await self._services.catalog.promote(
            exchange.model, exchange.path["alias"], str(sent.version), _who(exchange, sent.by), sent.reason
        )
        return json_reply(asdict(change))

    async def remove_alias(self, exchange: Exchange) -> Reply:
        sent = await self._json(exchange, schema.REMOVE_ALIAS)
        change = await self._services.catalog.remove_alias(
            exchange.model, exchange.path["alias"], _who(exchange, sent.by), sent.reason
        )
        return json_reply(asdict(change))

    # Shared memory

    async def regions(self, exchange: Exchange) -> Reply:
        found = self._services.regions.status(exchange.path.get("region", ""))
        return json_reply([asdict(region) for region in found])

    async def register(self, exchange: Exchange) -> Reply:
        sent = await self._json(exchange, schema.REGION)
        self._services.regions.register(exchange.path["region"], sent.key, sent.offset, sent.byte_size)
        return json_reply({})

    async def unregister(self, exchange: Exchange) -> Reply:
        self._services.regions.unregister(exchange.path.get("region", ""))
        return json_reply({})

    async def cuda_regions(self, exchange: Exchange) -> Reply:
        return json_reply([])

    async def cuda_register(self, exchange: Exchange) -> Reply:
        raise Unsupported("CUDA shared memory is not supported; use system shared memory")

    async def cuda_unregister(self, exchange: Exchange) -> Reply:
        return json_reply({})  # clients clean up blindly before they start

    # Trace and log settings

    async def log(self, exchange: Exchange) -> Reply:
        return json_reply(self._services.switches.log())

    async def update_log(self, exchange: Exchange) -> Reply:
        changes = await self._json(exchange, schema.LOG)
        return json_reply(self._services.switches.update_log(changes))

    async def trace(self, exchange: Exchange) -> Reply:
        self._check_model(exchange)
        return json_reply(_trace(self._services.switches.trace(exchange.model)))

    async def update_trace(self, exchange: Exchange) -> Reply:
        self._check_model(exchange)
        sent = await self._json(exchange, schema.TRACE)
        changes = {
            name: value if value is None or isinstance(value, list) else [str(value)] for name, value in sent.items()
        }
        return json_reply(_trace(self._services.switches.update_trace(changes, exchange.model)))

    def _check_model(self, exchange: Exchange) -> None:
        """A model's settings need a model: this raises for one nobody knows."""
        if exchange.model:
            self._services.health.model_ready(exchange.model)

    async def _json(self, exchange: Exchange, decoder: msgspec.json.Decoder[T]) -> T:
        """The body as a typed value; an empty body is an empty object."""
        content = await body.read(exchange, self._services.limits.max_message_bytes)
        return schema.decode(decoder, content or b"{}")


def _who(exchange: Exchange, said: str) -> str:
    """The header has the word over the body: a proxy that knows who asks can set it."""
    try:
        return exchange.headers.get(_BY, b"").decode() or said
    except UnicodeDecodeError:
        raise InvalidRequest(f"{_BY.decode()}: not UTF-8") from None


def _trace(settings: dict[str, list[str]]) -> dict[str, Any]:
    """Only the level is a list over HTTP, as Triton has it."""
    return {name: values if name == "trace_level" else ", ".join(values) for name, values in settings.items()}
