"""The HTTP server's life: listen, stop accepting, finish, close.

Stopping loses no request that can be kept. First the listening socket goes; connections the kernel had already
completed are taken in before, and none is completed meanwhile. From then on every answer carries `Connection: close`,
so a busy client is told on its next request. A connection that stays silent is closed only after a quiet moment and
only if nothing lies unread in its socket: what remains is a request that is on the wire at that instant, which no
HTTP/1.1 server can save.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from sluice.errors import ConfigError, system_reason
from sluice.frontends.http.api import Api
from sluice.frontends.http.crowd import Connections
from sluice.frontends.http.protocol import Connection
from sluice.frontends.listening import begin_no_more

if TYPE_CHECKING:
    from sluice.config.settings import Server
    from sluice.frontends.services import Services

BACKLOG = 2048

# A kept-alive connection is closed when nothing came on it for this long: clients under load come back sooner.
QUIET_SECONDS = 1.0

# What the last answers, those of requests given up at the end of the grace time, get to leave.
LAST_SECONDS = 1.0

_log = logging.getLogger(__name__)


class HttpServer:
    """Owns the listening socket and, through `Connections`, every connection accepted on it."""

    def __init__(self, services: Services, settings: Server) -> None:
        self._settings = settings
        self._connections = Connections(Api(services), settings, services.health.stopping)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._arriving: set[asyncio.Task[object]] = set()

    async def start(self) -> int:
        """Listen; returns the port. A port that is taken is the operator's error."""
        host, port = self._settings.host, self._settings.http_port
        try:
            self._socket = await asyncio.get_running_loop().run_in_executor(None, _bind, host, port)
        except OSError as error:
            raise ConfigError(f"server.http_port: cannot listen on {host}:{port}: {system_reason(error)}") from error
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=self._socket, backlog=BACKLOG)
        return int(self._socket.getsockname()[1])

    def stop_accepting(self) -> None:
        """Close the listening socket; connections that exist are served on, each until its next answer."""
        if self._server is None or self._connections.closing:
            return
        assert self._socket is not None
        self._connections.closing = True
        begin_no_more(self._socket)
        self._accept_the_last(self._socket)
        self._server.close()

    async def close(self, grace: float) -> None:
        """Finish what was received within `grace` seconds, then close every connection."""
        self.stop_accepting()
        if self._arriving:
            await asyncio.wait(self._arriving)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        await self._finish(deadline)
        if self._connections.open or self._connections.tasks:
            await self._give_up()
        self._server = None

    def _connection(self) -> Connection:
        return Connection(self._connections)

    def _accept_the_last(self, listener: socket.socket) -> None:
        """Take in the connections whose handshake is over, which closing the listening socket would reset."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            accepted.setblocking(False)
            task: asyncio.Task[object] = loop.create_task(self._take_in(accepted))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _take_in(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, accepted)
        except OSError:
            accepted.close()

    async def _finish(self, deadline: float) -> None:
        """Until nothing is in flight and the silent connections are closed; a change of any connection wakes it."""
        shared = self._connections
        loop = asyncio.get_running_loop()
        while shared.open and loop.time() < deadline:
            shared.changed.clear()
            wake = deadline
            for connection in list(shared.open):
                if connection.busy:
                    continue
                quiet_at = connection.idle_since + QUIET_SECONDS
                if quiet_at <= loop.time() and not connection.has_unread():
                    connection.close()
                else:
                    wake = min(wake, max(quiet_at, loop.time() + 0.01))
            try:
                async with asyncio.timeout_at(wake):
                    await shared.changed.wait()
            except TimeoutError:
                pass

    async def _give_up(self) -> None:
        shared = self._connections
        unanswered = sum(connection.busy for connection in shared.open)
        if unanswered:
            _log.warning("the time to stop is over; %d requests are given up", unanswered)
        for connection in list(shared.open):
            if connection.busy:
                connection.cancel()
            else:
                connection.close()
        if shared.tasks:
            await asyncio.wait(shared.tasks, timeout=LAST_SECONDS)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LAST_SECONDS
        for connection in list(shared.open):
            connection.close()
        while shared.open and loop.time() < deadline:
            shared.changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await shared.changed.wait()
            except TimeoutError:
                pass
        for connection in list(shared.open):
            connection.abort()


def _bind(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
