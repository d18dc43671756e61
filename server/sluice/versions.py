"""Which versions there are, in which state each is, and who answers for whom.

The catalog changes the states; this file draws the conclusions from them, always at the moment of asking.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sluice.admission import fallback
from sluice.errors import NotReady, SluiceError, UnknownModel
from sluice.health import Condition, Part
from sluice.loading import Version
from sluice.request import Parameter
from sluice.store import aliases, repository

READY, UNAVAILABLE, LOADING, UNLOADING = "READY", "UNAVAILABLE", "LOADING", "UNLOADING"
UNLOADED = "unloaded"


@dataclass(slots=True)
class Status:
    """Where a version stands."""

    state: str
    reason: str = ""
    version: Version | None = None
    lost: Version | None = None  # what was live until no worker could hold it: a fallback is to be like it
    tried: object = None  # what it was when it could not be loaded
    gave_way: bool = False  # there was no room for it beside what is in production


class Route(NamedTuple):
    """Who answers a request."""

    version: Version
    number: str  # of the version asked for, which is what the client is told
    fallback: str = ""  # "name/version" if another answers

    @property
    def marks(self) -> dict[str, Parameter]:
        """What the reply says about it."""
        return {fallback.PARAMETER: self.fallback} if self.fallback else {}


class StandIn(NamedTuple):
    """Who could answer in a version's place; neither, if nobody shall."""

    version: Version | None = None
    trouble: str = ""  # why nobody can


