"""Builds the server from its parts, starts it from the inside out, and stops it from the outside in."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
import uvloop

from sluice.catalog import Catalog
from sluice.config import settings as config
from sluice.config.settings import Settings
from sluice.engine import Engine
from sluice.errors import SluiceError
from sluice.evaluation import ordinary
from sluice.frontends.grpc.server import GrpcServer
from sluice.frontends.http.server import HttpServer
from sluice.frontends.regions import Regions
from sluice.frontends.services import Services
from sluice.health import Condition, Health, Part
from sluice.inventory import IndexRow
from sluice.loading import Loader
from sluice.pressure import Memory
from sluice.reuse.answers import Reuse
from sluice.scheduler.loop import Scheduler
from sluice.scheduler.quarantine import Quarantine
from sluice.spec import BYTES, ModelSpec, TensorSpec
from sluice.store import learned
from sluice.store.bringing import Bringing
from sluice.store.trust import Trust
from sluice.telemetry import logs
from sluice.telemetry.exposition import MetricsServer
from sluice.telemetry.metrics import Metrics
from sluice.telemetry.record import Record
from sluice.telemetry.switches import Switches
from sluice.text.tokenizing import Tokenizing
from sluice.vitals import Disk, Relief, Vitals, allow_more_files, temporary_directory
from sluice.workers.pool import Pool

log = logging.getLogger("sluice.app")

# Seconds between two times of writing down what was learned: what a sudden end may cost.
_REMEMBER_EVERY = 60.0


# When garbage is looked for: among all that was made since the start ten times less often than Python does, since that
# takes milliseconds while a request of thousands of texts is in flight. What hides from the counts is little.
_COLLECT_AFTER = (700, 10, 100)


@dataclass(frozen=True)
class Announcement:
    """What a server that is ready has to say."""

    http: str
    grpc: str
    metrics: str
    models: list[IndexRow]
    curl: str  # a request that works as it stands; empty without models


@dataclass(frozen=True)
class CheckRow:
    """How one version fared in `sluice check`."""

    name: str
    version: str
    ok: bool
    reason: str
    seconds: float
    padding: str


class App:
    """A whole server, for as long as it lives."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        switches = Switches()
        record = Record(self._metrics, switches)
        self._scheduler = Scheduler(Quarantine(settings.scheduler.quarantine))
        self.pool = Pool(settings.workers, self._scheduler, record, settings.health)
        loader = Loader(settings.models, settings.scheduler, self.pool, self._scheduler, record)
        self.catalog = Catalog(settings.models, self.pool, loader, settings.health.ready_share)
        self._tokenizing = Tokenizing()
        self._reuse = _reuse(settings.response_cache)
        self.engine = Engine(self.catalog, record, self._tokenizing, self._reuse)
        self._vitals = self._watch_vitals()
        self.catalog.count_room(self._vitals.room)
        self.health = Health(
            self.catalog,
            vital=(self._vitals.parts, self._scheduler_parts),
            others=(self.pool.parts, self.catalog.parts),
        )
        self._vitals.notify = self.health.look
        self.catalog.notify = self.health.notify
        self.pool.notify = self.catalog.workers_changed
        self._regions = Regions(settings.server.shared_memory)
        services = Services(
            engine=self.engine,
            catalog=self.catalog,
            health=self.health,
            regions=self._regions,
            switches=switches,
            limits=settings.server,
            tenant_header=settings.scheduler.tenant_header,
        )
        self._http = HttpServer(services, settings.server)
        self._grpc = GrpcServer(services, settings.server)
        server = settings.server
        self._metrics_server = MetricsServer(self._metrics.registry, server.host, server.metrics_port)
        record.worker_states(self.pool.states)
        self._metrics.in_use = self.catalog.in_use
        self._metrics.cache_hits = loader.cache_hits
        self.catalog.follower.failed = self._metrics.load_failed
        self._remembering: asyncio.Task[None] | None = None

    def _watch_vitals(self) -> Vitals:
        def refuse(reason: str) -> None:
            self.engine.short_of_memory = self.catalog.short_of_memory = reason

        repository = self._settings.models.repository
        vitals = Vitals(
            Memory(self._settings.server.memory_budget),
            Relief(self._scheduler.squeeze, self.pool.trim, refuse),
            (
                Disk("repository", repository, lambda: learned.trouble.text),
                Disk("temporary files", temporary_directory()),
            ),
        )
        self._metrics.registry.register(vitals)
        return vitals

    def _scheduler_parts(self) -> list[Part]:
        broken = self._scheduler.broken
        return [Part("scheduler", "queues", Condition.FAILED if broken else Condition.OK, broken)]

    async def start(self) -> Announcement:
        """Listen first, so that liveness and progress can be seen while models load; ready comes last.

        Unless it is wanted the other way: a balancer without health checks sends requests to whoever listens.
        """
        self._vitals.start()
        metrics_port = await self._metrics_server.start()
        if self._settings.server.listen_early:
            http_port, grpc_port = await self._listen()
        await self.pool.start()
        if self._settings.models.pull == "missing":
            self.catalog.bringing = Bringing(self._settings.models.repository)
        await self.catalog.load_all()
        if not self._settings.server.listen_early:
            http_port, grpc_port = await self._listen()
        # What lives now lives long: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        self._remembering = asyncio.get_running_loop().create_task(self._remember())
        self.catalog.start()
        self.health.mark_started()
        host = self._settings.server.host
        reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        return Announcement(
            http=f"http://{reachable}:{http_port}",
            grpc=f"{reachable}:{grpc_port}",
            metrics=f"http://{reachable}:{metrics_port}/metrics",
            models=self.catalog.index(),
            curl=self._curl(f"http://{reachable}:{http_port}"),
        )

    async def _listen(self) -> tuple[int, int]:
        """The ports of HTTP and gRPC."""
        return await self._http.start(), await self._grpc.start()

    def _curl(self, url: str) -> str:
        row = next(iter(self.catalog.index(ready=True)), None)
        return curl(url, self.catalog.live(row.name).spec) if row is not None else ""

    async def _remember(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_REMEMBER_EVERY)
            await self.catalog.remember()

    async def stop(self, lame_duck: float) -> None:
        """From the outside in; whatever was accepted is answered."""
        # Unready first, and serving on: balancers and clients need a moment to notice.
        self.health.mark_stopping()
        await asyncio.sleep(lame_duck)
        # No new connections; what is open finishes its requests.
        self._http.stop_accepting()
        self._grpc.stop_accepting()
        # One limit for all that follows, so that whoever sent the signal can tell how long to wait.
        limit = self._settings.shutdown.drain_timeout
        until = asyncio.get_running_loop().time() + limit
        try:
            async with asyncio.timeout_at(until):
                await self.engine.drained()
        except TimeoutError:
            log.warning("requests not finished within %g s: %d", limit, self.engine.in_flight)
        # Idle connections get a moment to send what is on its way; then nothing new is accepted at all.
        left = max(0.0, until - asyncio.get_running_loop().time())
        await asyncio.gather(self._http.close(left), self._grpc.close(left))
        self.engine.close()
        await self.close()

    async def close(self) -> None:
        """Give everything back; what still waits is answered with an error."""
        self.engine.close()
        if self._remembering is not None:
            self._remembering.cancel()
        self._scheduler.close()
        await asyncio.gather(self._http.close(0), self._grpc.close(0))
        await self.catalog.close()
        await self.pool.close()
        self._tokenizing.close()
        if self._reuse is not None:
            await self._reuse.close()
        self._regions.close()
        await self._vitals.close()
        await self._metrics_server.close()

    def kill(self) -> None:
        """Leave at once, but leave nothing behind."""
        self.pool.kill()
        if self.catalog.bringing is not None:
            self.catalog.bringing.kill()
        self.catalog.remove_files()


