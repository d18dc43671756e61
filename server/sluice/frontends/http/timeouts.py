"""How long a client, or a proxy in front of us, will wait, from the headers that say so."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sluice.errors import InvalidRequest

_HEADERS = (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms")
_LONGEST_MS = 1e12


def deadline(headers: Mapping[bytes, bytes], received: float) -> float | None:
    """The earlier of the deadlines given by the client and by a proxy in front of us."""
    deadline = None
    for name in _HEADERS:
        value = headers.get(name)
        if value is None:
            continue
        try:
            milliseconds = float(value)
        except ValueError:
            milliseconds = math.nan
        if not 0 <= milliseconds <= _LONGEST_MS:
            raise InvalidRequest(f"{name.decode()}: expected a number of milliseconds")
        until = received + milliseconds / 1000
        deadline = until if deadline is None else min(deadline, until)
    return deadline
