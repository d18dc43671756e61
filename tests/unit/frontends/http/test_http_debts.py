"""What is kept for clients that do not send or read as they should: counted while they are there, bounded, let go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sluice.config.settings import Server
from sluice.frontends.http.crowd import MOST_KEPT, Connections
from sluice.frontends.http.exchange import Exchange
from sluice.frontends.http.protocol import Connection
from sluice.frontends.http.reply import Reply

LIMIT = 1 << 20
GET = b"GET / HTTP/1.1\r\n\r\n"
UNFINISHED = b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nx"


class Unread(asyncio.Transport):
    """A client that reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.unwritten = 0
        self.closing = False
        self.gone = asyncio.Event()

    def write(self, data: Any) -> None:
        self.unwritten += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unwritten

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True
        self.gone.set()


class Crowd:
    """Connections without sockets to an application whose answers have `size` bytes."""

    def __init__(self, size: int = 1000, **settings: Any) -> None:
        self.size = size
        self.shared = Connections(self._answer, Server(max_message_bytes=LIMIT, **settings), lambda: False)

    async def _answer(self, exchange: Exchange) -> Reply:
        await exchange.body()
        return Reply(200, [], (bytes(self.size),))

    async def connect(self, paused: bool = True) -> tuple[Connection, Unread]:
        """A connection whose first answer piles up."""
        connection, transport = Connection(self.shared), Unread()
        connection.connection_made(transport)
        connection.data_received(GET)
        await asyncio.gather(*self.shared.tasks)
        if paused:
            connection.pause_writing()
        return connection, transport


async def test_who_is_gone_owes_nothing() -> None:
    crowd = Crowd()
    connection, transport = await crowd.connect()
    connection.data_received(UNFINISHED)
    assert crowd.shared.kept == transport.unwritten
    connection.connection_lost(ConnectionResetError())
    assert crowd.shared.kept == 0
    await asyncio.gather(*crowd.shared.tasks)
    assert crowd.shared.kept == 0


async def test_who_stops_sending_has_to_read_all_the_same() -> None:
    crowd = Crowd(body_timeout=0.01)
    connection, transport = await crowd.connect(paused=False)  # the answer fits into the transport's buffer
    transport.closing = not connection.eof_received()
    await asyncio.wait_for(transport.gone.wait(), 60)
    connection.connection_lost(None)


async def test_a_giant_answer_takes_nobody_along(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sluice")
    crowd = Crowd(size=LIMIT)
    connections = [await crowd.connect()]
    crowd.size = 2 * MOST_KEPT * LIMIT
    connections.append(await crowd.connect())
    assert not any(transport.gone.is_set() for _, transport in connections)
    assert caplog.records == []
    for connection, _ in connections:
        connection.connection_lost(None)


async def test_the_oldest_debt_gives_way_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sluice")
    crowd = Crowd(size=LIMIT)
    connections = [await crowd.connect() for _ in range(MOST_KEPT + 1)]
    assert [transport.gone.is_set() for _, transport in connections] == [True, True] + [False] * (MOST_KEPT - 1)
    for connection, _ in connections:
        connection.connection_lost(None)
    assert crowd.shared.kept == 0
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "the slowest give way" in caplog.messages[0]
