"""A text as tokens, and how one that is too long is cut, or read in windows.

The library cuts pairs too, but makes a window of each part of the first text with each part of the second, whether
they are wanted or not, and panics where nothing is left beside the overlap. So pairs and windows are cut here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from sluice.errors import InvalidRequest

# A text that needs more windows is refused.
MOST_WINDOWS_OF_TEXT = 64

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Cut:
    """What becomes of a text that is too long."""

    length: int  # tokens that are left, special ones included
    direction: Literal["right", "left"] = "right"  # the end that goes
    overlap: int | None = None  # None: the rest is dropped; else it becomes further windows, which share so many tokens


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as its model sees it."""

    ids: IntArray
    type_ids: IntArray | None  # None: all are 0
    is_cut: bool = False
    offsets: tuple[tuple[int, int], ...] = ()  # characters of the text, for each token
    special: tuple[bool, ...] = ()  # with offsets: which tokens are not of the text
    sequences: tuple[int | None, ...] = ()  # with offsets: which text of a pair each token is of
    windows: tuple[Encoded, ...] = ()  # what follows, if it was cut with an overlap

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def total(self) -> int:
        """Tokens that are computed, in all windows."""
        return len(self) + sum(map(len, self.windows))


def parted(whole: Encoded, sequences: Sequence[int | None], cut: Cut) -> Encoded | InvalidRequest:
    """A text that is too long, cut; `sequences` says which text of a pair each token is of, None for special ones.

    Special tokens stay. Of a pair the longer text is cut first; if it is read in windows, each has the first text and
    a part of the second one.
    """
    of = np.array([-1 if one is None else one for one in sequences], np.int64)
    first, second = np.flatnonzero(of == 0), np.flatnonzero(of == 1)
    room = cut.length - int(np.count_nonzero(of < 0))
    if room < 0:
        return whole  # and so too long
    if cut.overlap is None:
        kept = _balanced(len(first), len(second), room)
        return _part(whole, of, (_end(first, kept[0], cut), _end(second, kept[1], cut)))
    if not len(second):
        fixed, moving = second, first
    else:
        fixed, moving = first, second
        room -= len(fixed)
    if room <= cut.overlap:
        return InvalidRequest(
            f"the first text has {len(fixed)} tokens, which leaves no room for windows of the second beside it"
            if len(fixed)
            else f"windows of {cut.length} tokens leave no room for more than the overlap"
        )
    step = room - cut.overlap
    count = 1 + -(-(len(moving) - room) // step)
    if count > MOST_WINDOWS_OF_TEXT:
        return InvalidRequest(
            f"has {len(whole)} tokens, which are {count} windows of {cut.length}, and at most "
            f"{MOST_WINDOWS_OF_TEXT} are read; shorten it"
        )
    ends = [len(moving) - step * number for number in range(count)]  # if it begins at the right
    parts = [
        moving[max(0, end - room) : end] if cut.direction == "left" else moving[len(moving) - end :][:room]
        for end in ends
    ]
    head, *rest = (_part(whole, of, (fixed, part)) for part in parts)
    return replace(head, windows=tuple(rest))


def _balanced(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text of a pair are left."""
    shorter = min(first, second, room // 2)
    longer = min(max(first, second), room - shorter)
    return (longer, shorter) if first > second else (shorter, longer)


def _end(places: IntArray, count: int, cut: Cut) -> IntArray:
    return places[:count] if cut.direction == "right" else places[len(places) - count :]


def _part(whole: Encoded, of: IntArray, own: Sequence[IntArray]) -> Encoded:
    kept = np.sort(np.concatenate([np.flatnonzero(of < 0), *own]))
    return Encoded(
        ids=whole.ids[kept],
        type_ids=whole.type_ids[kept] if whole.type_ids is not None else None,
        is_cut=True,
        offsets=tuple(whole.offsets[index] for index in kept) if whole.offsets else (),
        special=tuple(whole.special[index] for index in kept) if whole.offsets else (),
        sequences=tuple(whole.sequences[index] for index in kept) if whole.offsets else (),
    )
