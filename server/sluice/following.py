"""Makes what is live follow what was found on disk: brings versions up, puts them in each other's place, retires them.

One change of a model at a time: whoever changes one holds its lock. Whatever is wrong with one version becomes its
state's reason and touches no other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from sluice.errors import SluiceError
from sluice.loading import Loader, Version
from sluice.replacing import Replacement, Replacer
from sluice.store import aliases
from sluice.store.fingerprint import fingerprint_of, tried_of
from sluice.store.repository import Finding, VersionFiles
from sluice.versions import LOADING, READY, UNAVAILABLE, UNLOADED, UNLOADING, Status, Versions, full_name

log = logging.getLogger("sluice.catalog")

_T = TypeVar("_T")


class Allowed(NamedTuple):
    """What may be followed of what was found."""

    aliases: Mapping[str, str]
    reason: str = ""  # why what is in production should not be
    held: Collection[str] = ()  # versions that are neither brought up nor loaded anew


class Follower:
    """The only one who changes versions' states, but for those that workers lose."""

    def __init__(self, versions: Versions, loader: Loader, replacer: Replacer) -> None:
        self._versions = versions
        self._models = versions.by_model
        self._loader = loader
        self._replacer = replacer
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        versions.is_changing = self._is_locked
        self._overlays: dict[str, list[Path]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._troubles: dict[str, str] = {}  # of fallbacks, as they were last logged
        self._pending: dict[str, list[Replacement]] = {}  # by model: brought up in turn, and not in their places yet
        self.failed: Callable[[str], None] = lambda name: None  # called whenever a version cannot be brought up
        self.notify: Callable[[], None] = lambda: None  # called whenever a state changes

    def lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _is_locked(self, name: str) -> bool:
        lock = self._locks.get(name)
        return lock is not None and lock.locked()

    def in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def apply(
        self, finding: Finding, *, again: bool = True, leave: Collection[str] = (), at_start: bool = False
    ) -> list[str]:
        """Make what is live follow what was found; the reasons of what could not be. Unless `again`, what failed
        before is left alone while its files and settings are the same; and so are versions to `leave` as they are."""
        statuses = self._models.setdefault(finding.name, {})
        wanted = {files.version for files in finding.versions}
        allowed = await self._allowed(finding, at_start)
        finding = self._without_held(finding, allowed)
        leave = {*leave, *allowed.held}
        problems = self._note_problems(finding)
        if wanted:
            self._forget_unloaded(finding.name, wanted)
        self._name_at_first(finding)
        kept = wanted | {number for number, _ in finding.problems} | {*finding.aliases.values()}
        outcomes = await self._bring_up_all(finding, kept, again, leave)
        problems += [reason for reason in outcomes if reason]
        for note in finding.settings.notes if finding.settings is not None else ():
            log.info("model '%s': %s", finding.name, note)
        if wanted:
            self._versions.name_them(finding.name, finding.aliases)
            self._versions.blame_production(finding.name, allowed.reason)
        kept |= {*self._versions.aliases(finding.name).values()}
        # Nothing is taken down for what could not be read, or could not be brought up.
        leaving = list(statuses.keys() - kept) if wanted and not any(outcomes) else []
        for number in leaving:  # before the default is chosen: what leaves gets no more requests
            statuses[number].state = UNLOADING
        self._versions.choose_default(finding.name)
        await asyncio.gather(*(self.retire(finding.name, number) for number in leaving))
        await self.settle(finding.name)
        self.notify()
        return problems

    async def approved(
        self, name: str, directory: Path, found: Mapping[str, str], there: Collection[str], *, at_start: bool = False
    ) -> Allowed:
        """What may be followed of what was found, as versions and aliases. Nothing unapproved takes the place of what
        serves, under another number or its own; nor does it begin to serve, but at the start of the server."""
        lacking = self._loader.approval.lacking
        serving, had = self._versions.default(name), self._versions.aliases(name).get(aliases.PRODUCTION, "")
        wanted = found.get(aliases.PRODUCTION, "")
        live = {number for number, status in self._models.get(name, {}).items() if status.state == READY}
        answering = wanted or (max({*there, *live}, key=int, default="") if serving and serving == had else "")
        why = await asyncio.to_thread(lacking, directory / answering) if answering else ""
        if not why:
            return Allowed(found)
        if wanted:
            reason = f"{aliases.ALIASES} has version {wanted} in production, which is not approved: {why}"
        else:
            reason = (
                f"{aliases.ALIASES} has nothing in production any more, and version {answering}, which would answer, "
                f"is not approved: {why}"
            )
        production, held = serving, set[str]()
        if serving:
            reason += f"; {f'version {serving}' if serving != answering else 'what serves of it'} stays"
            if serving == answering or await asyncio.to_thread(lacking, directory / serving) != "":
                held = {serving}  # as it was loaded, whatever its files are now
        else:
            production = wanted if wanted not in live else had
            held = set() if at_start else {wanted}
        log.warning("model '%s': %s", name, reason)
        return Allowed({**found, aliases.PRODUCTION: production}, reason, held)

    async def _allowed(self, finding: Finding, at_start: bool = False) -> Allowed:
        if not finding.versions or not self._loader.approval.asked:
            return Allowed(finding.aliases)
        there = {files.version for files in finding.versions}
        place = finding.versions[0].directory.parent
        return await self.approved(finding.name, place, finding.aliases, there, at_start=at_start)

    def _without_held(self, finding: Finding, allowed: Allowed) -> Finding:
        """What is held and not live is a problem; what is live stays as it is."""
        refused = {number for number in allowed.held if not self._is_live(number, finding.name)}
        return replace(
            finding,
            aliases=allowed.aliases,
            versions=tuple(files for files in finding.versions if files.version not in refused),
            problems=(*finding.problems, *((number, allowed.reason) for number in refused)),
        )

    def _note_problems(self, finding: Finding) -> list[str]:
        statuses = self._models[finding.name]
        for number, reason in finding.problems:
            log.error("model '%s'%s: %s", finding.name, f" version {number}" if number else "", reason)
            if number not in statuses or statuses[number].version is None:
                statuses[number] = Status(UNAVAILABLE, reason, lost=_lost(statuses.get(number)))
        if not any(number == "" for number, _ in finding.problems):
            statuses.pop("", None)
        return [reason for _, reason in finding.problems]

    def _forget_unloaded(self, name: str, wanted: Collection[str]) -> None:
        """What an earlier change took out of service is of no interest any more."""
        statuses = self._models[name]
        for number in [number for number, status in statuses.items() if status.reason == UNLOADED]:
            if number not in wanted:
                del statuses[number]

    def _name_at_first(self, finding: Finding) -> None:
        """While nothing is live yet: one that is not in production must not answer only because it is there first."""
        statuses = self._models.setdefault(finding.name, {})
        if finding.versions and not any(status.version for status in statuses.values()):
            self._versions.name_them(finding.name, finding.aliases)

    async def _bring_up_all(
        self, finding: Finding, kept: Collection[str], again: bool, leave: Collection[str]
    ) -> list[str]:
        statuses = self._models[finding.name]
        leaving = [
            status.version for number, status in statuses.items() if number not in kept and status.version is not None
        ]
        new = [files.version for files in finding.versions if not self._is_live(files.version, finding.name)]
        spare = _only_the_way_back(finding.aliases)
        chosen, failed = [], []
        for files in finding.versions:
            if files.version in leave or (files.version == spare and not await self._spare_wanted(files)):
                continue
            if not again and (reason := await self._failed_before(files)):
                failed.append(reason)
            else:
                chosen.append(files)
        places = {new[-1]: leaving} if new else {}  # several at once cannot have the same place
        tried = await asyncio.gather(*(self.bring_up(files, places.get(files.version, ())) for files in chosen))
        return [*failed, *tried]

    async def _failed_before(self, files: VersionFiles) -> str:
        """Why it could not be brought up as it is; empty if that has not been tried."""
        status = self._models[files.model].get(files.version)
        if status is None or status.version is not None or status.tried is None:
            return ""
        return status.reason if status.tried == await asyncio.to_thread(tried_of, files) else ""

    def _is_live(self, number: str, name: str) -> bool:
        status = self._models[name].get(number)
        return status is not None and status.version is not None

    async def _spare_wanted(self, files: VersionFiles) -> bool:
        """Whether there is room for what only `previous` names; what is live stays."""
        if self._is_live(files.version, files.model) or await self._replacer.keeps_both(files):
            return True
        if not self._models[files.model].get(files.version, Status("")).gave_way:
            self._models[files.model][files.version] = _way(files.model)
        return False

    async def make_live(self, finding: Finding, number: str, instead: bool) -> str:
        """Bring up one version for an alias; the reason if it cannot be. `instead`: what answers now makes room for
        it, if there is not enough for both, and answers until `settle`. Who answers stays until the aliases are known,
        or until `undo`."""
        files = next((files for files in finding.versions if files.version == number), None)
        if files is None:
            reasons = (reason for version, reason in finding.problems if version in ("", number))
            return next(reasons, "it is not there")
        allowed = await self._allowed(finding)
        if number in allowed.held:
            return "" if self._is_live(number, finding.name) else allowed.reason
        self._name_at_first(replace(finding, aliases=allowed.aliases))
        serving = self._models[finding.name].get(self._versions.default(finding.name))
        version = serving.version if serving is not None else None
        leaving = [version] if instead and version is not None and version.number != number else []
        self._versions.keep_default(finding.name)
        if reason := await self.bring_up(files, leaving, at_once=False):
            self._versions.release_default(finding.name)
        return reason

    async def bring_up(self, files: VersionFiles, leaving: Sequence[Version] = (), *, at_once: bool = True) -> str:
        """Load one version; the reason if it cannot be. What makes room for it gets no more requests, `at_once` or
        when it is settled."""
        statuses = self._models[files.model]
        old = statuses.get(files.version)
        if old is None or old.version is None:
            statuses[files.version] = Status(LOADING, lost=_lost(old))
        fingerprint = await asyncio.to_thread(fingerprint_of, files)
        if old is not None and old.version is not None and old.version.fingerprint == fingerprint:
            return ""
        try:
            replacement = await self._replacer.load(files, fingerprint, old.version if old else None, leaving)
        except Exception as error:  # whatever one version does must not stop the others
            return await self._report(files, error)
        version = replacement.version
        replaced = statuses[files.version].version  # None as well if it was abandoned meanwhile
        statuses[files.version] = Status(READY, version=version)
        self._versions.choose_default(files.model)
        if replacement.in_turn:
            self._pending.setdefault(files.model, []).append(replacement)
            if at_once:
                self._give_way(files.model, replacement)
        elif replaced is not None:
            self.in_background(self._drain_replaced(replaced))
        self.notify()
        return ""

    async def _report(self, files: VersionFiles, error: Exception) -> str:
        expected = isinstance(error, SluiceError)
        reason = error.message if isinstance(error, SluiceError) else f"internal error: {error!r:.200}"
        log.error(
            "model '%s' version %s cannot be served: %s", files.model, files.version, reason, exc_info=not expected
        )
        self.failed(files.model)
        statuses = self._models[files.model]
        if statuses[files.version].version is None:
            status = statuses[files.version] = Status(UNAVAILABLE, reason, lost=_lost(statuses[files.version]))
            status.tried = await asyncio.to_thread(tried_of, files)
        return reason

    async def _drain_replaced(self, version: Version) -> None:
        await self._loader.drain(version)
        await self.drop_overlays(version.spec.name)

    async def retire_all(self, name: str) -> None:
        """Take a model out of service."""
        self._versions.forget_default(name)
        await asyncio.gather(*(self.retire(name, number) for number in list(self._models[name])))
        await self.drop_overlays(name)
        self.report_fallbacks()

    async def retire(self, name: str, number: str) -> None:
        """Take a version out of service and forget what it held."""
        status = self._models[name][number]
        version = status.version
        if version is not None:
            status.state = UNLOADING
            self.notify()
            await self._loader.drain(version)
            version.record.close()
        self._models[name][number] = Status(UNAVAILABLE, UNLOADED)
        self.notify()

    # What was brought up in turn.

    def _give_way(self, name: str, replacement: Replacement) -> None:
        """What made room gets no more requests; those that were held up go where they belong now."""
        statuses = self._models[name]
        for version in replacement.leaving:
            status = statuses.get(version.number)
            if status is not None and status.version is version:
                status.state = UNLOADING
        self._versions.choose_default(name)
        replacement.let_in()

    async def settle(self, name: str) -> None:
        """What made room leaves, whatever it is called, and the rest of its workers follow."""
        for replacement in self._pending.pop(name, ()):
            self._give_way(name, replacement)
            for version in replacement.leaving:
                await self._make_room(name, version)
            await self._replacer.finish(replacement)

    async def _make_room(self, name: str, version: Version) -> None:
        statuses = self._models[name]
        status = statuses.get(version.number)
        if status is None or status.version is not version:  # its number is another's, or it has left already
            await self._drain_replaced(version)
            return
        await self.retire(name, version.number)
        if version.number in self._versions.aliases(name).values():
            statuses[version.number] = _way(name)

    async def undo(self, name: str, unwanted: str = "") -> None:
        """What was brought up in turn leaves again, and what made room for it is back; version `unwanted`, if there
        is one, leaves in any case."""
        for replacement in self._pending.pop(name, ()):
            statuses, number = self._models[name], replacement.version.number
            back = next((version for version in replacement.leaving if version.number == number), None)
            statuses[number] = Status(READY, version=back) if back is not None else Status(UNLOADING)
            self._versions.choose_default(name)
            await self._replacer.undo(replacement)
            if back is None:
                statuses[number] = Status(UNAVAILABLE, UNLOADED)
            self.notify()
        if unwanted:
            self._models[name][unwanted].state = UNLOADING  # before the default is chosen
            self._versions.choose_default(name)
            await self.retire(name, unwanted)
        self._versions.release_default(name)

    def report_fallbacks(self) -> None:
        """Say what is wrong with them, once everything that shall be loaded is."""
        troubles = {full_name(one): self._versions.stand_in(one).trouble for one in self._versions.all_live()}
        for name, trouble in troubles.items():
            if trouble and trouble != self._troubles.get(name):
                log.warning("model '%s': %s", name, trouble)
        self._troubles = troubles

    # Files that came with load requests.

    def keep_overlay(self, name: str, directory: Path) -> None:
        self._overlays.setdefault(name, []).append(directory)

    async def drop_overlays(self, name: str) -> None:
        """Remove the files that came with load requests, but for those that versions are from which live or finish what
        they were given: a worker that comes back reads them again."""
        live = [status.version for status in self._models.get(name, {}).values() if status.version is not None]
        versions = [*live, *self._loader.draining]
        kept = []
        for directory in self._overlays.pop(name, ()):
            if any(version.files.directory.is_relative_to(directory) for version in versions):
                kept.append(directory)
            else:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        if kept:
            self._overlays[name] = kept

    def remove_files(self) -> None:
        """Remove what came with load requests."""
        for directory in itertools.chain.from_iterable(self._overlays.values()):
            shutil.rmtree(directory, ignore_errors=True)
        self._overlays.clear()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for replacement in itertools.chain.from_iterable(self._pending.values()):
            replacement.let_in()
        self.remove_files()


def _lost(status: Status | None) -> Version | None:
    return status.lost if status is not None else None


def _way(name: str) -> Status:
    reason = f"it made room for what is in production; `sluice rollback {name}` brings it back"
    return Status(UNAVAILABLE, reason, gave_way=True)


def _only_the_way_back(named: Mapping[str, str]) -> str:
    """The number that is `previous` and nothing else, while something is in production."""
    number = named.get(aliases.PREVIOUS, "")
    others = {value for alias, value in named.items() if alias != aliases.PREVIOUS}
    return number if aliases.PRODUCTION in named and number not in others else ""
