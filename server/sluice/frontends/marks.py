"""What a reply tells beside its outputs, as parameters of the protocol and as headers or trailing metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sluice.admission import fallback
from sluice.request import Parameter
from sluice.reuse.answers import PARAMETER

HEADERS = {fallback.PARAMETER: "sluice-fallback", PARAMETER: "sluice-cache"}


def marks(parameters: Mapping[str, Parameter]) -> Iterator[tuple[str, str]]:
    """The header's name and value for each mark that there is."""
    for name, header in HEADERS.items():
        if name in parameters:
            yield header, str(parameters[name])
