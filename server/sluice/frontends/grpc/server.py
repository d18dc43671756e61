"""The gRPC server: its limits, its start and its stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import grpc.aio

from sluice.config.settings import Server
from sluice.errors import ConfigError, system_reason
from sluice.frontends.grpc import health, servicer
from sluice.frontends.grpc.admin import Admin
from sluice.frontends.grpc.call import Methods
from sluice.frontends.grpc.door import QUIET_SECONDS, Door
from sluice.frontends.grpc.handlers import Handlers
from sluice.frontends.grpc.health import HealthServicer
from sluice.frontends.grpc.reflection import ReflectionServicer
from sluice.frontends.grpc.sending import Sending
from sluice.frontends.grpc.servicer import Servicer
from sluice.frontends.grpc.streams import Streams

if TYPE_CHECKING:
    from sluice.frontends.services import Services

# Calls one connection may have open; clients keep the others back themselves, but for those that they open in place
# of cancelled ones before we know of the cancel: these are refused, and not all clients try again. So it must not be
# small. Without a bound, streams that are opened and reset at once pile up faster than Python can look at them: two
# such clients took 2 GiB in four seconds and nobody else was answered for minutes. With 512, four clients that send
# giant metadata still take most of what the others get over gRPC; with 320 they take next to nothing.
MOST_STREAMS = 320

# Calls of all connections that were read and wait for Python, each of some ten kilobytes; grpc cancels what comes then.
MOST_PENDING = 16_384

# A connection without calls is told to go after so long, in good order: its client connects again for its next call.
IDLE_SECONDS = 300.0

# How long clients are waited for that can neither be asked to leave nor stop sending, before streams are ended.
_ASKING_SECONDS = 1.0


class _ClientsThatLeft(logging.Filter):
    """grpc logs an error with its whole stack for every client that leaves while its reply is being sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("ExecuteBatchError raised in core by servicer method")


_clients_that_left = _ClientsThatLeft()


class GrpcServer:
    """Serves `services` on one port from `start()` to `close()`."""

    def __init__(self, services: Services, settings: Server) -> None:
        self._services = services
        self._settings = settings
        self._streams = Streams()
        self._server: grpc.aio.Server | None = None
        self._door = Door(0)
        self._leaving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens; the port is returned."""
        logging.getLogger("grpc._cython.cygrpc").addFilter(_clients_that_left)
        server = grpc.aio.server(options=_options(self._settings))
        sending = Sending(
            self._settings.max_message_bytes, self._settings.body_timeout, lambda peer: self._door.cut(peer)
        )
        server.add_generic_rpc_handlers((Handlers(self._methods(), sending),))
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = server.add_insecure_port(address)
        except RuntimeError as error:
            reason = await asyncio.to_thread(_obstacle, host, port)
            raise ConfigError(f"server.grpc_port: cannot listen on {address}: {reason}") from error
        await server.start()
        self._server = server
        self._door = Door(bound, large=lambda: sending.held > 0)
        return bound

    def stop_accepting(self) -> None:
        """Refuses new connections and asks those there are to leave; until they do, their calls are served."""
        if self._server is not None and self._leaving is None:
            self._leaving = asyncio.create_task(self._see_off())

    async def _see_off(self) -> None:
        """Until no client is inside, or none sends anything."""
        await self._door.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASKING_SECONDS):
                await self._door.asked()
        if self._streams.open:
            await asyncio.sleep(
                QUIET_SECONDS
            )  # who was asked opens no more streams; those there are may end by themselves
        self._streams.close()
        await self._door.empty()

    async def close(self, grace: float) -> None:
        """Stops once the clients have left; calls that are still at work after `grace` seconds are cancelled."""
        self.stop_accepting()
        if self._server is None or self._leaving is None:
            return
        until = asyncio.get_running_loop().time() + grace
        await asyncio.wait({self._leaving}, timeout=grace)
        self._leaving.cancel()
        self._streams.close()
        await self._server.stop(max(0.0, until - asyncio.get_running_loop().time()))

    def _methods(self) -> Methods:
        return (
            Servicer(self._services, self._streams).methods()
            | Admin(self._services).methods()
            | HealthServicer(self._services.health, self._streams).methods()
            | ReflectionServicer((servicer.SERVICE, health.SERVICE), self._streams).methods()
        )


def _obstacle(host: str, port: int) -> str:
    """Why nobody can listen there, which grpc does not tell."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        return system_reason(error)
    return "grpc was refused it"


def _options(settings: Server) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Between the first, at which grpc begins to refuse, and the second it does so by chance.
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        # Two servers on one port would share its clients silently.
        ("grpc.so_reuseport", 0),
        # Beyond it grpc closes a connection as it accepts it, whatever the others do.
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_connection_idle_ms", int(IDLE_SECONDS * 1000)),
        ("grpc.max_concurrent_streams", MOST_STREAMS),
        # From a thousand calls on that were read but not handed over grpc cancels some of them by chance. What is
        # refused is refused by us, with a reason, until there are so many that none of them has a chance.
        ("grpc.server.max_pending_requests", MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
        ("grpc.server_handshake_timeout_ms", int(settings.header_timeout * 1000)),
        # Clients may ping as often as they like; who has not answered ours for that long is gone.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
