"""TOML as text: on which line each key stands, and how a value is written."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Keys = tuple[str, ...]

_DEEPEST = 64
_TOO_DEEP = "is nested too deeply"
_TOO_LARGE = "has a number beyond 64 bits"


def parse(text: str) -> dict[str, Any]:
    """The document; ValueError for what is none, and for what no reader should have to take: tables nested without end,
    or numbers beyond TOML's 64 bits, which cannot even be printed."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(_TOO_DEEP if isinstance(error, RecursionError) else _TOO_LARGE) from error
    left: list[tuple[Any, int]] = [(document, 0)]
    while left:
        value, depth = left.pop()
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(_TOO_LARGE)
        if isinstance(value, dict | list):
            if depth > _DEEPEST:
                raise ValueError(_TOO_DEEP)
            left += [(each, depth + 1) for each in (value.values() if isinstance(value, dict) else value)]
    return document


def key_lines(text: str) -> dict[Keys, int]:
    """The line on which each table and key of a valid TOML text first appears.

    A statement ends at the first line with which the text since the last statement's end parses on its own, so
    strings and arrays over several lines, inline tables and dotted keys need no parser of our own.
    """
    lines: dict[Keys, int] = {}
    table: Keys = ()
    statement, start = "", 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        statement += line + "\n"
        try:
            found = tomllib.loads(statement)
        except (ValueError, RecursionError):
            continue
        paths = list(_paths(found))
        if statement.lstrip().startswith("["):
            table = max(paths, key=len)
        else:
            paths = [(*table, *path) for path in paths]
        for path in paths:
            lines.setdefault(path, start)
        statement, start = "", number + 1
    return lines


def _paths(tree: Mapping[str, Any]) -> Iterator[Keys]:
    for key, value in tree.items():
        yield (key,)
        if isinstance(value, dict):
            for path in _paths(value):
                yield (key, *path)


def encode(value: Any) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(encode(item) for item in value) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"no TOML form for {type(value).__name__}")
