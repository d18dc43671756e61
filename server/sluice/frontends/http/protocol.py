"""One HTTP/1.1 connection: bytes to exchanges, in order, within limits of time and memory.

llhttp parses; this file decides what a client may make the server hold and for how long. Its law: every state in which
the client owes us something has a deadline (`_deadline`), everything a client can make us keep has a bound, and a
request that was understood gets its answer before the connection goes. Exchanges of one connection run one after the
other, as HTTP/1.1 wants their answers; those that arrive early wait in `_waiting`.

One timer serves all deadlines. It is moved only when a deadline comes closer; when it fires it looks at what is due and
sleeps on. A request that arrives in one piece therefore costs no timer at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import termios
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import httptools

from sluice.errors import InvalidRequest, ShortOfMemory, TooLarge, TooSlow
from sluice.frontends.http.exchange import Exchange, parting_words
from sluice.frontends.http.reply import plain_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluice.frontends.http.crowd import Connections
    from sluice.request import Buffer

# Requests one connection may have waiting behind the one being answered.
MOST_WAITING = 16  # reading pauses
MOST_PIPELINED = 256  # reached within one read: the rest is not answered and the connection closes

# Body bytes an exchange holds before reading pauses until the application takes them.
MOST_BUFFERED = 256 << 10

# How long a connection that was answered early swallows what the client still sends. Closing with unread input would
# reset it, and a reset destroys the answer before the client reads it.
LINGER_SECONDS = 5.0
MOST_SWALLOWED = 4  # messages of the largest size, after which the client may wait until the time is over

# Header lines of one request; each costs a call, so that a block of the allowed size could hold work for milliseconds.
MOST_HEADERS = 256

# An unread rest of a body up to this size is worth receiving to keep the connection.
SMALL_REMAINDER = 64 << 10

# Bytes a second below which a body that is sent, or an answer that is read, counts as standing still.
SLOWEST = 1024

# A connection that has been silent for this long may lose its place to a new one.
SILENT_SECONDS = 1.0

# A chunked body of one-byte chunks carries five bytes around each; what exceeds that is extensions or trailers.
CHUNK_OVERHEAD = 6

_FRAMING = (b"content-length", b"transfer-encoding")
_MALFORMED = "malformed HTTP request"


class Connection(asyncio.Protocol):
    """Parses, bounds and times one client's connection."""

    def __init__(self, shared: Connections) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._lingering_until = 0.0
        self._swallowed = 0
        self._discarding = False  # nothing more from this client will be understood
        # reading
        self._newest: Exchange | None = None
        self._last_data = 0.0
        self._body_started = 0.0
        self._reading_paused = False
        self._paused_at = 0.0
        self._in_headers = False
        self._upgrading = False
        self._replaying = False
        self._header_started = 0.0
        self._header_bytes = 0
        self._body_wire_bytes = 0
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_size = self._header_lines = 0
        # answering
        self._running: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Exchange] = deque()
        self.writing_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._unwritten = 0
        self._write_progress = 0.0
        self._answering = 0  # bytes of the answer that is being written in parts
        self._kept = 0  # bytes that we would not hold if the client sent and read as it should
        self.idle_since = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._last_data = self.idle_since = self._loop.time()
        if self._shared.admit(self):
            self._arm(self.idle_since + self._limits.keep_alive)
        else:
            self._turn_away()

    def connection_lost(self, error: Exception | None) -> None:
        self._shared.leave(self)
        self._kept = 0
        self._discarding = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        if self._running is not None and self._running.disconnect():
            self.cancel()
        self._waiting.clear()
        self._parser = None

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            self._swallow(len(data))
            return
        self._last_data = self._loop.time()
        newest = self._newest
        in_headers = self._in_headers
        in_body = not in_headers and newest is not None and newest.more_body
        if in_body and newest is not None:
            self._body_wire_bytes += len(data)
            if self._body_wire_bytes > CHUNK_OVERHEAD * newest.body_bytes + len(data) + self._limits.max_header_bytes:
                self._refuse(400, f"{_MALFORMED}: the body's chunks are mostly framing")
                return
        self._parse(data)
        if self._kept or self._waiting or (self._newest is not None and self._newest.more_body):
            self._account()
        if self._in_headers:
            if not in_headers and self._running is None:
                self._shared.waits_for(self)
            # Headers that began behind another request in this read are counted from the next read on.
            if in_headers or (self._newest is newest and not in_body):
                self._header_bytes += len(data)
            if self._header_bytes > self._limits.max_header_bytes:
                self._refuse_headers()
            else:
                self._arm(self._header_started + self._limits.header_timeout)
        elif self._newest is not None and self._newest.more_body:
            self._arm(self._body_deadline())

    def eof_received(self) -> bool:
        """A client that stops sending has gone: half-closed and closed look the same."""
        if self._transport.get_write_buffer_size():
            self._watch_writing()  # it is closed when that is sent, which may be never
        return False

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._watch_writing()
        self._account()

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._kept:
            self._account()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # Parsing

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._continue_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400, _MALFORMED)

    def _continue_without_upgrade(self, rest: bytes) -> None:
        """Go on in HTTP/1.1: a client may offer another protocol (h2c, say) and we may ignore it.

        llhttp takes all that follows the headers for that protocol, the body included. A fresh parser, shown only the
        headers that frame the body, reads it.
        """
        self._upgrading = False
        self._parser = httptools.HttpRequestParser(self)
        framing = [name + b": " + self._headers[name] for name in _FRAMING if name in self._headers]
        self._replaying = True
        self._parse(b"\r\n".join([b"POST / HTTP/1.1", *framing, b"", b""]))
        self._replaying = False
        if rest and not self._discarding:
            self._parse(rest)

    def on_message_begin(self) -> None:
        if self._discarding:
            raise InvalidRequest(_MALFORMED)
        if self._replaying:
            return
        self._in_headers = True
        self._header_started = self._last_data
        self._header_bytes = 0
        self._url = b""
        self._headers = {}
        self._header_size = self._header_lines = 0

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_headers:
            return  # a trailer, or replayed
        self._headers[name.lower()] = value
        self._header_size += len(name) + len(value)
        self._header_lines += 1
        if self._header_lines > MOST_HEADERS:
            self._refuse_headers()
            raise InvalidRequest(_MALFORMED)

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        self._in_headers = False
        self._shared.heard(self)
        self._body_started = self._last_data
        self._body_wire_bytes = 0
        if len(self._url) + self._header_size > self._limits.max_header_bytes:
            self._refuse_headers()
            raise InvalidRequest(_MALFORMED)
        if len(self._waiting) >= MOST_PIPELINED:
            self._refuse(400, _MALFORMED)
            raise InvalidRequest(_MALFORMED)
        exchange = self._make_exchange()
        self._upgrading = self._parser.should_upgrade()
        self._newest = exchange
        if self._running is None:
            self._start(exchange)
        else:
            self._waiting.append(exchange)
            if self._far_behind():
                self._pause_reading()

    def _make_exchange(self) -> Exchange:
        parser, headers = self._parser, self._headers
        url = self._url if self._url.startswith(b"/") else httptools.parse_url(self._url).path or b"/"
        raw_path, _, query = url.partition(b"?")
        if not raw_path.isascii():
            raise InvalidRequest(_MALFORMED)
        exchange = Exchange(self, parser.get_method().decode("ascii"), raw_path, headers)
        exchange.query = query
        exchange.keep_alive = parser.should_keep_alive()
        exchange.old = parser.get_http_version() == "1.0"
        if b"content-length" in headers:
            length = exchange.content_length = int(headers[b"content-length"])
            if length > self._limits.max_message_bytes:
                exchange.fail(
                    TooLarge(f"a body of {length} bytes is over the limit of {self._limits.max_message_bytes}")
                )
        if b"expect" in headers:
            exchange.expects_continue = headers[b"expect"].lower() == b"100-continue"
        return exchange

    def on_body(self, body: bytes) -> None:
        newest = self._newest
        assert newest is not None
        newest.feed(body)
        if newest.body_bytes > self._limits.max_message_bytes and newest.failure is None:
            newest.fail(TooLarge(f"the body is over the limit of {self._limits.max_message_bytes} bytes"))
        elif newest.buffered > MOST_BUFFERED or (self._waiting and self._far_behind()):
            self._pause_reading()

    def on_message_complete(self) -> None:
        if self._newest is not None and not self._upgrading:
            self._newest.finish()

    # Refusing

    def _refuse_headers(self) -> None:
        limits = f"{self._limits.max_header_bytes} bytes or {MOST_HEADERS} lines"
        self._refuse(431, f"the request's headers are over the limit of {limits}")

    def _turn_away(self) -> None:
        """Tell a newcomer for whom there is no place. It goes before anybody else does when others come."""
        reply = plain_error(503, f"the server has {self._limits.max_connections} connections, which is all it may")
        reply.headers.append(b"retry-after: 1\r\n")
        self.write(parting_words(reply))
        self._linger()

    def _refuse(self, status: int, message: str) -> None:
        """Understand nothing more from this client; answer what was understood, then close."""
        if self._discarding:
            return
        self._discarding = True
        self._in_headers = False
        newest = self._newest
        if newest is None or (newest.answered and not newest.more_body):
            self.write(parting_words(plain_error(status, message)))
            self._linger()
        elif newest.answered:
            self._linger()
        elif newest.more_body:
            newest.fail(InvalidRequest(message))
        self.resume_reading()

    def _linger(self) -> None:
        """Say that nothing more comes, and swallow what the client is still sending."""
        self._discarding = True
        self._lingering_until = self._loop.time() + LINGER_SECONDS
        self._shared.goes_first(self)
        self.resume_reading()
        self._arm(self._lingering_until)
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
            self._transport.write_eof()

    def _swallow(self, size: int) -> None:
        """Take note of input that nobody wants. A client that goes on beyond all reason may wait till we are gone."""
        self._swallowed += size
        if self._swallowed > MOST_SWALLOWED * self._limits.max_message_bytes:
            self._pause_reading()

    # Deadlines

    def _arm(self, when: float) -> None:
        timer = self._timer
        if timer is None or timer.when() > when:
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(when, self._look)

    def _deadline(self) -> tuple[float, Callable[[], None]] | None:
        """Until when the client has to do something, and what happens otherwise; None: it is our turn."""
        if self.writing_paused or self._transport.is_closing():
            return self._write_progress + self._limits.body_timeout, self.abort
        if self._lingering_until:
            return self._lingering_until, self.abort
        if self._reading_paused or self._discarding:
            return None
        if self._in_headers:
            return self._header_started + self._limits.header_timeout, self._refuse_slow_headers
        if self._newest is not None and self._newest.more_body:
            return self._body_deadline(), self._refuse_slow_body
        if self._running is None:
            return self.idle_since + self._limits.keep_alive, self.close
        return None

    def _body_deadline(self) -> float:
        """No silence may be long, nor may all of them together be out of proportion to what was sent."""
        assert self._newest is not None
        sent = self._newest.body_bytes / SLOWEST
        return min(self._last_data, self._body_started + sent) + self._limits.body_timeout

    def _watch_writing(self) -> None:
        """From now on the client has to take what is written; what it takes gives it more time."""
        self._unwritten = self._transport.get_write_buffer_size()
        self._write_progress = self._loop.time()
        self._arm(self._write_progress + self._limits.body_timeout)

    def _look(self) -> None:
        self._timer = None
        unwritten, now = self._transport.get_write_buffer_size(), self._loop.time()
        if self._unwritten - unwritten > SLOWEST * (now - self._write_progress):
            self._unwritten = unwritten
            self._write_progress = now
        due = self._deadline()
        if due is not None:
            when, act = due
            if when <= now:
                act()
            else:
                self._arm(when)

    def _refuse_slow_headers(self) -> None:
        self._refuse(408, f"the request's headers took longer than {self._limits.header_timeout:g} s")

    def _refuse_slow_body(self) -> None:
        assert self._newest is not None
        if self._newest.answered:
            self.close()
        else:
            self._discarding = True
            self._newest.fail(TooSlow(f"the request's body stood still for {self._limits.body_timeout:g} s"))

    # What is kept

    def _account(self) -> None:
        """Count what is held only because the client does not send the rest of it, or does not read."""
        if self not in self._shared.open:
            return  # it has left, and owes nothing any more
        newest = self._newest
        kept = self._answering if self.writing_paused else 0
        if newest is not None and newest.more_body and newest.failure is None and not newest.answered:
            kept += newest.body_bytes
        kept += sum(exchange.buffered for exchange in self._waiting if exchange is not newest)
        if self.writing_paused:
            kept = max(kept, self._transport.get_write_buffer_size())
        if kept != self._kept:
            self._kept = kept
            self._shared.keep(self, kept)

    def _far_behind(self) -> bool:
        """So much of what the client sent early waits for its turn that no more is read."""
        waiting = self._waiting
        return len(waiting) >= MOST_WAITING or sum(exchange.buffered for exchange in waiting) > MOST_BUFFERED

    def answers(self, size: int) -> None:
        """An answer too large to be written at once is about to be; all of it is held until the last part is out."""
        self._answering = size

    # What exchanges call

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        self._task = self._loop.create_task(exchange.run(self._shared.application))
        self._shared.tasks.add(self._task)

    def should_close(self, exchange: Exchange) -> bool:
        """Whether an answer that starts now is the connection's last."""
        if exchange is self._newest and (self._discarding or self._shared.draining()):
            return True
        if not exchange.more_body:
            return False
        if exchange.failure is not None or exchange.expects_continue or exchange.content_length is None:
            return True
        return exchange.content_length - exchange.body_bytes > SMALL_REMAINDER

    def exchange_over(self, exchange: Exchange) -> None:
        assert self._task is not None
        self._shared.tasks.discard(self._task)
        self._running = self._task = None
        self._answering = 0
        if self._transport.is_closing():
            return
        if self._kept:
            self._account()
        if not exchange.keep_alive:
            if exchange.more_body or exchange is not self._newest or self._discarding:
                self._waiting.clear()
                self._linger()
            else:
                self.close()
            return
        if self._waiting:
            self._start(self._waiting.popleft())
        else:
            self.idle_since = self._loop.time()
            self._arm(self.idle_since + self._limits.keep_alive)
            self._shared.waits_for(self)
            if self._shared.closing:
                self._shared.changed.set()
        self.resume_reading()

    def write(self, data: Buffer) -> None:
        self._transport.write(data)

    async def drained(self) -> None:
        """Returns when the client has taken enough of what was written, or has gone."""
        while self.writing_paused:
            if self._writable is None or self._writable.done():
                self._writable = self._loop.create_future()
            await self._writable

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._paused_at = self._loop.time()
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading_paused or self._transport.is_closing():
            return
        newest = self._newest
        if self._far_behind() or (newest is not None and newest.buffered > MOST_BUFFERED):
            return
        self._reading_paused = False
        self._last_data = self._loop.time()
        self._body_started += self._last_data - self._paused_at
        self._transport.resume_reading()
        if newest is not None and newest.more_body:
            self._arm(self._body_deadline())

    # What the others of the crowd need

    def may_go(self) -> bool:
        """Whether it has been silent long enough to make room for another, with nothing of it on its way."""
        if self._lingering_until:
            return True
        silent_since = self._header_started if self._in_headers else self.idle_since
        return self._loop.time() - silent_since >= SILENT_SECONDS and not self.has_unread()

    def give_up(self) -> None:
        """Stop keeping what the client has let us keep for too long, when others need the room."""
        self._kept = 0
        newest = self._newest
        if self.writing_paused or newest is None or newest.answered or not newest.more_body:
            self.abort()
            return
        self._discarding = True
        newest.fail(ShortOfMemory("too much is held for requests that are sent slowly", retry_after=1.0))

    # What the server calls

    @property
    def busy(self) -> bool:
        """A request is being received or answered."""
        return self._running is not None or bool(self._waiting) or self._in_headers

    def has_unread(self) -> bool:
        """Something the client sent lies in the socket, not yet seen by the event loop."""
        if self._transport.is_closing():
            return False
        waiting = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
        return any(waiting)

    def cancel(self) -> None:
        """Give up what is being answered; the client is told."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Close when everything written has been sent."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._watch_writing()

    def abort(self) -> None:
        self._transport.abort()
