"""Answers before they become bytes, and the one shape in which errors leave over HTTP."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from sluice.frontends import status

if TYPE_CHECKING:
    from sluice.errors import SluiceError
    from sluice.frontends.http.asgi import Send
    from sluice.request import Buffer

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")


class Reply(NamedTuple):
    """A whole answer; `parts` are written one after the other, so that tensors need no joining."""

    status: int
    headers: Headers
    parts: tuple[Buffer, ...]

    def length(self) -> int:
        return sum(len(part) for part in self.parts)


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, [JSON], (orjson.dumps(value),))


def plain_error(status: int, message: str) -> Reply:
    """An error by its HTTP status, for faults of the protocol below anything that has a SluiceError."""
    return json_reply({"error": message}, status)


def error_reply(error: SluiceError) -> Reply:
    reply = plain_error(status.of(error).http, error.message)
    if error.retry_after is not None:
        reply.headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    return reply


async def send_reply(reply: Reply, send: Send) -> None:
    headers = [*reply.headers, (b"content-length", b"%d" % reply.length())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    for part in reply.parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": reply.parts[-1]})
