"""How far a download is: the segments of its file, noted beside what came of it, so that it can be continued."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from sluice.errors import ModelError

DATA = "data"
STARTS = 3  # how often a file may change, or its download begin anew, while it is downloaded
_STATE = "state.json"
_SPARE = 64 << 20  # left free on the disk
_LONGEST_PAUSE = 60.0


class Segment(msgspec.Struct):
    start: int
    end: int
    done: int = 0

    @property
    def position(self) -> int:
        return self.start + self.done

    @property
    def is_done(self) -> bool:
        return self.position >= self.end


class State(msgspec.Struct):
    """How far a download is."""

    validator: str  # of the state of the source that is downloaded; "" = it cannot be continued
    segments: list[Segment] = msgspec.field(default_factory=list)  # all of the file, in order

    @property
    def size(self) -> int:
        return self.segments[-1].end if self.segments else 0


class Changed(Exception):
    """The source is not what it was when the download began."""


class Stopped(Exception):
    """Something else failed or was interrupted, which ends this as well."""


class Failed(OSError):
    """An attempt brought less than it should; another one may bring more."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.strerror = why
        self.retry_after = retry_after


def load(place: Path) -> State:
    """What is noted in the directory of a download; a state without segments if it cannot be continued."""
    try:
        state = msgspec.json.decode((place / _STATE).read_bytes(), type=State)
        size = (place / DATA).stat().st_size
    except (OSError, msgspec.MsgspecError):
        return State("")
    whole = all(0 <= each.done <= each.end - each.start for each in state.segments)
    ends = [0, *(each.end for each in state.segments)]
    joined = [each.start for each in state.segments] == ends[:-1]
    return state if whole and joined and state.validator and size == state.size else State("")


def save(place: Path, state: State) -> None:
    with suppress(OSError):  # what is not noted is downloaded again
        temporary = place / f".{_STATE}"
        temporary.write_bytes(msgspec.json.encode(state))
        temporary.replace(place / _STATE)


def begin(place: Path, state: State) -> None:
    """Make the empty file; ModelError if the disk has no room for it."""
    free = shutil.disk_usage(place).free - _SPARE
    if state.size > free:
        raise ModelError(f"{place}: the file has {state.size} bytes, and {max(free, 0)} can be taken on the disk")
    with (place / DATA).open("wb") as file:
        file.truncate(state.size)
    save(place, state)


def write(file: int, content: bytes, at: int) -> None:
    """All of it: a disk that gets full takes some, and says so only when it is given the rest."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file, rest, at)
        rest, at = rest[written:], at + written


def pause(failures: int, first: float, asked: float) -> float:
    """Seconds before the next attempt: longer each time, and as long as the other side asked."""
    back_off = first * 2.0 ** (failures - 1) * random.uniform(0.5, 1.5)  # noqa: S311
    return min(max(back_off, asked), _LONGEST_PAUSE)
