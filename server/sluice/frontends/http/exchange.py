"""One HTTP request and its answer: the body as it comes, the reply as it leaves, and whether anyone still waits."""

from __future__ import annotations

import asyncio
import http
import logging
import time
import urllib.parse
from email.utils import formatdate
from typing import TYPE_CHECKING

from sluice.errors import Cancelled, InternalError, SluiceError, Stopping
from sluice.frontends.http.reply import REQUEST_ID, SMALL_BODY, Errors, Reply, error_reply, request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sluice.frontends.http.protocol import Connection

    Application = Callable[["Exchange"], Awaitable[Reply]]

_STATUS_LINES = {
    int(code): f"HTTP/1.1 {int(code)} {code.phrase}\r\n".encode() for code in http.HTTPStatus if int(code) >= 200
} | {499: b"HTTP/1.1 499 Client Closed Request\r\n"}

# Parts of an answer that are written in one turn of the event loop.
_WRITTEN = 8

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
    return b"".join((_head(reply, reply.length(), b"connection: close\r\n"), *reply.parts))


def _head(reply: Reply, length: int, connection: bytes) -> bytes:
    status = _STATUS_LINES.get(reply.status) or b"HTTP/1.1 %d \r\n" % reply.status
    end = b"content-length: %d\r\n%b\r\n" % (length, connection)
    return b"".join((status, _date.line(), *reply.headers, end))


class Exchange:
    """Collects the request's body, runs the application on it, and writes its reply."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_started",
        "_waiter",
        "_wanted",
        "answered",
        "body_bytes",
        "buffered",
        "cancel_on_disconnect",
        "content_length",
        "disconnected",
        "errors",
        "expects_continue",
        "failure",
        "headers",
        "keep_alive",
        "method",
        "more_body",
        "old",
        "path",
        "query",
        "raw_path",
    )

    def __init__(self, connection: Connection, method: str, raw_path: bytes, headers: Mapping[bytes, bytes]) -> None:
        self._connection = connection
        self.method = method
        self.raw_path = raw_path
        self.query = b""
        self.headers = headers  # by name in lower case
        self.path: Mapping[str, str] = {}  # what the path's named segments are
        self.keep_alive = True
        self.old = False  # HTTP/1.0
        self.expects_continue = False
        self.content_length: int | None = None
        self._chunks: list[bytes] = []
        self._wanted = False
        self._waiter: asyncio.Future[None] | None = None
        self.buffered = 0  # bytes of a body that nobody has asked for
        self.body_bytes = 0
        self.more_body = True
        self.failure: SluiceError | None = None
        self.errors: Errors = error_reply  # as the API that is asked has them
        self.disconnected = False
        self.cancel_on_disconnect = False
        self._started = False
        self.answered = False

    # What the connection tells

    def feed(self, body: bytes) -> None:
        self.body_bytes += len(body)
        if self.answered or self.failure is not None:
            return
        self._chunks.append(body)
        if not self._wanted:
            self.buffered += len(body)

    def finish(self) -> None:
        self.more_body = False
        self._wake()

    def fail(self, error: SluiceError) -> None:
        """The rest of the body will not come, or is not wanted."""
        self.failure = error
        self._forget_body()
        self._wake()

    def disconnect(self) -> bool:
        """Whether what runs for this exchange is to be cancelled: queued work that nobody waits for any more."""
        self.disconnected = True
        self._wake()
        return self.cancel_on_disconnect and not self.answered

    def _forget_body(self) -> None:
        self._chunks = []
        self.buffered = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the application asks

    @property
    def model(self) -> str:
        return self.path.get("model", "")

    @property
    def version(self) -> str:
        return self.path.get("version", "")

    def asked(self, name: str) -> str:
        """What the query says of `name`; empty if nothing."""
        found = urllib.parse.parse_qs(self.query.decode("latin-1")).get(name)
        return found[0] if found else ""

    def check(self) -> None:
        """Raise what is wrong with the request already."""
        if self.failure is not None:
            raise self.failure

    async def body(self) -> bytes:
        """The whole body as it was sent; a stalled or oversized one raises, as does a client that leaves."""
        if self.more_body:
            await self._receive_rest()
        self.check()
        if self.disconnected:
            raise Cancelled("the client went away")
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._forget_body()
        return body

    async def _receive_rest(self) -> None:
        self._wanted = True
        self.buffered = 0
        if self.expects_continue:
            self.expects_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._connection.resume_reading()
        if self.failure is None and not self.disconnected:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    # Its life

    async def run(self, application: Application) -> None:
        """Whatever the application does, the client gets an answer or a closed connection."""
        try:
            await self._answer(await self._ask(application))
        except asyncio.CancelledError:
            self.keep_alive = False
            if self._started:
                self._connection.abort()
            elif not self.disconnected:  # the server's time to stop is over
                self._write_whole(self.errors(Stopping("the server is stopping")))
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:
            _log.exception("cannot write the answer of %s %s", self.method, self.raw_path.decode())
            self._connection.abort()
        finally:
            self._connection.exchange_over(self)

    async def _ask(self, application: Application) -> Reply:
        try:
            return await application(self)
        except SluiceError as error:
            return self.errors(error)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:  # as panics of libraries are
            _log.exception("unexpected error in %s %s", self.method, self.raw_path.decode())
            return self.errors(InternalError("internal error"))

    async def _answer(self, reply: Reply) -> None:
        if not await self._client_listens():
            return
        if self.method == "HEAD" or reply.length() <= SMALL_BODY:
            self._write_whole(reply)
            return
        self._started = True
        self._connection.answers(reply.length())
        self._connection.write(self._make_head(reply))
        for number, part in enumerate(reply.parts):
            if not await self._client_listens():
                return
            self._connection.write(part)
            if number % _WRITTEN == _WRITTEN - 1:
                await asyncio.sleep(0)  # a client that reads fast must not keep the others waiting
        self._end()

    async def _client_listens(self) -> bool:
        """Whether the client is still there, once it has taken enough of what was written."""
        if self._connection.writing_paused:
            await self._connection.drained()
        return not self.disconnected

    def _write_whole(self, reply: Reply) -> None:
        parts = () if self.method == "HEAD" else reply.parts
        self._connection.write(b"".join((self._make_head(reply), *parts)))
        self._end()

    def _make_head(self, reply: Reply) -> bytes:
        self.keep_alive = self.keep_alive and not self._connection.should_close(self)
        if not self.keep_alive:
            connection = b"connection: close\r\n"
        else:
            connection = b"connection: keep-alive\r\n" if self.old else b""
        if reply.status >= 400:  # an answer that is good brings the id itself, since the body has the last word
            connection += request_id(self.headers.get(REQUEST_ID, b"").decode("latin-1"))
        return _head(reply, reply.length(), connection)

    def _end(self) -> None:
        self.answered = True
        self._forget_body()
