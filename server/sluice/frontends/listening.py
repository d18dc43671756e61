"""How to stop listening without resetting anybody.

Closing a listening socket resets the connections that the kernel has completed and nobody has accepted yet, and however
quickly the last of them are accepted, one more may come before the close. So first the kernel is told to let no further
handshake begin; then those there are can be accepted in peace. Who knocks in between hears nothing, tries again after a
second, and is refused like everybody who comes later.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

# From Linux's asm-generic/socket.h; Python does not name it. Another system says no, and keeps the old race.
_SO_ATTACH_FILTER = 26

# Classic BPF over the TCP header: a segment with SYN and without ACK is dropped, all others pass.
_FLAGS_AT, _SYN, _SYN_OR_ACK = 13, 0x02, 0x12
_PROGRAM = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, _FLAGS_AT),  # load a byte
        (0x54, 0, 0, _SYN_OR_ACK),  # and
        (0x15, 0, 1, _SYN),  # if not equal, skip one
        (0x06, 0, 0, 0),  # keep nothing
        (0x06, 0, 0, 0xFFFFFFFF),  # keep all
    )
)

# Offset in struct tcp_info: of a listening socket, how many connections wait to be accepted.
_UNACKED = 24


def begin_no_more(listener: socket.socket) -> None:
    """Let no further handshake begin; connections whose handshake is under way or over can still be accepted."""
    program = ctypes.create_string_buffer(_PROGRAM, len(_PROGRAM))
    filter_ = struct.pack("@HP", len(_PROGRAM) // 8, ctypes.addressof(program))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def waiting(listener: socket.socket) -> int:
    """Connections that nobody has accepted yet."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED + 4)
    return int.from_bytes(info[_UNACKED : _UNACKED + 4], "little")
