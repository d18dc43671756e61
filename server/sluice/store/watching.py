"""Says which models of a repository have changed and come to rest; asked again and again, it only compares what it saw.

The law of this file: nothing is said to have changed while it still does. A file that grows, a version without all
the files that its manifest names, or with one that is being downloaded, is left alone until it is complete, and so are
names that are no model's, as those that begin with a dot. It costs a `stat` for each file, and runs in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sluice.errors import ModelError
from sluice.store import manifest
from sluice.store.aliases import HISTORY
from sluice.store.repository import is_name, is_number

# Looks without a change after which something is at rest.
AT_REST = 2
_UNFINISHED = re.compile(r".*\.(tmp|part|partial|swp|crdownload|download)|.*~")

_Seen = tuple[tuple[str, int, int], ...]


class Vanished(OSError):
    """Every model is gone at once, which is a volume that is not mounted rather than somebody's wish."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A model's files are other than they were when that was last said of it."""

    name: str
    gone: bool = False


@dataclass(slots=True)
class _Thing:
    """Something that is looked at; None is what is not there."""

    seen: _Seen | None = None
    same: int = 0  # looks at which it was as before

    def look(self, seen: _Seen | None) -> None:
        self.same = self.same + 1 if seen == self.seen else 0
        self.seen = seen

    @property
    def at_rest(self) -> bool:
        return self.same >= AT_REST


@dataclass(slots=True)
class _Model:
    directory: Path
    own: _Thing = field(default_factory=_Thing)
    versions: dict[str, _Thing] = field(default_factory=dict)
    told: tuple[_Seen | None, dict[str, _Seen]] | None = None
    unfinished: dict[str, str] = field(default_factory=dict)  # version -> what is missing, if that is known
    missing: int = 0  # looks at which it was not there

    def look(self) -> bool:
        """Whether it has changed, and come to rest, since that was last said."""
        self._see()
        told = self.told[1] if self.told is not None else {}
        state: dict[str, _Seen] = {}
        for number, thing in list(self.versions.items()):
            if not thing.at_rest:
                if number in told:
                    state[number] = told[number]
            elif thing.seen is None:
                del self.versions[number]
            else:
                state[number] = thing.seen
        self._judge()
        if not self.own.at_rest or (self.own.seen, state) == self.told:
            return False
        if self.told is None and not state:
            return False  # of a new model there is no version at rest yet
        self.told = self.own.seen, state
        return True

    def accept(self) -> None:
        """What there is now has been dealt with."""
        self._see()
        for thing in (self.own, *self.versions.values()):
            thing.same = AT_REST
        self.told = self.own.seen, {number: thing.seen for number, thing in self.versions.items() if thing.seen}

    def _see(self) -> None:
        own, versions = _look_at(self.directory)
        self.own.look(own)
        for number in self.versions.keys() | versions.keys():
            self.versions.setdefault(number, _Thing()).look(versions.get(number))

    def _judge(self) -> None:
        """Which versions are not complete. Each is looked into once when it has come to rest."""
        for number, thing in self.versions.items():
            if not thing.at_rest:
                self.unfinished[number] = ""
            elif thing.same == AT_REST and thing.seen is not None:
                self.unfinished.pop(number, None)
                if why := lacking(self.directory / number):
                    self.unfinished[number] = why
        for number in self.unfinished.keys() - self.versions.keys():
            del self.unfinished[number]


class Watch:
    """Compares a repository with what it was at the last look."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._models: dict[str, _Model] = {}

    def begin(self) -> None:
        """What is there now is about to be loaded."""
        try:
            names = self._names()
        except OSError:
            return  # which is said by whoever loads it
        self._models = {name: _Model(self._repository / name) for name in names}
        for model in self._models.values():
            model.accept()

    def unfinished(self, name: str) -> Mapping[str, str]:
        """Versions that are not complete, with what they lack if that is known."""
        model = self._models.get(name)
        return dict(model.unfinished) if model is not None else {}

    def look(self) -> list[Changed]:
        """What has changed; OSError if the repository cannot be read."""
        names = self._names()
        if self._models and not names:
            raise Vanished("every model is gone at once, so what serves is kept")
        changes = []
        for name in list(self._models.keys() - set(names)):
            model = self._models[name]
            model.missing += 1
            if model.missing > AT_REST:
                del self._models[name]
                changes.append(Changed(name, gone=True))
        for name in names:
            model = self._models.setdefault(name, _Model(self._repository / name))
            model.missing = 0
            if model.look():
                changes.append(Changed(name))
        return changes

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._repository.iterdir() if is_name(path.name) and _is_directory(path))


def lacking(directory: Path) -> str:
    """What a version's directory does not have yet; empty if nothing is known to be missing."""
    place = f"{directory.parent.name}/{directory.name}"
    try:
        for path in sorted(directory.rglob("*")):
            if _UNFINISHED.fullmatch(path.name):
                return f"it is not complete: {place}/{path.relative_to(directory)} is still being written"
        said = manifest.read(directory)
    except ModelError as error:
        return error.message
    except OSError as error:
        return f"{place}: cannot be read: {error.strerror}"
    if said is None:
        return ""
    wrong = [entry.path for entry in said.files if _size(directory / entry.path) != entry.size]
    if not wrong:
        return ""
    count = f"{len(wrong)} of the {len(said.files)} files that its manifest names"
    return f"it is not complete: {count} are not there or not of that size, as {place}/{wrong[0]}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _look_at(directory: Path) -> tuple[_Seen | None, dict[str, _Seen]]:
    """What lies in a model's directory: what is its own, and what is each version's."""
    own: list[tuple[str, int, int]] = []
    versions: dict[str, _Seen] = {}
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return None, {}
    for entry in entries:
        if is_number(entry.name) and _is_directory(entry):
            versions[entry.name] = tuple(sorted(_below(entry.path)))
        elif is_name(entry.name) and entry.name != HISTORY:
            if _is_directory(entry):
                own += sorted(_below(entry.path))
            else:
                own.append(_stat(entry.path))
    return tuple(own), versions


def _is_directory(entry: os.DirEntry[str] | Path) -> bool:
    """What cannot be asked, as a link that leads to itself, is none; it must not hide all the others."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _below(top: str) -> Iterator[tuple[str, int, int]]:
    for folder, _, names in os.walk(top):
        for name in names:
            yield _stat(os.path.join(folder, name))


def _stat(path: str) -> tuple[str, int, int]:
    try:
        seen = os.stat(path)
    except OSError:  # gone since, or a link that leads nowhere
        return path, -1, -1
    return path, seen.st_mtime_ns, seen.st_size
