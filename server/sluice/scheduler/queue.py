"""The entries waiting for one version, sorted twice: by urgency over all, and by length within each group."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What the policy needs to know of an entry. None of it may change while the entry waits."""

    @property
    def rows(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def group(self) -> Hashable:
        """Only entries of one group share a batch."""

    @property
    def arrival(self) -> float: ...
    @property
    def due(self) -> float:
        """By when the answer is wanted."""

    @property
    def shift(self) -> float:
        """Seconds its priority is worth; negative is more urgent."""

    @property
    def tenant(self) -> Hashable: ...
    @property
    def sequence(self) -> int:
        """Arrival number: unique, breaks ties."""


W = TypeVar("W", bound=Waiting)


class Place(Generic[W]):
    """An entry's place in a queue, with what was worked out for it when it came."""

    __slots__ = ("due", "entry", "group", "span", "timely", "urgency", "work")

    def __init__(self, entry: W, due: float, urgency: float, work: float, span: int) -> None:
        self.entry = entry
        self.due = due
        self.urgency = urgency  # latest start, shifted by its priority: the smallest goes first
        self.work = work  # the least worker's seconds it can cost
        self.span = span  # the span of time its due falls into, for the forecast
        self.group: Group[W] | None = None
        self.timely = True  # False once it can no longer be answered in time

    @property
    def waiting(self) -> bool:
        return self.group is not None

    def __lt__(self, other: Place[W]) -> bool:
        return self.entry.sequence < other.entry.sequence


class Group(Generic[W]):
    """Entries that may share a batch, sorted by length, of one length by urgency; columns, so that a window around
    any of them can be looked at as arrays."""

    __slots__ = ("dues", "key", "lengths", "places", "rows", "sizes", "urgencies")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.places: list[Place[W]] = []
        self.lengths = array("q")
        self.urgencies = array("d")
        self.dues = array("d")
        self.rows = array("f")  # what windows compute with; exact up to 16 million
        self.sizes = array("q")

    def __len__(self) -> int:
        return len(self.places)

    def add(self, place: Place[W]) -> None:
        entry = place.entry
        length = entry.length
        at = bisect_right(self.lengths, length)
        first = at
        if at and self.lengths[at - 1] == length:
            first = bisect_left(self.lengths, length, 0, at)
            at = bisect_right(self.urgencies, place.urgency, first, at)
            # Ties by arrival, so that the order of equals is always the same.
            while at > first and self.urgencies[at - 1] == place.urgency:
                if self.places[at - 1].entry.sequence < entry.sequence:
                    break
                at -= 1
        self.places.insert(at, place)
        self.lengths.insert(at, length)
        self.urgencies.insert(at, place.urgency)
        self.dues.insert(at, place.due)
        self.rows.insert(at, entry.rows)
        self.sizes.insert(at, entry.size)

    def find(self, place: Place[W]) -> int:
        first = bisect_left(self.lengths, place.entry.length)
        at = first
        if self.places[at] is not place:
            at = bisect_left(
                self.urgencies, place.urgency, first, bisect_right(self.lengths, place.entry.length, first)
            )
            while self.places[at] is not place:
                at += 1
        return at

    def cut(self, first: int, end: int) -> list[Place[W]]:
        """Take a window out."""
        gone = self.places[first:end]
        for column in (self.lengths, self.urgencies, self.dues, self.rows, self.sizes):
            del column[first:end]
        del self.places[first:end]
        return gone


class Queue(Generic[W]):
    """Cheap to add to, to take windows from, and to look around the most urgent entry."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, Group[W]] = {}
        # By urgency; with gone ones, which are skipped. New ones belong near the end, where inserting costs least.
        self._urgent: list[tuple[float, int, Place[W]]] = []
        self._first = 0  # all before are gone
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Place[W]]:
        """Most urgent first; those that leave meanwhile are left out."""
        self.anchor()
        urgent, at = self._urgent, self._first
        while at < len(urgent):
            place = urgent[at][2]
            at += 1
            if place.group is not None:
                yield place

    def add(self, place: Place[W]) -> None:
        key = place.entry.group
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        group.add(place)
        place.group = group
        insort(self._urgent, (place.urgency, place.entry.sequence, place), self._first)
        self._count += 1

    def remove(self, place: Place[W]) -> None:
        """Take out one that waits here."""
        group = place.group
        assert group is not None
        at = group.find(place)
        self.cut(group, at, at + 1)

    def cut(self, group: Group[W], first: int, end: int) -> list[Place[W]]:
        """Take a window of a group out."""
        gone = group.cut(first, end)
        for place in gone:
            place.group = None
        self._count -= len(gone)
        if not group.places:
            del self._groups[group.key]
        if len(self._urgent) > 2 * self._count + 64:
            self._urgent = [item for item in self._urgent if item[2].group is not None]
            self._first = 0
        return gone

    def anchor(self) -> Place[W] | None:
        """The most urgent one."""
        urgent, at = self._urgent, self._first
        while at < len(urgent):
            place = urgent[at][2]
            if place.group is not None:
                self._first = at
                return place
            at += 1
        self._first = at
        return None
