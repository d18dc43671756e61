"""Endpoints that change or show the server: repository, shared memory, trace and log settings."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from sluice.errors import InvalidRequest, Unsupported
from sluice.frontends.http import body, schema
from sluice.frontends.http.reply import Reply, json_reply
from sluice.frontends.http.routes import Call, Route

if TYPE_CHECKING:
    import msgspec

    from sluice.frontends.services import Services

T = TypeVar("T")

_FILE = "file:"


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

    async def index(self, call: Call) -> Reply:
        wanted = await self._json(call, schema.INDEX)
        return json_reply([asdict(row) for row in self._services.catalog.index(wanted.ready)])

    async def load(self, call: Call) -> Reply:
        sent = await self._json(call, schema.LOAD)
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
        await self._services.catalog.load(call.model, config, files)
        return json_reply({})

    async def unload(self, call: Call) -> Reply:
        sent = await self._json(call, schema.UNLOAD)
        await self._services.catalog.unload(call.model, sent.parameters.unload_dependents)
        return json_reply({})

    # Shared memory

    async def regions(self, call: Call) -> Reply:
        found = self._services.regions.status(call.path.get("region", ""))
        return json_reply([asdict(region) for region in found])

    async def register(self, call: Call) -> Reply:
        sent = await self._json(call, schema.REGION)
        self._services.regions.register(call.path["region"], sent.key, sent.offset, sent.byte_size)
        return json_reply({})

    async def unregister(self, call: Call) -> Reply:
        self._services.regions.unregister(call.path.get("region", ""))
        return json_reply({})

    async def cuda_regions(self, call: Call) -> Reply:
        return json_reply([])

    async def cuda_register(self, call: Call) -> Reply:
        raise Unsupported("CUDA shared memory is not supported; use system shared memory")

    async def cuda_unregister(self, call: Call) -> Reply:
        return json_reply({})  # clients clean up blindly before they start

    # Trace and log settings

    async def log(self, call: Call) -> Reply:
        return json_reply(self._services.switches.log())

    async def update_log(self, call: Call) -> Reply:
        changes = await self._json(call, schema.LOG)
        return json_reply(self._services.switches.update_log(changes))

    async def trace(self, call: Call) -> Reply:
        self._check_model(call)
        return json_reply(_trace(self._services.switches.trace(call.model)))

    async def update_trace(self, call: Call) -> Reply:
        self._check_model(call)
        sent = await self._json(call, schema.TRACE)
        changes = {
            name: value if value is None or isinstance(value, list) else [str(value)] for name, value in sent.items()
        }
        return json_reply(_trace(self._services.switches.update_trace(changes, call.model)))

    def _check_model(self, call: Call) -> None:
        """A model's settings need a model: this raises for one nobody knows."""
        if call.model:
            self._services.health.model_ready(call.model)

    async def _json(self, call: Call, decoder: msgspec.json.Decoder[T]) -> T:
        """The body as a typed value; an empty body is an empty object."""
        encodings = next((value for name, value in call.scope["headers"] if name == b"content-encoding"), b"")
        content = await body.read(call.receive, encodings, self._services.limits.max_message_bytes)
        return schema.decode(decoder, memoryview(content) if content else b"{}")


def _trace(settings: dict[str, list[str]]) -> dict[str, Any]:
    """Only the level is a list over HTTP, as Triton has it."""
    return {name: values if name == "trace_level" else ", ".join(values) for name, values in settings.items()}
