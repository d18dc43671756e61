"""Reads tables of TOML: a row per key says how its value is read, and what is wrong is an error that names the key."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sluice.store.reading import did_you_mean

_T = TypeVar("_T")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Readers = Mapping[str, Callable[[Any], Any]]


class Wrong(ValueError):
    """What is wrong with the value of a key."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


def text(value: Any, pattern: re.Pattern[str] | None = None, like: str = "") -> str:
    """One line, which is safe to print."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    if _CONTROL.search(value):
        raise ValueError(f"must be a text in one line, without control characters, not {value!r}")
    if pattern is not None and not pattern.fullmatch(value):
        raise ValueError(f"must be like {like}, not {value!r}")
    return value


def choice(value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
    return str(value)


def whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"must be a whole number of at least 0, not {value!r}")
    return value


def time(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"must be a time with its zone, as 2026-01-31T12:00:00Z, not {value!r}")
    try:
        value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"must be a time of the years 1 to 9999 in UTC, not {value!r}") from error
    return value


def table(value: Any, element: Callable[[Any], _T]) -> dict[str, _T]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {value!r}")
    result = {}
    for key, item in value.items():
        try:
            result[text(key)] = element(item)
        except ValueError as error:
            raise ValueError(f"{key!r}: {error}") from error
    return result


def each(value: Any, readers: Readers, name: str, required: tuple[str, ...]) -> list[dict[str, Any]]:
    """The same for a list of tables."""
    if not isinstance(value, list):
        raise Wrong(name, f"must be written as [[{name}]]")
    return [convert(entry, readers, name, required) for entry in value]


def convert(
    found: Any, readers: Readers, name: str, required: tuple[str, ...], others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The table's values, each as its reader makes it."""
    if not isinstance(found, dict):
        raise Wrong(name, "is missing" if found is None else f"must be a table, not {found!r}")
    result = {}
    for key, value in found.items():
        place = f"{name}.{key}" if name else key
        if key not in readers:
            raise Wrong(place, f"unknown key; {did_you_mean(key, [*readers, *others])}")
        try:
            result[key] = readers[key](value)
        except (ValueError, TypeError) as error:
            raise Wrong(place, str(error)) from error
    for key in required:
        if key not in result:
            raise Wrong(f"{name}.{key}" if name else key, "is missing")
    return result
