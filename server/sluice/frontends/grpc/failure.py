"""An exception as gRPC shows it: a code, a text that fits into trailers, and whether to try again."""

from __future__ import annotations

import logging
from typing import NamedTuple

from grpc import StatusCode

from sluice.errors import InternalError, SluiceError
from sluice.frontends import status
from sluice.frontends.grpc.call import Metadata

log = logging.getLogger(__name__)

# Clients take 8 KiB of trailers at most unless told otherwise, and percent-encoding can triple a text.
MAX_TEXT_BYTES = 2000
PUSHBACK = "grpc-retry-pushback-ms"


class Failure(NamedTuple):
    code: StatusCode
    text: str
    trailers: Metadata


def failure(error: Exception, method: str) -> Failure:
    """What the client is told; an error outside our tree is a bug, which is logged here and told to nobody."""
    if not isinstance(error, SluiceError):
        log.error("%s failed", method, exc_info=error)
        error = InternalError("internal error")
    code = status.of(error).grpc
    return Failure(code, _text(error.message), _trailers(error, code))


def _text(message: str) -> str:
    encoded = message.encode(errors="replace")
    if len(encoded) <= MAX_TEXT_BYTES:
        return encoded.decode()
    return encoded[:MAX_TEXT_BYTES].decode(errors="ignore") + "…"


def _trailers(error: SluiceError, code: StatusCode) -> Metadata:
    """Some clients repeat a call at once on UNAVAILABLE, which triples an overload; only this header stops them."""
    if error.retry_after is not None:
        return ((PUSHBACK, str(max(0, round(error.retry_after * 1000)))),)
    return ((PUSHBACK, "-1"),) if code is StatusCode.UNAVAILABLE else ()
