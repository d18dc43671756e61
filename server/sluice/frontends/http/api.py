"""The application: finds the endpoint for an exchange, calls it, and compresses its reply if the client likes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sluice.errors import UnknownThing
from sluice.frontends.http import encoding, openai
from sluice.frontends.http.admin import Admin
from sluice.frontends.http.docs import Docs
from sluice.frontends.http.oip import OpenInference
from sluice.frontends.http.openai import OpenAI
from sluice.frontends.http.reply import Reply
from sluice.frontends.http.rerank import Rerank
from sluice.frontends.http.routes import Route, Routes, WrongMethod
from sluice.frontends.http.tei import TextEmbeddingsInference

if TYPE_CHECKING:
    from sluice.frontends.http.exchange import Exchange
    from sluice.frontends.services import Services

# Larger answers are compressed by a thread.
COMPRESS_INLINE = 16 << 10

# Where OpenAI's clients look for what is not here.
_OPENAI = b"/v1/"


class Api:
    """All endpoints of the server."""

    def __init__(self, services: Services) -> None:
        self._routes = Routes(routes(services))

    async def __call__(self, exchange: Exchange) -> Reply:
        try:
            route, exchange.path = self._routes.find(exchange.method, exchange.raw_path)
        except WrongMethod as error:
            reply = Reply(200, [], ()) if exchange.method == "OPTIONS" else error.errors(error)
            reply.headers.append(b"allow: %b\r\n" % ", ".join(error.allowed).encode())
            return reply
        except UnknownThing:
            if exchange.raw_path.startswith(_OPENAI):
                exchange.errors = openai.error_reply
            raise
        exchange.errors = route.errors
        exchange.check()
        reply = await route.endpoint(exchange)
        if reply.length() >= encoding.WORTH_COMPRESSING and b"accept-encoding" in exchange.headers:
            return await _compressed(reply, exchange.headers[b"accept-encoding"])
        return reply


def routes(services: Services) -> list[Route]:
    """Everything that is served."""
    parts = (OpenInference, Admin, OpenAI, TextEmbeddingsInference, Rerank, Docs)
    return [route for part in parts for route in part(services).routes()]


async def _compressed(reply: Reply, accepted: bytes) -> Reply:
    """The reply in the encoding the client likes best; the JSON's length in its headers stays the uncompressed one."""
    name = encoding.choose(accepted)
    if not name:
        return reply
    if reply.length() <= COMPRESS_INLINE:
        body = encoding.deflate(reply.parts, name)
    else:
        body = await asyncio.to_thread(encoding.deflate, reply.parts, name)
    headers = [*reply.headers, b"content-encoding: %b\r\n" % name.encode(), b"vary: accept-encoding\r\n"]
    return Reply(reply.status, headers, (body,))
