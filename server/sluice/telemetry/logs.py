"""Structured logs to standard error: one JSON object per line, or lines for people."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from sluice.config.settings import Log

# What a LogRecord carries by itself; everything else on it came through `extra`.
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}

_SECRET_WORDS = frozenset(
    {"token", "password", "passwd", "secret", "key", "apikey", "authorization", "credential", "credentials", "cookie"}
)
_WORDS = re.compile(r"[^a-z0-9]+")
MASK = "***"

# Anything that could start a new line or steer a terminal: messages may hold what a client sent.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_COLOURS = {
    logging.DEBUG: "2",
    logging.INFO: "32",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}

# A pipe or terminal that takes anything takes so many bytes at once; and no character has more than four of them.
_TAKEN_AT_ONCE = select.PIPE_BUF
_WIDEST = 4

# Libraries that bring handlers of their own; their lines go through ours, from warnings up.
_LIBRARIES = ("grpc", "asyncio")


def configure(settings: Log) -> None:
    """Send everything logged in this process to standard error in the configured form; may be called again."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, StandardError)]:
        root.removeHandler(handler)
    human = settings.format == "human" or (settings.format == "auto" and sys.stderr.isatty())
    handler = StandardError(sys.stderr)
    handler.setFormatter(HumanFormatter(coloured=_takes_colour(sys.stderr)) if human else JsonFormatter())
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("sluice").setLevel(settings.level.upper())
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.NOTSET)


def mask(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with secret values hidden at any depth; a key is judged by its words (`api_key`, `X-Token`)."""
    return {key: MASK if is_secret(str(key)) else _mask_inside(value) for key, value in fields.items()}


def is_secret(key: str) -> bool:
    return not _SECRET_WORDS.isdisjoint(_WORDS.split(key.lower()))


def _mask_inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return mask(value)
    if isinstance(value, list | tuple):
        return [_mask_inside(item) for item in value]
    return value


class StandardError(logging.StreamHandler[TextIO]):
    """The handler that `configure` installs, so that it finds its own again.

    A line that cannot be written, on a full disk say, is lost and counted; how many is said once lines can be written
    again. Nobody is told by a traceback, which could not be written either. Nor does anybody wait for a reader who has
    stopped: most lines are written by the event loop's thread, and the whole server would stop with him.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.lost = 0
        self.reason = ""
        self._cut = False  # the last line has no end
        self._poll = _poll(stream)

    def emit(self, record: logging.LogRecord) -> None:
        lost = self.lost
        try:
            self._write(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)
        if lost and lost == self.lost:
            self.lost, reason = 0, self.reason
            extra = {"lost": lost}
            logging.getLogger("sluice.log").warning("%d lines of the log were lost: %s", lost, reason, extra=extra)
            if self.lost:
                self.lost = lost  # they could not be told of

    def _write(self, text: str) -> None:
        """As much at a time as is taken without waiting."""
        if self._cut:
            text = self.terminator + text
        size = _TAKEN_AT_ONCE if text.isascii() else _TAKEN_AT_ONCE // _WIDEST
        for start in range(0, len(text), size):
            if not self._takes():
                raise BlockingIOError
            self.stream.write(text[start : start + size])
            self.flush()
            self._cut = start + size < len(text)

    def _takes(self) -> bool:
        return self._poll is None or bool(self._poll.poll(0))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class calls it so
        error = sys.exception()
        if isinstance(error, OSError):
            self.lost += 1
            self.reason = "nobody reads them" if isinstance(error, BlockingIOError) else os.strerror(error.errno or 0)
        else:
            super().handleError(record)


def _poll(stream: TextIO) -> select.poll | None:
    """Tells whether the stream would take something now; none for a stream without a file."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll


def lost() -> str:
    """What cannot be logged now, and why; empty if all is well."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, StandardError) and handler.lost:
            return f"{handler.lost} lines could not be written: {handler.reason}"
    return ""


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if failure := _failure(self, record):
            line["exception"] = failure
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # lone surrogates, integers beyond 64 bits
            return json.dumps(line, default=str)


class HumanFormatter(logging.Formatter):
    """Time, level, message and the extra fields; an exception's traceback follows on its own lines."""

    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:<7}"
        if self._coloured:
            level = f"\x1b[{_COLOURS.get(record.levelno, '0')}m{level}\x1b[0m"
        parts = [_time(record), level, _escape(record.getMessage())]
        parts.extend(f"{key}={_show(value)}" for key, value in _extras(record).items())
        line = " ".join(parts)
        failure = _failure(self, record)
        return "\n".join([line, *map(_escape, failure.split("\n"))]) if failure else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return mask({key: value for key, value in record.__dict__.items() if key not in _OWN})


def _failure(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _show(value: Any) -> str:
    text = _escape(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or any(sign in text for sign in ' "=') else text


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def _takes_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")
