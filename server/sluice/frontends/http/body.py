"""Reads a request's body whole, within the message limit before and after decompression."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sluice.frontends.http.encoding import inflate

if TYPE_CHECKING:
    from sluice.frontends.http.exchange import Exchange

# Larger compressed bodies are inflated by a thread: a millisecond of zlib for one client would delay all others.
INFLATE_INLINE = 8 << 10


async def read(exchange: Exchange, limit: int) -> bytes:
    """The body, decompressed."""
    content = await exchange.body()
    encodings = exchange.headers.get(b"content-encoding")
    if not encodings:
        return content
    names = encodings.decode("latin-1")
    if len(content) <= INFLATE_INLINE:
        return inflate(content, names, limit)
    return await asyncio.to_thread(inflate, content, names, limit)
