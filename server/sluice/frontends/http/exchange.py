"""One HTTP request and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import http
import logging
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from sluice.errors import InternalError, SluiceError, Stopping
from sluice.frontends.http.reply import Reply, error_reply, send_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sluice.frontends.http.asgi import Application, Message, Scope
    from sluice.frontends.http.protocol import Connection
    from sluice.request import Buffer

# In the scope: registers what is called, once, if the client goes away before it has its answer. Costs nothing until
# then, where waiting for an "http.disconnect" message would cost a task per request.
ON_DISCONNECT = "sluice.on_disconnect"

# Up to here head and body are joined and written at once, which is cheaper than handing over two buffers.
SMALL_BODY = 16 << 10

_STATUS_LINES = {
    int(code): f"HTTP/1.1 {int(code)} {code.phrase}\r\n".encode() for code in http.HTTPStatus if int(code) >= 200
} | {499: b"HTTP/1.1 499 Client Closed Request\r\n"}

_log = logging.getLogger(__name__)


class _Date:
    """The Date header, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = b"date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
        return self._line


_date = _Date()


def parting_words(reply: Reply) -> bytes:
    """A whole answer for a client whose request never became an exchange."""
    headers = b"".join(b"%b: %b\r\n" % header for header in reply.headers)
    closing = b"content-length: %d\r\nconnection: close\r\n\r\n" % reply.length()
    return b"".join((_status_line(reply.status), _date.line(), headers, closing, *reply.parts))


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class Exchange:
    """Buffers the request's body as it comes, writes the answer as it is made, and knows whether anyone still waits."""

    __slots__ = (
        "_body_left",
        "_chunked",
        "_connection",
        "_delivered",
        "_disconnect",
        "_head",
        "_started",
        "_waiter",
        "answered",
        "body_bytes",
        "buffered",
        "chunks",
        "content_length",
        "disconnected",
        "expects_continue",
        "failure",
        "keep_alive",
        "more_body",
        "scope",
    )

    def __init__(self, connection: Connection, scope: Scope, keep_alive: bool) -> None:
        self._connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects_continue = False
        self.content_length: int | None = None
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.body_bytes = 0
        self.more_body = True
        self.failure: SluiceError | None = None
        self.disconnected = False
        self.answered = False
        self._delivered = False
        self._waiter: asyncio.Future[None] | None = None
        self._disconnect: Callable[[], object] | None = None
        self._started = False
        self._head = b""
        self._chunked = False
        self._body_left = -1  # of the answer's announced length; -1 = none was announced
        scope[ON_DISCONNECT] = self.on_disconnect

    # What the connection tells

    def feed(self, body: bytes) -> None:
        self.body_bytes += len(body)
        if self.answered or self.failure is not None:
            return
        self.chunks.append(body)
        self.buffered += len(body)
        self._wake()

    def finish(self) -> None:
        self.more_body = False
        self._wake()

    def fail(self, error: SluiceError) -> None:
        """The rest of the body will not come, or is not wanted."""
        self.failure = error
        self.chunks.clear()
        self._wake()

    def disconnect(self) -> None:
        if self.answered or self.disconnected:
            return
        self.disconnected = True
        self._wake()
        if self._disconnect is not None:
            self._disconnect()

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        self._disconnect = callback
        if self.disconnected:
            callback()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the application does

    async def run(self, application: Application) -> None:
        """The life of the request; whatever the application does, the client gets an answer or a closed connection."""
        try:
            if self.failure is not None:
                raise self.failure
            await application(self.scope, self.receive, self.send)
            if not self.answered and not self.disconnected:
                raise RuntimeError("the application ended without an answer")
        except asyncio.CancelledError:
            if not self.disconnected:  # the server's time to stop is over; a client that left needs no answer
                await self._give_up(Stopping("the server is stopping"))
        except SluiceError as error:
            await self._give_up(error)
        except Exception:
            _log.exception("unexpected error in %s %s", self.scope["method"], self.scope["path"])
            await self._give_up(InternalError("internal error"))

    async def _give_up(self, error: SluiceError) -> None:
        if self._started:
            self._connection.abort()
        else:
            self.keep_alive = False
            await send_reply(error_reply(error), self.send)

    async def receive(self) -> Message:
        while True:
            if self.failure is not None:
                raise self.failure
            if self.disconnected or self.answered:
                return {"type": "http.disconnect"}
            if self.chunks or not (self.more_body or self._delivered):
                body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
                self.chunks = []
                self.buffered = 0
                self._delivered = not self.more_body
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            if self.expects_continue:
                self.expects_continue = False
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._started:
                raise RuntimeError("the answer was started twice")
            self._started = True
            self._head = self._make_head(message["status"], message.get("headers", ()))
            return
        if not self._started or self.answered:
            raise RuntimeError("a body without a start, or after the end of its answer")
        if self._connection.writing_paused and not self.disconnected:
            await self._connection.drained()
        if self.disconnected:
            return
        last = not message.get("more_body", False)
        self._write(message.get("body", b""), last)
        if last:
            self.answered = True
            if self._body_left > 0:
                self.keep_alive = False
            self._wake()
            self._connection.exchange_answered(self)

    def _make_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = [_status_line(status), _date.line()]
        for name, value in headers:
            if b"\n" in value or b"\r" in value or b"\n" in name:
                raise RuntimeError("a line break in a header")
            lines += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._body_left = int(value)
        old = self.scope["http_version"] == "1.0"
        empty = self.scope["method"] == "HEAD" or status in (204, 304)
        if empty:
            self._body_left = 0
        elif self._body_left < 0:
            self._chunked = not old
            self.keep_alive = self.keep_alive and not old
        self.keep_alive = self.keep_alive and not self._connection.should_close(self)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif old:
            lines.append(b"connection: keep-alive\r\n")
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _write(self, body: Buffer, last: bool) -> None:
        write = self._connection.write
        head, self._head = self._head, b""
        if head and not self._chunked and len(body) <= min(self._body_left, SMALL_BODY):
            self._body_left -= len(body)
            write(b"".join((head, body)))
            return
        if head:
            write(head)
        if self._chunked:
            if body:
                write(b"%x\r\n" % len(body))
                write(body)
                write(b"\r\n")
            if last:
                write(b"0\r\n\r\n")
        elif self._body_left < 0:
            write(body)
        elif body and self._body_left:
            if len(body) > self._body_left:
                raise RuntimeError("the answer is longer than its content-length")
            self._body_left -= len(body)
            write(body)
