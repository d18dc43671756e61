"""Content encodings, both ways: gzip and deflate, the latter in zlib's format as HTTP means it."""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING

from sluice.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluice.request import Buffer

# Answers below this size fit into a packet as they are.
WORTH_COMPRESSING = 1024

# Floats hardly get smaller at higher levels, only slower.
LEVEL = 1

# Nobody needs two; each may make the body a thousand times larger.
MOST_LAYERS = 4

# An Accept-Encoding header that is longer is ignored: it would take milliseconds to read, and a place in the cache.
LONGEST_ACCEPTED = 512

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def inflate(data: bytes, encodings: str, limit: int) -> bytes:
    """`data` without its content encodings (the last applied stands last), never more than `limit` bytes."""
    if encodings.count(",") >= MOST_LAYERS:
        raise InvalidRequest(f"Content-Encoding: more than {MOST_LAYERS} encodings")
    for name in reversed([part.strip().lower() for part in encodings.split(",")]):
        if name in ("", "identity"):
            continue
        if name not in _WINDOW:
            raise InvalidRequest(f"Content-Encoding: '{name}' is not supported; gzip and deflate are")
        data = _inflate(data, name, limit)
    return data


def _inflate(data: bytes, name: str, limit: int) -> bytes:
    parts: list[bytes] = []
    room = limit
    rest = data
    while True:
        stream = zlib.decompressobj(_WINDOW[name])
        try:
            part = stream.decompress(rest, room + 1)
        except zlib.error:
            raise InvalidRequest(f"Content-Encoding: the body is not {name}") from None
        room -= len(part)
        if room < 0:
            raise TooLarge(f"the body is over the limit of {limit} bytes when decompressed")
        parts.append(part)
        if not stream.eof:
            raise InvalidRequest(f"Content-Encoding: the {name} body ends too early")
        rest = stream.unused_data
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if name == "deflate" or len(parts) >= 64:
            raise InvalidRequest(f"Content-Encoding: the {name} body goes on after its end")


def deflate(parts: Iterable[Buffer], name: str) -> bytes:
    stream = zlib.compressobj(LEVEL, wbits=_WINDOW[name])
    return b"".join([*map(stream.compress, parts), stream.flush()])


def choose(accepted: bytes) -> str:
    """The encoding an Accept-Encoding header likes best; empty: none."""
    return _choose(accepted) if len(accepted) <= LONGEST_ACCEPTED else ""


@functools.lru_cache(maxsize=256)
def _choose(accepted: bytes) -> str:
    quality: dict[str, float] = {}
    for part in accepted.decode("latin-1").lower().split(","):
        name, *options = [piece.strip() for piece in part.split(";")]
        value = 1.0
        for option in options:
            if option.startswith("q="):
                try:
                    value = float(option[2:])
                except ValueError:
                    value = 0.0
        quality[name] = value
    anything = quality.get("*", 0.0)
    best = max(("gzip", "deflate"), key=lambda name: quality.get(name, anything))
    value = quality.get(best, anything)
    return best if value > 0 and value >= quality.get("identity", 0.0) else ""