def _reuse(settings: config.ResponseCache) -> Reuse | None:
    if not settings.bytes:
        return None
    if not settings.redis:
        return Reuse(settings)
    from sluice.reuse.redis import Redis

    return Reuse(settings, Redis(settings.redis))


def serve(settings: Settings, announce: Callable[[Announcement], None]) -> int:
    """Serve until a signal; the process's exit code."""
    logs.configure(settings.log)
    Trust(settings.models).prepare()
    # Beside the connections of both protocols there is what the server itself and its workers need.
    allow_more_files(2 * settings.server.max_connections + 256)
    return uvloop.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Callable[[Announcement], None]) -> int:
    app = App(settings)
    signals = _Signals(app)
    starting = asyncio.create_task(app.start())
    asked_to_stop = asyncio.create_task(signals.first())
    await asyncio.wait({starting, asked_to_stop}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        await app.close()
        return 0
    try:
        announcement = starting.result()
    except BaseException:
        asked_to_stop.cancel()
        await app.close()
        raise
    announce(announcement)
    number = await asked_to_stop
    log.info("stopping after %s", number.name)
    await app.stop(settings.shutdown.lame_duck if number is signal.SIGTERM else 0.0)
    log.info("stopped")
    return 0


class _Signals:
    """The first signal asks the server to stop, the second ends it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._first: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received, number)

    def _received(self, number: signal.Signals) -> None:
        if not self._first.done():
            self._first.set_result(number)
            return
        log.warning("stopping at once after a second signal")
        self._app.kill()
        os._exit(128 + number)

    async def first(self) -> signal.Signals:
        return await self._first


async def check(settings: Settings, names: list[str]) -> list[CheckRow]:
    """Load every version of the repository (or of the named models), run it, and say how it went.

    A version whose outputs are no numbers for ordinary input has a problem as well."""
    logs.configure(settings.log)
    Trust(settings.models).prepare()
    if names:
        settings = settings.model_copy(update={"models": settings.models.model_copy(update={"load": names})})
    async with _unserved(settings) as app:
        await app.catalog.load_all()
        return [await _checked(app.catalog, row) for row in app.catalog.index() if not names or row.name in names]


@asynccontextmanager
async def _unserved(settings: Settings) -> AsyncIterator[App]:
    """The inner parts of a server, without front ends."""
    app = App(settings)
    try:
        await app.pool.start()
        yield app
    finally:
        await app.close()


async def _checked(catalog: Catalog, row: IndexRow) -> CheckRow:
    try:
        version = catalog.live(row.name, row.version)
    except SluiceError:
        return CheckRow(row.name, row.version, False, row.reason, 0.0, "")
    trouble = version.trouble or await ordinary.trouble(version)
    reason = trouble or version.padding_reason
    return CheckRow(row.name, row.version, not trouble, reason, version.seconds, version.spec.padding.value)


def curl(url: str, spec: ModelSpec) -> str:
    """A command that asks the model for something and works as it stands."""
    inputs = [_example(tensor) for tensor in spec.inputs if tensor.fill is None]
    body = orjson.dumps({"inputs": inputs}).decode().replace("'", "'\\''")
    return f"curl -s {url}/v2/models/{spec.name}/infer -d '{body}'"


# "hello world" with the special tokens around it, in the vocabulary most encoders of English share.
_HELLO = [101, 7592, 2088, 102]


def _example(tensor: TensorSpec) -> dict[str, object]:
    length = len(_HELLO) if tensor.sequence_axis is not None else 1
    shape = [
        (length if axis == tensor.sequence_axis else 1) if size < 0 else size for axis, size in enumerate(tensor.shape)
    ]
    count = 1
    for size in shape:
        count *= size
    if tensor.name == "input_ids" and count == len(_HELLO):
        data: list[object] = list(_HELLO)
    else:
        data = [{BYTES: "hello", "BOOL": True}.get(tensor.datatype, 1)] * count
    return {"name": tensor.name, "shape": shape, "datatype": tensor.datatype, "data": data}
