"""The gRPC server's way out: nobody new comes in, everybody inside is asked to leave, and nothing good is cut off.

grpcio knows one way to stop: it sends GOAWAY and from that moment cancels every call that it has not handed over yet,
those included that were on the wire before their client could know. Under load that is nearly one call of each caller.
What is missing, the time between saying good-bye and refusing, is made here, on the sockets, before grpcio stops:

1. The listening socket is replaced by one that does not listen, so that connecting is refused as if nobody were there,
   and balancers try the next server at once. grpcio will only ever shut its descriptor and close it.
2. Each connection gets a GOAWAY frame that allows every stream. (RFC 9113, 6.8 wants two for just this purpose; the
   second is grpcio's own.) The client opens no further stream on it; those under way finish, and then it closes.

The law of the second step: a frame may be written only between two of grpcio's. grpcio writes whole frames, and where
the kernel cuts a write short the send queue is full. So a connection is told when two looks in a row find next to
nothing in its send queue, and, while there are replies that the kernel may have cut, nothing sent in between: the queue
may be empty because grpcio has not yet come to write the rest. One where that is never so, because its client does not
read, is left to grpcio's own stop.

Who does harm can be shown out at any time, which grpcio has no way to do either.

Descriptors belong to grpcio, which may close them at any moment and see their numbers given away. So everything is done
on a duplicate whose address was looked at. And it needs plain text: under TLS a frame would have to be a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import termios
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sluice.frontends.listening import begin_no_more, waiting

# Between two looks at the connections.
LOOK_SECONDS = 0.03

# In which grpcio accepts the connections that had come before the end.
ACCEPTING_SECONDS = 0.5

# A client that sent nothing for so long has nothing on its way.
QUIET_SECONDS = 1.0

# Eight bytes of payload, type GOAWAY, no flags, stream 0; every stream up to the highest is allowed, NO_ERROR.
GOAWAY = struct.pack(">IBIII", 8 << 8 | 7, 0, 0, 0x7FFFFFFF, 0)

# Bytes; the smallest send buffer that Linux gives by itself is twice that.
NEXT_TO_NOTHING = 8 << 10

# Offsets in struct tcp_info, which only ever grows at its end.
_STATE, _LAST_DATA_RECEIVED, _BYTES_SENT, _TCP_INFO = 0, 52, 200, 208
_ESTABLISHED = 1

Connection = tuple[int, object]  # the descriptor, and the address at the other end


@dataclass(frozen=True, slots=True)
class Inside:
    """Who is still there."""

    connections: int
    unasked: int  # of them who could not be asked to leave yet
    silence: float  # seconds since any of them sent something


@dataclass(slots=True)
class Door:
    """The listening socket of a gRPC server and the connections it let in, as the kernel knows them."""

    port: int
    large: Callable[[], bool] = bool  # replies are on their way that the kernel may take in parts
    _asked: set[Connection] = field(default_factory=set)
    _next: dict[Connection, int] = field(default_factory=dict)  # who can be asked if the next look agrees: bytes sent
    _looking: threading.Lock = field(default_factory=threading.Lock)  # a look that nobody awaits any more goes on

    async def close(self) -> None:
        """Refuse whoever comes from now on, and nobody who came before."""
        for _, listener in self._listeners():
            begin_no_more(listener)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACCEPTING_SECONDS):
                await self._all_accepted()
        for descriptor, listener in self._listeners():
            # Suppressed: no descriptor is left for another socket.
            with contextlib.suppress(OSError), socket.socket(listener.family, socket.SOCK_STREAM) as deaf:
                os.dup2(deaf.fileno(), descriptor, inheritable=False)

    async def _all_accepted(self) -> None:
        """The kernel tells nobody of this either."""
        while True:
            if not any(waiting(listener) for _, listener in self._listeners()):
                return
            await asyncio.sleep(LOOK_SECONDS / 10)

    def cut(self, peer: str) -> None:
        """Shut the connection of this peer, as grpc names it. Where there are many it takes milliseconds.

        grpcio learns of it as of any connection that breaks.
        """
        for _, duplicate in self._sockets():
            with contextlib.suppress(OSError):
                if _name(duplicate.getpeername()) == peer:
                    duplicate.shutdown(socket.SHUT_RDWR)

    async def asked(self) -> None:
        """Until everybody who is inside was asked to leave."""
        await self._until(lambda inside: not inside.unasked)

    async def empty(self) -> None:
        """Until everybody has left, or is silent."""
        await self._until(lambda inside: not inside.connections or inside.silence >= QUIET_SECONDS)

    async def _until(self, condition: Callable[[Inside], bool]) -> None:
        """The kernel tells nobody, so that only looking again helps; a cancel ends it as well."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            if condition(await self.look()):
                return
            # With thousands of connections a look takes long, and must not take the server's time.
            await asyncio.sleep(max(LOOK_SECONDS, 3 * (loop.time() - began)))

    async def look(self) -> Inside:
        """Ask those who can be asked now, and see who is there."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> Inside:
        with self._looking:
            return self._look_alone()

    def _look_alone(self) -> Inside:
        there: set[Connection] = set()
        found: dict[Connection, int] = {}
        silence = float("inf")
        for descriptor, duplicate in self._sockets():
            with contextlib.suppress(OSError):  # it has just been cut
                info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO)
                if len(info) < _TCP_INFO or info[_STATE] != _ESTABLISHED:
                    continue
                connection = (descriptor, duplicate.getpeername())
                there.add(connection)
                silence = min(silence, struct.unpack_from("=I", info, _LAST_DATA_RECEIVED)[0] / 1000)
                (sent,) = struct.unpack_from("=Q", info, _BYTES_SENT)
                # The server has to speak first.
                if connection in self._asked or not sent or _unacknowledged(duplicate) > NEXT_TO_NOTHING:
                    continue
                if connection in self._next and (sent == self._next[connection] or not self.large()):
                    duplicate.send(GOAWAY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                    self._asked.add(connection)
                else:
                    found[connection] = sent
        self._asked &= there
        self._next = found
        return Inside(len(there), len(there - self._asked), silence)

    def _listeners(self) -> Iterator[tuple[int, socket.socket]]:
        for descriptor, duplicate in self._sockets():
            if duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield descriptor, duplicate

    def _sockets(self) -> Iterator[tuple[int, socket.socket]]:
        """Descriptors of our TCP sockets at the port, each with a duplicate that lives while it is looked at."""
        try:
            names = os.listdir("/proc/self/fd")
        except OSError:
            return  # nothing can be seen here, which leaves grpcio's own stop
        for name in names:
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                duplicate = _duplicate(int(name))
                stack.enter_context(duplicate)
                internet = duplicate.family in (socket.AF_INET, socket.AF_INET6)
                if internet and duplicate.type == socket.SOCK_STREAM and duplicate.getsockname()[1] == self.port:
                    yield int(name), duplicate


def _duplicate(descriptor: int) -> socket.socket:
    """Raises OSError if it is no socket, or none any more."""
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


def _name(address: tuple[str, int]) -> str:
    """What grpc calls the peer at this address."""
    host, port = address[:2]
    if ":" not in host:
        return f"ipv4:{host}:{port}"
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    return f"ipv4:{mapped}:{port}" if mapped else "ipv6:" + urllib.parse.quote(f"[{host}]:{port}", safe=":")


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes in its send queue."""
    (size,) = struct.unpack("=i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return int(size)
