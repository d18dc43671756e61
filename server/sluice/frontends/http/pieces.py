"""JSON of many numbers, a piece at a time, so that nobody has to wait while all of it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

# Numbers written in one go: a tenth of a millisecond.
MOST = 4096

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def pieces(value: Any) -> Iterator[bytes]:
    """What `orjson.dumps` would say, in parts. Tables are looked into, and lists and arrays cut."""
    match value:
        case dict() if any(_is_large(each) for each in value.values()):
            separator = b"{"
            for key, each in value.items():
                yield separator + orjson.dumps(key) + b":"
                yield from pieces(each)
                separator = b","
            yield b"}"
        case list() | np.ndarray() if _is_large(value):
            step = max(1, MOST // _size(value[0]))
            separator = b"["
            for at in range(0, len(value), step):
                yield separator
                separator = b","
                if step > 1:
                    yield _written(value[at : at + step])[1:-1]
                else:
                    yield from pieces(value[at])
            yield b"]"
        case _:
            yield _written(value)


def pieces_of_each(values: list[Any]) -> Iterator[bytes]:
    """The same of a list whose elements differ so much in size that none stands for the others."""
    separator = b"["
    for value in values:
        yield separator
        yield from pieces(value)
        separator = b","
    yield b"]" if values else b"[]"


def _written(value: Any) -> bytes:
    return orjson.dumps(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value, option=_OPTIONS)


def _is_large(value: Any) -> bool:
    return isinstance(value, list | np.ndarray) and len(value) > 0 and len(value) * _size(value[0]) > MOST


def _size(value: Any) -> int:
    """About how many numbers; the first of a list stands for the others."""
    match value:
        case np.ndarray():
            return max(1, value.size)
        case list() | tuple() if value:
            return len(value) * _size(value[0])
        case dict() if value:
            return sum(map(_size, value.values()))
        case str():
            return 1 + len(value) // 16
    return 1
