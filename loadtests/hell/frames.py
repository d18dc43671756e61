"""HTTP/2 as bytes, so that a client can send what no library would."""

from __future__ import annotations

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 4
CANCEL = 8
_LARGEST = 16 << 10  # bytes of a frame's payload, before anything else is agreed


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame; only the window of new streams is of interest here."""
    window = values.get("initial_window_size")
    payload = b"" if window is None else INITIAL_WINDOW_SIZE.to_bytes(2, "big") + window.to_bytes(4, "big")
    return frame(SETTINGS, payload=payload)


def block(path: str, *more: tuple[str, str]) -> bytes:
    """The header block of a gRPC call: literals that no table remembers."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "hell"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]
    return b"".join(header(name.encode(), value.encode()) for name, value in fields)


def headers(stream: int, content: bytes, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, content)


def message(stream: int, content: bytes) -> bytes:
    """One gRPC message, uncompressed, as the last of its stream; what the windows allow is up to the caller."""
    whole = b"\0" + len(content).to_bytes(4, "big") + content
    pieces = [whole[at : at + _LARGEST] for at in range(0, len(whole), _LARGEST)]
    sent = [frame(DATA, 0, stream, piece) for piece in pieces[:-1]]
    return b"".join([*sent, frame(DATA, END_STREAM, stream, pieces[-1])])


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))


def ping(number: int) -> bytes:
    return frame(PING, payload=number.to_bytes(8, "big"))


def more_window(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def header(name: bytes, value: bytes) -> bytes:
    """A header that no table remembers."""
    return b"\0" + _size(name) + name + _size(value) + value


def _size(text: bytes) -> bytes:
    """A string's length with a prefix of seven bits, not Huffman-coded."""
    rest = len(text) - 127
    if rest < 0:
        return bytes((len(text),))
    encoded = bytearray((127,))
    while rest > 127:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)
