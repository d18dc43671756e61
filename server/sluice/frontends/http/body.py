"""Reads a request's body whole, within the message limit before and after decompression."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sluice.errors import Cancelled, TooLarge
from sluice.frontends.http.encoding import inflate

if TYPE_CHECKING:
    from sluice.frontends.http.asgi import Receive
    from sluice.request import Buffer

# Larger compressed bodies are inflated by a thread: a millisecond of zlib for one client would delay all others.
INFLATE_INLINE = 8 << 10


async def read(receive: Receive, encodings: bytes, limit: int) -> Buffer:
    """The body, decompressed; a stalled or oversized one raises, as does a client that leaves."""
    message = await receive()
    if message["type"] == "http.request" and not message["more_body"]:
        body: bytes = message["body"]
        if len(body) > limit:
            raise _too_large(limit)
    else:
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] != "http.request":
                raise Cancelled("the client went away")
            parts.append(message["body"])
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
            if not message["more_body"]:
                break
            message = await receive()
        body = b"".join(parts)
    if not encodings:
        return body
    names = encodings.decode("latin-1")
    if len(body) <= INFLATE_INLINE:
        return inflate(body, names, limit)
    return await asyncio.to_thread(inflate, body, names, limit)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over the limit of {limit} bytes")
