"""The two forms of a log line, and what must never be in one."""

import errno
import io
import json
import logging
import os
import re
import select
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

from sluice.config.settings import Log
from sluice.telemetry import logs

LOGGER = logging.getLogger("sluice.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Captured:
    """What was written to standard error, kept however often it is asked for."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Captured]:
    root, sluice = logging.getLogger(), logging.getLogger("sluice")
    before = (root.level, sluice.level)
    yield Captured(capsys)
    for handler in [handler for handler in root.handlers if isinstance(handler, logs.StandardError)]:
        root.removeHandler(handler)
    root.setLevel(before[0])
    sluice.setLevel(before[1])


def lines(stream: Captured) -> list[str]:
    return stream.getvalue().splitlines()


def test_json_lines(stderr: Captured) -> None:
    logs.configure(Log(format="json"))

    LOGGER.info("loaded %s", "m", extra={"model": "m", "seconds": 1.5})

    (line,) = map(json.loads, lines(stderr))
    moment = datetime.fromisoformat(line.pop("time"))
    assert moment.utcoffset() is not None
    assert line == {
        "level": "info",
        "logger": "sluice.test",
        "message": "loaded m",
        "model": "m",
        "seconds": 1.5,
    }


def test_json_time_is_utc_with_milliseconds(stderr: Captured) -> None:
    logs.configure(Log(format="json"))

    LOGGER.info("x")

    time = json.loads(stderr.getvalue())["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)


def test_json_exception_stays_on_one_line(stderr: Captured) -> None:
    logs.configure(Log(format="json"))

    try:
        raise ValueError("boom")
    except ValueError:
        LOGGER.exception("failed")

    (line,) = map(json.loads, lines(stderr))
    assert "ValueError: boom" in line["exception"]


@pytest.mark.parametrize("value", ["\ud800", 2**80, {1: 2}, object(), b"x", float("nan"), {"a", "b"}])
def test_json_takes_any_value(stderr: Captured, value: object) -> None:
    logs.configure(Log(format="json"))

    LOGGER.info("x", extra={"value": value})

    assert "value" in json.loads(stderr.getvalue())


def test_human_lines(stderr: Captured) -> None:
    logs.configure(Log(format="human"))

    LOGGER.warning("slow", extra={"model": "m", "reason": "two words"})

    (line,) = lines(stderr)
    assert re.fullmatch(r'\S+Z WARNING slow model=m reason="two words"', line)


def test_auto_is_human_with_colour_on_a_terminal_only(stderr: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    logs.configure(Log())
    LOGGER.info("x")
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.configure(Log())
    LOGGER.info("y")

    assert json.loads(stderr.getvalue())["message"] == "x"
    assert "\x1b[32mINFO" in terminal.getvalue()


@pytest.mark.parametrize("form", ["human", "json"])
def test_what_a_client_sent_cannot_start_a_new_line(stderr: Captured, form: str) -> None:
    logs.configure(Log.model_validate({"format": form}))

    LOGGER.info("model 'a\nb\x1b[2J'", extra={"id": "c\r\nd"})

    assert len(lines(stderr)) == 1
    assert "\x1b" not in stderr.getvalue()


def test_what_a_client_sent_cannot_steer_a_terminal_from_a_traceback(stderr: Captured) -> None:
    logs.configure(Log(format="human"))

    try:
        raise ValueError("\x1b[2J\r")
    except ValueError:
        LOGGER.exception("failed")

    assert lines(stderr)[-1] == r"ValueError: \x1b[2J\r"
    assert lines(stderr)[1] == "Traceback (most recent call last):"


def test_secrets_are_masked_at_any_depth(stderr: Captured) -> None:
    logs.configure(Log(format="json"))

    headers = {"Authorization": "Bearer s3cret", "accept": "json"}
    LOGGER.info("x", extra={"api_key": "s3cret", "tokens": 12, "headers": headers, "many": [{"password": "s3cret"}]})

    line = json.loads(stderr.getvalue())
    assert "s3cret" not in stderr.getvalue()
    assert line["tokens"] == 12
    assert line["headers"] == {"Authorization": logs.MASK, "accept": "json"}


@pytest.mark.parametrize(
    "key", ["token", "X-Auth-Token", "db.password", "SECRET", "api-key", "Authorization", "Cookie"]
)
def test_secret_keys(key: str) -> None:
    assert logs.mask({key: "x"}) == {key: logs.MASK}


@pytest.mark.parametrize("key", ["tokens", "padded_tokens", "keyboard", "monkey", "model"])
def test_harmless_keys(key: str) -> None:
    assert logs.mask({key: "x"}) == {key: "x"}


def test_level_holds_for_ours_and_libraries_start_at_warning(stderr: Captured) -> None:
    logs.configure(Log(format="json", level="debug"))
    logging.getLogger("asyncio").addHandler(logging.StreamHandler(sys.stderr))
    logs.configure(Log(format="json", level="debug"))

    LOGGER.debug("ours")
    logging.getLogger("asyncio").info("theirs")
    logging.getLogger("grpc._cython").warning("trouble")
    logging.getLogger("asyncio").error("more trouble")

    assert [json.loads(line)["message"] for line in lines(stderr)] == ["ours", "trouble", "more trouble"]


def test_configuring_again_replaces(stderr: Captured) -> None:
    logs.configure(Log(format="json", level="debug"))
    logs.configure(Log(format="human", level="error"))

    LOGGER.warning("hidden")
    LOGGER.error("shown")

    (line,) = lines(stderr)
    assert line.endswith("shown")


class Disk(io.StringIO):
    """A stream on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


@pytest.mark.usefixtures("stderr")  # puts the loggers back
def test_lines_that_cannot_be_written_are_lost_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr(sys, "stderr", disk)
    logs.configure(Log(format="json"))
    LOGGER.warning("first")
    disk.full = True
    for _ in range(3):
        LOGGER.warning("never seen")
    assert logs.lost() == "3 lines could not be written: No space left on device"
    disk.full = False
    LOGGER.warning("last")
    assert logs.lost() == ""
    lines = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert [line["message"] for line in lines] == [
        "first",
        "last",
        "3 lines of the log were lost: No space left on device",
    ]
    assert lines[-1]["lost"] == 3


class Pipe:
    """Standard error that somebody may read or not."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.stream = os.fdopen(self._writing, "w")

    def fill(self, *, but: int = 0) -> int:
        """Write until no more is taken, then take so many bytes out; how many are in it."""
        os.set_blocking(self._writing, False)
        size = -but
        try:
            while True:
                size += os.write(self._writing, b"-" * select.PIPE_BUF)
        except BlockingIOError:
            os.set_blocking(self._writing, True)
        if but:
            os.read(self._reading, but)
        return size

    def read(self) -> str:
        return os.read(self._reading, 1 << 20).decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self._reading)


@pytest.fixture
def pipe(stderr: Captured) -> Iterator[Pipe]:  # which puts the loggers back
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_nobody_waits_for_a_reader_who_has_stopped(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", pipe.stream)
    logs.configure(Log(format="json"))
    pipe.fill()
    for _ in range(3):
        LOGGER.warning("never seen")
    assert logs.lost() == "3 lines could not be written: nobody reads them"
    pipe.read()
    LOGGER.warning("last")
    assert logs.lost() == ""
    assert [json.loads(line)["message"] for line in pipe.read().splitlines()] == [
        "last",
        "3 lines of the log were lost: nobody reads them",
    ]


@pytest.mark.parametrize("text", ["x", "\N{SNOWMAN}"])
def test_a_line_longer_than_what_is_taken_is_cut(pipe: Pipe, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stderr", pipe.stream)
    logs.configure(Log(format="json"))
    before = pipe.fill(but=select.PIPE_BUF)
    LOGGER.warning(text * (1 << 20))
    assert logs.lost() == "1 lines could not be written: nobody reads them"
    first = pipe.read()
    assert len(first.encode()) > before
    LOGGER.warning("next")
    cut, *rest = pipe.read().splitlines()
    assert cut == ""
    assert [json.loads(line)["message"] for line in rest] == [
        "next",
        "1 lines of the log were lost: nobody reads them",
    ]


def test_long_lines_are_written_whole_where_there_is_room(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", pipe.stream)
    logs.configure(Log(format="json"))
    text = "\N{SNOWMAN}" * 10_000
    LOGGER.warning(text)
    assert json.loads(pipe.read())["message"] == text
    assert logs.lost() == ""
