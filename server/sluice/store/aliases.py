"""Names for a model's versions, as `production`, in `<model>/aliases.toml`, and who changed them, in `aliases.jsonl`.

Both change together or not at all, and one change at a time, whoever makes it: servers and commands on one repository
wait for each other. See docs/versions.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BufferedRandom
from pathlib import Path

from sluice.config import toml
from sluice.errors import InvalidRequest, ModelError, UnknownModel, system_reason
from sluice.store.manifest import write_text
from sluice.store.reading import complaint, read_text

log = logging.getLogger("sluice.store")

ALIASES = "aliases.toml"
HISTORY = "aliases.jsonl"
PRODUCTION, PREVIOUS = "production", "previous"

MAX_WHO = 128
MAX_REASON = 1000
MAX_ALIASES = 64

_ALIAS = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_HEADING = (
    "# Which version each name stands for. `sluice promote` writes this, and keeps who and when in aliases.jsonl.\n"
)


@dataclass(frozen=True, slots=True)
class Change:
    """An alias was given to a version, or taken away."""

    time: str  # ISO 8601, UTC
    by: str
    alias: str
    before: str  # the version that had it; "" = none
    after: str  # the version that has it now; "" = none
    reason: str = ""


def check(alias: str) -> None:
    """Raise for what cannot be an alias."""
    if not _ALIAS.fullmatch(alias):
        why = "starts with a letter from a to z, goes on with those, digits and . _ -, and has at most 64 characters"
        raise InvalidRequest(f"'{alias[:80]}' is not an alias: one {why}")
    if alias == "latest":
        raise InvalidRequest("'latest' is not an alias: it would not be the latest version for long")


def is_number(text: str) -> bool:
    """Whether it is a version's number and not an alias."""
    return text.isascii() and text.isdigit()


def read(directory: Path) -> dict[str, str]:
    """A model's aliases with the numbers of their versions; ModelError if the file is wrong."""
    path, shown = directory / ALIASES, f"{directory.name}/{ALIASES}"
    if not os.path.lexists(path):
        return {}
    try:
        document = toml.parse(read_text(path, shown))
    except ValueError as error:
        raise complaint(shown, None, "", str(error)) from error
    found = {}
    for alias, value in document.items():
        try:
            check(alias)
        except InvalidRequest as error:
            raise complaint(shown, None, "", error.message) from None
        number = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(number, str) or not _NUMBER.fullmatch(number):
            raise complaint(shown, None, alias, f"must be the number of a version, not {value!r}")
        found[alias] = number
    return found


def resolve(name: str, aliases: Mapping[str, str], wanted: str) -> str:
    """The number of the version that a number or an alias stands for."""
    if is_number(wanted):
        return wanted
    if wanted not in aliases:
        there = f"there are {', '.join(sorted(aliases))}" if aliases else "there are none"
        raise UnknownModel(
            f"Request for unknown model: '{name}' version {wanted[:80]} is not found among aliases; {there}"
        )
    return aliases[wanted]


def promote(directory: Path, alias: str, wanted: str, by: str, reason: str = "", served: str = "") -> Change:
    """Give the alias to a version. What was in production becomes `previous`: the version that had the alias or, if
    none had it yet, the one that `served` names. Nothing is written if nothing changes."""
    check(alias)
    _check_text("who promotes", by, MAX_WHO)
    _check_text("the reason", reason, MAX_REASON)
    try:
        with (directory / HISTORY).open("a+b") as history:
            fcntl.flock(history, fcntl.LOCK_EX)  # until it is closed
            aliases = read(directory)
            number = resolve(directory.name, aliases, wanted)
            existing(directory, number)
            before = aliases.get(alias, "")
            change = Change(datetime.now(UTC).isoformat(timespec="seconds"), by, alias, before, number, reason)
            if before == number:
                return change
            changed = {**aliases, alias: number}
            left = before or served
            if alias == PRODUCTION and left not in ("", number):
                changed[PREVIOUS] = left
            if len(changed) > MAX_ALIASES:
                raise InvalidRequest(f"'{directory.name}' has {MAX_ALIASES} aliases already")
            _write(directory, changed, history, change)
            return change
    except OSError as error:
        raise ModelError(f"{directory.name}/{HISTORY}: cannot be written: {system_reason(error)}") from error


def remove(directory: Path, alias: str, by: str, reason: str = "") -> Change:
    """Take an alias away from whichever version has it."""
    check(alias)
    _check_text("who removes", by, MAX_WHO)
    _check_text("the reason", reason, MAX_REASON)
    if not (directory / ALIASES).exists():
        resolve(directory.name, {}, alias)  # which raises, and leaves no history of nothing
    try:
        with (directory / HISTORY).open("a+b") as history:
            fcntl.flock(history, fcntl.LOCK_EX)  # until it is closed
            aliases = read(directory)
            before = resolve(directory.name, aliases, alias)
            change = Change(datetime.now(UTC).isoformat(timespec="seconds"), by, alias, before, "", reason)
            _write(directory, {name: number for name, number in aliases.items() if name != alias}, history, change)
            return change
    except OSError as error:
        raise ModelError(f"{directory.name}/{HISTORY}: cannot be written: {system_reason(error)}") from error


def history(directory: Path) -> list[Change]:
    """Every change, the latest last; a line that is not one is left out."""
    path = directory / HISTORY
    if not path.exists():
        return []
    found = []
    for count, line in enumerate(read_text(path, f"{directory.name}/{HISTORY}").splitlines(), 1):
        try:
            found.append(_change(json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            if line.strip():
                log.warning("%s, line %d, is not what was written there", path, count)
    return found


def existing(directory: Path, number: str) -> None:
    """Raise if the model has no such version."""
    if _NUMBER.fullmatch(number) and (directory / number).is_dir():
        return
    numbers = sorted((path.name for path in directory.iterdir() if _NUMBER.fullmatch(path.name)), key=int)
    there = f"there are {', '.join(numbers)}" if numbers else "there are none"
    raise UnknownModel(f"'{directory.name}' has no version {number[:32]}; {there}")


def _write(directory: Path, aliases: Mapping[str, str], history: BufferedRandom, change: Change) -> None:
    """The history first: a change that nobody can tell of is not made. It is taken back if the change fails."""
    end = history.seek(0, os.SEEK_END)
    line = json.dumps(asdict(change), ensure_ascii=False).encode() + b"\n"
    if end:
        history.seek(end - 1)
        line = line if history.read(1) == b"\n" else b"\n" + line  # after one that was cut off
    try:
        history.write(line)
        history.flush()
        os.fsync(history.fileno())
        rows = "".join(f'{_key(alias)} = "{number}"\n' for alias, number in sorted(aliases.items()))
        write_text(directory / ALIASES, _HEADING + rows)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(history.fileno(), end)
        raise


def _key(alias: str) -> str:
    return f'"{alias}"' if "." in alias else alias


def _check_text(what: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise InvalidRequest(f"{what}: longer than {longest} characters")
    if not text.isprintable():
        raise InvalidRequest(f"{what}: must be one line of printable text")


def _change(value: object) -> Change:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("not a change")
    return Change(**value)
