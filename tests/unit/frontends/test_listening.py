"""The end of listening: who is in comes in, nobody else does."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest

from sluice.frontends.listening import begin_no_more, waiting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such filter")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_handshake_begins_any_more(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
        listener.setblocking(False)
        inside = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        begin_no_more(listener)
        late = stack.enter_context(socket.socket(family))
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.connect(listener.getsockname()[:2])
        assert waiting(listener) == 1
        accepted = stack.enter_context(listener.accept()[0])
        assert waiting(listener) == 0
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.close()
        inside.sendall(b"still served")
        assert accepted.recv(100) == b"still served"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(accepted.getsockname()[:2])
