"""The way out of the gRPC server: who is refused, who is asked to leave, and whose bytes are left alone."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from sluice.frontends.grpc.door import GOAWAY, Door, Inside

SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


class House:
    """A listening socket in this process, and a server's end for each client."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._listening = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port = int(self._listening.getsockname()[1])
        self.door = Door(self.port)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """The client's end and the server's."""
        client = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=30))
        server = self._stack.enter_context(self._listening.accept()[0])
        return client, server

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


async def test_nobody_new_comes_in(house: House) -> None:
    client, server = house.connect()
    await house.door.close()
    with pytest.raises(ConnectionRefusedError):
        house.connect()
    server.sendall(b"still here")
    assert client.recv(100) == b"still here"


async def test_who_is_inside_is_asked_once(house: House) -> None:
    client, server = house.connect()
    server.sendall(SETTINGS)
    assert client.recv(100) == SETTINGS
    await house.door.asked()
    for _ in range(3):
        assert (await house.door.look()).unasked == 0
    server.sendall(b"end")
    received = b""
    while not received.endswith(b"end"):
        received += client.recv(100)
    assert received == GOAWAY + b"end"


async def test_a_server_that_has_not_greeted_yet_speaks_first(house: House) -> None:
    client, server = house.connect()
    for _ in range(3):
        assert (await house.door.look()).unasked == 1
    server.sendall(SETTINGS)
    await house.door.asked()
    received = b""
    while len(received) < len(SETTINGS + GOAWAY):
        received += client.recv(100)
    assert received == SETTINGS + GOAWAY


async def test_a_frame_that_is_being_written_is_not_cut(house: House) -> None:
    client, server = house.connect()
    server.setblocking(False)
    written = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            written += server.send(bytes(1 << 20))
    for _ in range(3):
        assert (await house.door.look()).unasked == 1
    while written:
        written -= len(client.recv(written))
    await house.door.asked()
    assert client.recv(100) == GOAWAY


async def test_between_the_parts_of_a_large_reply_nobody_is_asked(house: House) -> None:
    """The send queue is empty at each look, and still the frame may go on."""
    on_its_way = True
    house.door.large = lambda: on_its_way
    client, server = house.connect()
    for _ in range(4):
        server.sendall(bytes(100))
        assert client.recv(100, socket.MSG_WAITALL) == bytes(100)
        assert (await house.door.look()).unasked == 1
    on_its_way = False
    server.sendall(b"end")
    await house.door.asked()
    assert client.recv(3 + len(GOAWAY), socket.MSG_WAITALL) == b"end" + GOAWAY


async def test_who_is_sent_nothing_is_asked_whatever_others_are_sent(house: House) -> None:
    house.door.large = lambda: True
    client, server = house.connect()
    server.sendall(SETTINGS)
    await house.door.asked()
    assert client.recv(len(SETTINGS + GOAWAY), socket.MSG_WAITALL) == SETTINGS + GOAWAY


def test_one_peer_is_cut_and_no_other(house: House) -> None:
    harmful, _ = house.connect()
    client, server = house.connect()
    house.door.cut(f"ipv4:127.0.0.1:{harmful.getsockname()[1]}")
    assert harmful.recv(100) == b""
    server.sendall(b"still here")
    assert client.recv(100) == b"still here"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("host", "peer"), [("::1", "ipv6:%5B::1%5D:"), ("127.0.0.1", "ipv4:127.0.0.1:")])
def test_peers_are_known_by_the_names_grpc_gives_them(host: str, peer: str) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        port = int(listening.getsockname()[1])
        with socket.create_connection((host, port), timeout=30) as client, listening.accept()[0]:
            Door(port).cut(f"{peer}{client.getsockname()[1]}")
            assert client.recv(100) == b""


async def test_it_is_empty_when_all_have_left(house: House) -> None:
    assert await house.door.look() == Inside(0, 0, float("inf"))
    client, server = house.connect()
    inside = await house.door.look()
    assert (inside.connections, inside.unasked) == (1, 1)
    client.close()
    server.close()
    await house.door.empty()
    assert (await house.door.look()).connections == 0


async def test_who_stays_silent_holds_nobody_up(house: House) -> None:
    client, _ = house.connect()
    client.sendall(b"hello")
    assert (await house.door.look()).silence < 1.0
    await house.door.empty()
    assert (await house.door.look()).connections == 1


async def test_other_sockets_are_left_alone(house: House) -> None:
    other = House()
    try:
        client, server = other.connect()
        server.sendall(SETTINGS)
        await house.door.close()
        await house.door.asked()
        other.connect()
        server.sendall(b"end")
        assert client.recv(len(SETTINGS) + 3, socket.MSG_WAITALL) == SETTINGS + b"end"
        assert (await other.door.look()).connections == 2
    finally:
        other.close()
