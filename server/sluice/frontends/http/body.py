"""Reads a request's body whole, within the message limit before and after decompression."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from sluice.errors import TooLarge
from sluice.frontends.http.encoding import inflate

if TYPE_CHECKING:
    from sluice.frontends.http.exchange import Exchange

# Larger compressed bodies are inflated by a thread: a millisecond of zlib for one client would delay all others. So are
# those that become larger than this on the way: half a kilobyte can become gigabytes.
INFLATE_INLINE = 8 << 10
INFLATED_INLINE = 8 * INFLATE_INLINE


async def read(exchange: Exchange, limit: int) -> bytes:
    """The body, decompressed."""
    content = await exchange.body()
    encodings = exchange.headers.get(b"content-encoding")
    if not encodings:
        return content
    names = encodings.decode("latin-1")
    if len(content) <= INFLATE_INLINE:
        with contextlib.suppress(TooLarge):
            return inflate(content, names, min(limit, INFLATED_INLINE))
    return await asyncio.to_thread(inflate, content, names, limit)
