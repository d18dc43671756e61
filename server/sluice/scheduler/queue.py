"""The entries waiting for one version, sorted twice: by urgency over all, and by length within each group."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from sortedcontainers import SortedKeyList

from sluice.scheduler.entry import Entry


def _by_urgency(entry: Entry) -> tuple[float, int]:
    return entry.urgency, entry.sequence


def _by_length(entry: Entry) -> tuple[int, float, int]:
    return entry.work.length, entry.urgency, entry.sequence


class Queue:
    """Cheap to add to, remove from anywhere, and look around the most urgent entry."""

    def __init__(self) -> None:
        self._urgent = SortedKeyList(key=_by_urgency)
        self._groups: dict[Hashable, SortedKeyList] = {}
        self.rows = 0

    def __len__(self) -> int:
        return len(self._urgent)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._urgent)

    def add(self, entry: Entry) -> None:
        self._urgent.add(entry)
        group = self._groups.get(entry.group)
        if group is None:
            group = self._groups[entry.group] = SortedKeyList(key=_by_length)
        group.add(entry)
        self.rows += entry.work.rows
        entry.waiting = True

    def remove(self, entry: Entry) -> None:
        """Take out an entry that waits here."""
        self._urgent.remove(entry)
        group = self._groups[entry.group]
        group.remove(entry)
        if not group:
            del self._groups[entry.group]
        self.rows -= entry.work.rows
        entry.waiting = False

    def most_urgent(self) -> Entry | None:
        return self._urgent[0] if self._urgent else None

    def neighbours(self, entry: Entry) -> tuple[SortedKeyList, int]:
        """Its group sorted by length, and where it stands in it."""
        group = self._groups[entry.group]
        return group, group.index(entry)
