"""A message's outermost layer, read and written without protobuf, so that raw tensor contents are never copied.

Protobuf copies every bytes field twice on its way to Python, and lets two sent bytes become a hundred in memory. So
large messages are first walked field by field: what belongs to `raw_input_contents` is handed out as views of the
message, only the small rest is parsed, and a message of absurdly many fields is refused before it is parsed at all.
Replies are put together the same way round.
"""

from __future__ import annotations

from collections.abc import Sequence

from sluice.errors import InvalidRequest
from sluice.request import Buffer

# Below this the walk costs more than the copies it saves, and a parsed message cannot grow beyond a few megabytes.
SMALL = 16 << 10
MAX_FIELDS = 10_000

_RAW_INPUTS = 7  # ModelInferRequest.raw_input_contents
_RAW_OUTPUTS = b"\x32"  # the tag of ModelInferResponse.raw_output_contents
_STREAMED_REPLY = b"\x12"  # the tag of ModelStreamInferResponse.infer_response
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10

MALFORMED = "the message is not a valid ModelInferRequest"


def split(message: bytes) -> tuple[bytes, list[memoryview]]:
    """The message without its raw contents, and those as views of it."""
    view, end, at, fields = memoryview(message), len(message), 0, 0
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    kept_from = 0
    while at < end:
        fields += 1
        if fields > MAX_FIELDS:
            raise InvalidRequest(f"the request has more than {MAX_FIELDS} inputs, outputs, parameters and raw contents")
        start = at
        tag, at = _varint(message, at)
        kind = tag & 7
        size, at = _size(message, at, kind)
        if at + size > end:
            raise InvalidRequest(MALFORMED)
        if kind == _LENGTH and tag >> 3 == _RAW_INPUTS:
            raw.append(view[at : at + size])
            rest.append(view[kept_from:start])
            kept_from = at + size
        at += size
    rest.append(view[kept_from:])
    return b"".join(rest), raw


def join(head: bytes, raw: Sequence[Buffer], *, streamed: bool) -> bytes:
    """A reply from its message without raw contents and those; one copy of each."""
    parts: list[Buffer] = [head]
    for data in raw:
        parts.append(_RAW_OUTPUTS + _encoded(_byte_size(data)))
        parts.append(data)
    if streamed:
        parts.insert(0, _STREAMED_REPLY + _encoded(sum(map(_byte_size, parts))))
    return b"".join(parts)


def _size(message: bytes, at: int, kind: int) -> tuple[int, int]:
    """How long the field's value is, and where it starts."""
    if kind == _LENGTH:
        return _varint(message, at)
    if kind == _VARINT:
        return 0, _varint(message, at)[1]
    if kind in (_FIXED64, _FIXED32):
        return 8 if kind == _FIXED64 else 4, at
    raise InvalidRequest(MALFORMED)  # groups, which proto3 does not have, or nonsense


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    value = 0
    for index, byte in enumerate(message[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise InvalidRequest(MALFORMED)


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _byte_size(data: Buffer) -> int:
    return data.nbytes if isinstance(data, memoryview) else len(data)
