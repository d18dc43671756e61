"""The ASGI application: finds the endpoint, calls it, writes its reply, turns errors into theirs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from sluice.errors import InternalError, SluiceError
from sluice.frontends.http import encoding
from sluice.frontends.http.admin import Admin
from sluice.frontends.http.oip import OpenInference
from sluice.frontends.http.reply import Reply, error_reply, send_reply
from sluice.frontends.http.routes import Call, Routes, WrongMethod

if TYPE_CHECKING:
    from sluice.frontends.http.asgi import Receive, Scope, Send
    from sluice.frontends.services import Services

# Larger answers are compressed by a thread.
COMPRESS_INLINE = 16 << 10

_log = logging.getLogger(__name__)


class Api:
    """All endpoints of the server."""

    def __init__(self, services: Services) -> None:
        self._routes = Routes([*OpenInference(services).routes(), *Admin(services).routes()])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            endpoint, named = self._routes.find(scope["method"], scope["raw_path"])
            reply = await endpoint(Call(scope, receive, named))
            if reply.length() >= encoding.WORTH_COMPRESSING:
                reply = await _compressed(reply, scope)
        except SluiceError as error:
            reply = error_reply(error)
            if isinstance(error, WrongMethod):
                reply.headers.append((b"allow", ", ".join(error.allowed).encode()))
        except Exception:
            _log.exception("unexpected error in %s %s", scope["method"], scope["path"])
            reply = error_reply(InternalError("internal error"))
        await send_reply(reply, send)


async def _compressed(reply: Reply, scope: Scope) -> Reply:
    """The reply in the encoding the client likes best; the JSON's length in its headers stays the uncompressed one."""
    accepted = next((value for name, value in scope["headers"] if name == b"accept-encoding"), b"")
    name = encoding.choose(accepted) if accepted else ""
    if not name:
        return reply
    if reply.length() <= COMPRESS_INLINE:
        body = encoding.deflate(reply.parts, name)
    else:
        body = await asyncio.to_thread(encoding.deflate, reply.parts, name)
    headers = [*reply.headers, (b"content-encoding", name.encode()), (b"vary", b"accept-encoding")]
    return Reply(reply.status, headers, (body,))
