"""What a client gets back, reduced to a kind: the explicit errors that the server may answer with."""

from __future__ import annotations

import re

NO_ANSWER = "no answer"

# The status, or gRPC code, and what stands in the text; the first that fits names the error.
_KINDS: tuple[tuple[frozenset[str], str, str], ...] = (
    (frozenset({"422", "FAILED_PRECONDITION"}), "", "quarantined"),
    (frozenset({"400", "INVALID_ARGUMENT"}), "", "invalid"),
    (frozenset({"404", "NOT_FOUND"}), "", "unknown model"),
    (frozenset({"429", "RESOURCE_EXHAUSTED"}), "", "overloaded"),
    (frozenset({"504", "DEADLINE_EXCEEDED"}), "", "deadline"),
    (frozenset({"499", "CANCELLED"}), "", "cancelled"),
    (frozenset({"503", "UNAVAILABLE"}), r"memory", "short of memory"),
    (frozenset({"503", "UNAVAILABLE"}), r"circuit|breaker|too often", "circuit open"),
    (frozenset({"503", "UNAVAILABLE"}), r"queue size|timeout expired", "queue full"),
    (frozenset({"503", "UNAVAILABLE"}), r"ready|no worker", "not ready"),
    (frozenset({"503", "UNAVAILABLE"}), r"stopp|shutting", "stopping"),
    (frozenset({"500", "INTERNAL"}), r"longer than|hung", "hung"),
    (frozenset({"500", "INTERNAL"}), r"out of memory|not fit|allocate", "device memory"),
    (frozenset({"500", "INTERNAL"}), r"device|illegal memory access", "device fault"),
    (frozenset({"500", "INTERNAL"}), r"died|worker", "worker lost"),
    (frozenset({"500", "INTERNAL"}), r"model", "model failed"),
    (frozenset({"500", "INTERNAL"}), "", "internal"),
    (frozenset({"503"}), "", "unavailable"),
)
# A client's own words for a connection that broke, which its library dresses as a code of the server's.
_BROKEN = re.compile(
    r"socket closed|connection (reset|refused)|failed to connect|goaway|eof|rst_stream|ping timeout", re.I
)


# HTTP/2's REFUSED_STREAM: the server says that it did not begin with this request.
_REFUSED = re.compile(r"rst_stream with error code 7", re.I)


def kind(code: str, text: str) -> str:
    """The error's kind; NO_ANSWER if it is not the server's at all."""
    if _REFUSED.search(text):
        return "stream refused"
    if code in ("UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL") and _BROKEN.search(text):
        return NO_ANSWER
    for codes, pattern, name in _KINDS:
        if code in codes and re.search(pattern, text, re.I):
            return name
    return NO_ANSWER if code in ("UNAVAILABLE", "UNKNOWN") else f"code {code}"
