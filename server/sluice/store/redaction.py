"""Takes what may be secret out of addresses, and out of texts that have addresses in them, before they are shown."""

from __future__ import annotations

import re

_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_AFTER = ".,:;)"  # what a text has after an address, and is not of it


def shown(url: str) -> str:
    """The address without names, passwords, and what stands behind its path."""
    return re.split(r"[?#]", re.sub(r"//[^/?#]*@", "//", url), maxsplit=1)[0]


def redacted(text: str) -> str:
    """The text with every address in it as it may be shown."""
    return _IN_TEXT.sub(_address, text)


def _address(found: re.Match[str]) -> str:
    url = found[0].rstrip(_AFTER)
    return shown(url) + found[0][len(url) :]