class Versions:
    """All versions by model and number; "" is the number of a model that has none."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._default: dict[str, Version] = {}  # who answers requests that name no version
        self._aliases: dict[str, dict[str, str]] = {}
        self._kept: set[str] = set()  # models whose default stays until their aliases are known
        self.by_model: dict[str, dict[str, Status]] = {}
        self.is_changing: Callable[[str], bool] = lambda name: False  # whether somebody is about to change a model

    def known(self, name: str) -> dict[str, Status]:
        """The versions of a model; raises UnknownModel, or NotReady if it is on disk only."""
        statuses = self.by_model.get(name)
        if statuses is None:
            if not self.on_disk(name):
                raise UnknownModel(f"Request for unknown model: '{name}' is not found")
            raise NotReady(f"'{name}' is not at ready state: it is not loaded")
        return statuses

    def on_disk(self, name: str) -> bool:
        if not name or name.startswith(".") or "/" in name:
            return False
        try:
            return (self._repository / name).is_dir()
        except (OSError, ValueError):  # a name that no file can have
            return False

    def names_on_disk(self) -> list[str]:
        """As they can be told; what cannot, since it is no UTF-8, is escaped as `repository` does it."""
        try:
            with os.scandir(self._repository) as entries:  # which asks the disk about links only
                found = [one.name for one in entries if not one.name.startswith(".") and _is_directory(one)]
            return sorted(map(repository.printable, found))
        except OSError:
            return []

    def forget_deleted(self, on_disk: Container[str]) -> None:
        """Models that were unloaded and are not there any more are not known any more."""
        for name, statuses in list(self.by_model.items()):
            unloaded = statuses and all(status.reason == UNLOADED for status in statuses.values())
            if unloaded and name not in on_disk and not self.is_changing(name):
                self.forget(name)

    def forget(self, name: str) -> None:
        """It is as if there had never been such a model."""
        self.by_model.pop(name, None)
        self._aliases.pop(name, None)
        self._default.pop(name, None)
        self._kept.discard(name)

    def all_live(self) -> list[Version]:
        return [version for name in self.by_model for version in self.live_of(name)]

    def live_of(self, name: str) -> list[Version]:
        versions = [status.version for status in self.by_model.get(name, {}).values()]
        return [version for version in versions if version is not None]

    def choose_default(self, name: str) -> None:
        """What serves has changed: requests that name no version go to the one in production or, if there is no such
        alias, to the latest that is live."""
        statuses = self.by_model[name]
        ready = [number for number, status in statuses.items() if status.state == READY]
        if name in self._kept and self.default(name) in ready:
            ready = [self.default(name)]
        elif chosen := self.aliases(name).get(aliases.PRODUCTION):
            ready = [chosen] if chosen in ready else []
        default = statuses[max(ready, key=int)].version if ready else None
        if default is None:
            self.forget_default(name)
        else:
            self._default[name] = default

    def forget_default(self, name: str) -> None:
        self._default.pop(name, None)

    def keep_default(self, name: str) -> None:
        """What is brought up from here on answers nothing that it is not asked by number, as long as what answers now
        can: it is still to be named."""
        self._kept.add(name)

    def release_default(self, name: str) -> None:
        self._kept.discard(name)

    # What the versions are called.

    def aliases(self, name: str) -> Mapping[str, str]:
        return self._aliases.get(name, {})

    def name_them(self, name: str, found: Mapping[str, str]) -> None:
        """The aliases are these from now on; but production stays with what serves, rather than go to what does not."""
        self.release_default(name)
        named = dict(found)
        status = self.by_model[name].get(named.get(aliases.PRODUCTION, ""))
        serving = self._default.get(name)
        if aliases.PRODUCTION in named and serving is not None and (status is None or status.state != READY):
            named[aliases.PRODUCTION] = serving.number
        self._aliases[name] = named

    def blame_production(self, name: str, reason: str) -> None:
        """Why what is in production should not be there; empty if it may be."""
        chosen = self.aliases(name).get(aliases.PRODUCTION, "")
        for number, status in self.by_model[name].items():
            if status.state == READY:
                status.reason = reason if number == chosen else ""

    def default(self, name: str) -> str:
        """The number of the version that answers requests that name none; "" while there is none."""
        version = self._default.get(name)
        return version.number if version is not None else ""

    def _numbered(self, name: str, asked: str) -> str:
        """The number of the version asked for; "" = the latest."""
        if not asked:
            return self.aliases(name).get(aliases.PRODUCTION, "")
        if aliases.is_number(asked):
            return asked
        self.known(name)
        return aliases.resolve(name, self.aliases(name), asked)

    def expected(self, name: str) -> bool:
        """Whether what answers requests that name no version is or was live, and has not been unloaded."""
        statuses = self.by_model[name]
        if chosen := self.aliases(name).get(aliases.PRODUCTION):
            statuses = {number: status for number, status in statuses.items() if number == chosen}
        return any(status.state == READY or status.lost is not None for status in statuses.values())

    # Who answers.

    def live(self, name: str, number: str = "") -> Version:
        """The version that serves, by number or alias; without one that in production or else the latest live one."""
        if not number:
            default = self._default.get(name)
            if default is not None:
                return default
        asked, number = number, self._numbered(name, number)
        statuses = self.known(name)
        if number:
            status = statuses.get(number)
            if status is None and not asked:
                raise NotReady(f"'{name}' version {number} is not at ready state: it is in production, but not loaded")
            if status is None:
                raise UnknownModel(f"Request for unknown model: '{name}' version {number} is not found")
            if status.version is None or status.state != READY:
                raise NotReady(f"'{name}' version {number} is not at ready state{_because(status.reason)}")
            return status.version
        known = sorted((number for number in statuses if number), key=int)
        last = known[-1] if known else "-1"
        reason = statuses[last].reason if known else next((status.reason for status in statuses.values()), "")
        raise NotReady(f"'{name}' version {last} is not at ready state{_because(reason)}")

    def route(self, name: str, number: str = "") -> Route:
        """Who answers a request: the version asked for or, while it is broken, its fallback."""
        try:
            asked = self.live(name, number)
        except NotReady:
            lost = self._lost(name, self._numbered(name, number))
            other = self._able_stand_in(lost) if lost is not None else None
            if lost is None or other is None:
                raise
            return Route(other, lost.number, full_name(other))
        if _broken(asked) and (other := self._able_stand_in(asked)) is not None:
            return Route(other, asked.number, full_name(other))
        return Route(asked, asked.number)

    def _lost(self, name: str, number: str) -> Version | None:
        """The version, or without a number the latest one, that went out of service."""
        statuses = self.by_model.get(name, {})
        for one in [number] if number else sorted(filter(None, statuses), key=int, reverse=True):
            status = statuses.get(one)
            if status is not None and status.lost is not None:
                return status.lost
        return None

    def stand_in(self, version: Version) -> StandIn:
        """Its fallback, whether it is needed now or not."""
        wanted = version.files.settings.fallback
        if not wanted:
            return StandIn()
        name, _, number = wanted.partition("/")
        try:
            other = self.live(name, number)
        except SluiceError as error:
            return StandIn(trouble=f"its fallback '{wanted}' cannot answer: {error.message}")
        if full_name(other) == full_name(version):
            # One line in a model's settings makes one of its versions the fallback of all, itself included.
            return StandIn() if number else StandIn(trouble=f"its fallback '{wanted}' is itself")
        difference = fallback.difference((version.spec, version.rules), (other.spec, other.rules))
        if difference:
            return StandIn(trouble=f"its fallback '{wanted}' is of another kind: {difference}")
        return StandIn(other)

    def _able_stand_in(self, version: Version) -> Version | None:
        other = self.stand_in(version).version
        return other if other is not None and not _broken(other) else None

    # How well.

    def answered(self, name: str, number: str = "", share: float = 0.0) -> bool:
        """Requests are answered now, by a version that at least this share of its workers hold."""
        try:
            version = self.route(name, number).version
        except NotReady:
            return False
        holding = _holding(version)
        return version.circuit.closed and holding > 0 and holding >= share * len(version.workers)

    def remark(self, status: Status) -> str:
        """The first thing that is not as it should be."""
        version = status.version
        if status.reason or version is None:
            return status.reason
        return _broken(version) or self.stand_in(version).trouble or version.trouble

    def part(self, name: str, status: Status) -> Part:
        """A version's condition, with everything that is not as it should be."""
        version = status.version or status.lost
        if version is None:
            condition = Condition.DEGRADED if status.state == LOADING else Condition.FAILED
            return Part("model", name, condition, status.reason or status.state.lower())
        reasons = [status.reason]
        serving = False
        if status.version is not None:
            holding, total = _holding(version), len(version.workers)
            serving = holding > 0 and version.circuit.closed
            reasons += [_broken(version), f"held by {holding} of its {total} workers" if holding < total else ""]
        if not serving and (other := self._able_stand_in(version)) is not None:
            serving = True
            reasons.append(f"'{full_name(other)}' answers instead")
        reasons.append(self.stand_in(version).trouble)
        reason = "; ".join(filter(None, reasons))
        if not serving:
            return Part("model", name, Condition.FAILED, reason)
        return Part("model", name, Condition.DEGRADED if reason else Condition.OK, reason or version.trouble)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # as of a link that leads to itself
        return False


def full_name(version: Version) -> str:
    return f"{version.spec.name}/{version.number}"


def _holding(version: Version) -> int:
    return sum(worker.holds(version.lane.key) for worker in version.workers)


def _broken(version: Version) -> str:
    """Why its requests are not tried; empty while they are."""
    circuit = version.circuit
    if not circuit.closed:
        return f"its circuit is {circuit.phase.value.replace('_', '-')}: {circuit.reason}"
    return "" if version.lane.policy.workers else version.absent()


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
