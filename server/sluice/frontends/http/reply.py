"""Answers before they become bytes, and the shape of errors over HTTP, unless an API has one of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from sluice.frontends import status
from sluice.frontends.marks import marks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sluice.errors import SluiceError
    from sluice.request import Buffer, Parameter

# Up to here copying is cheaper than a system call for each part.
SMALL_BODY = 16 << 10

REQUEST_ID = b"x-request-id"
_LONGEST_ECHO = 256

JSON = b"content-type: application/json\r\n"


class Reply(NamedTuple):
    """A whole answer; `parts` are written one after the other, so that tensors need no joining.

    `headers` are lines as they leave: who makes one answers for it having no other line break than its own.
    """

    status: int
    headers: list[bytes]
    parts: tuple[Buffer, ...]

    def length(self) -> int:
        return sum(map(len, self.parts))


def request_id(id: str) -> bytes:
    """The header line that gives a client its id back; empty for one that no header can hold."""
    return header(REQUEST_ID, id)


def header(name: bytes, value: str) -> bytes:
    """A header line; empty for a value that none can hold."""
    if not value or len(value) > _LONGEST_ECHO or not (value.isascii() and value.isprintable()):  # no line breaks
        return b""
    return b"%b: %b\r\n" % (name, value.encode())


def mark_headers(parameters: Mapping[str, Parameter]) -> list[bytes]:
    """Header lines for what is to be known of a reply."""
    return [line for name, value in marks(parameters) if (line := header(name.encode(), value))]


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, [JSON], (orjson.dumps(value),))


def plain_error(status: int, message: str) -> Reply:
    """An error by its HTTP status, for faults of the protocol below anything that has a SluiceError."""
    return json_reply({"error": message}, status)


# An error in the form that clients of an API expect.
Errors = Callable[["SluiceError"], Reply]


def error_reply(error: SluiceError) -> Reply:
    """As in the Open Inference Protocol, and where no other API has a word in it."""
    return with_retry(plain_error(status.of(error).http, error.message), error)


def with_retry(reply: Reply, error: SluiceError) -> Reply:
    """With the time after which the client may try again, if the error says so."""
    if error.retry_after is not None:
        reply.headers.append(b"retry-after: %d\r\n" % max(1, math.ceil(error.retry_after)))
    return reply
