"""The metrics port: a few lines of HTTP, apart from the front ends so that it answers whatever they do.

Every connection serves one request and ends, within fixed limits of time, size and number; what reaches those limits is
closed. Samples are taken on the event loop, where the numbers are written, so a scrape sees one moment; only their
rendering runs in a thread.
"""

import asyncio
import gzip
import logging
from collections.abc import Iterable
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest, gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sluice.errors import ConfigError, system_reason

LOG = logging.getLogger("sluice.metrics")

HEADER_LIMIT = 16 << 10  # bytes
READ_TIMEOUT = 5.0  # seconds for reading a request and making its reply
WRITE_TIMEOUT = 10.0  # seconds for the whole reply
MOST_CONNECTIONS = 64

_HINT = b"Sluice's metrics are at /metrics.\n"


class _Moment(Collector):
    """Families that were already collected, for an encoder."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class MetricsServer:
    """Serves a registry on GET /metrics."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._registry = registry
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen; the port that was bound."""
        try:
            self._server = await asyncio.start_server(self._connected, self._host, self._port, limit=HEADER_LIMIT)
        except OSError as error:
            place = f"{self._host}:{self._port}"
            raise ConfigError(f"server.metrics_port: cannot listen on {place}: {system_reason(error)}") from error
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening and end what is being answered."""
        if self._server is not None:
            self._server.close()
            self._server = None
        ending = list(self._connections)
        for connection in ending:
            connection.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                reply = await self._exchange(reader)
            async with asyncio.timeout(WRITE_TIMEOUT):
                writer.write(reply)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            pass  # too slow, or gone: nobody is left to be told
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _reply(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return await self._answer(head)

    async def _answer(self, head: bytes) -> bytes:
        request, _, rest = head.decode("latin-1").partition("\r\n")
        words = request.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _reply(HTTPStatus.BAD_REQUEST)
        method, path = words[0], words[1].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _reply(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        if path == "/":
            reply = _reply(HTTPStatus.OK, {"Content-Type": "text/plain; charset=utf-8"}, _HINT)
        elif path == "/metrics":
            reply = await self._metrics(_headers(rest))
        else:
            reply = _reply(HTTPStatus.NOT_FOUND)
        return reply if method == "GET" else reply[: reply.index(b"\r\n\r\n") + 4]

    async def _metrics(self, headers: dict[str, str]) -> bytes:
        try:
            moment = _Moment(list(self._registry.collect()))
            return await asyncio.to_thread(_render, moment, headers)
        except Exception:
            LOG.exception("cannot show metrics")
            return _reply(HTTPStatus.INTERNAL_SERVER_ERROR)


def _headers(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.split("\r\n"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _render(moment: _Moment, headers: dict[str, str]) -> bytes:
    try:
        encode, content_type = choose_encoder(headers.get("accept", ""))
        body = encode(moment)
    except (TypeError, ValueError):  # the client asked for a version that is no number
        content_type, body = CONTENT_TYPE_PLAIN_0_0_4, generate_latest(moment)
    fields = {"Content-Type": content_type}
    if gzip_accepted(headers.get("accept-encoding", "")):
        fields["Content-Encoding"] = "gzip"
        body = gzip.compress(body, compresslevel=1)
    return _reply(HTTPStatus.OK, fields, body)


def _reply(status: HTTPStatus, headers: dict[str, str] | None = None, body: bytes | None = None) -> bytes:
    body = f"{status.phrase}\n".encode() if body is None else body
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
