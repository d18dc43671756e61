"""What is live: each version's way from load over warm and live to drained and gone.

A version is brought up (`loading.py`) beside whatever serves already, and only then takes the place of its predecessor,
which finishes what it was given. Whatever is wrong with one version becomes its state's reason and touches
no other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from sluice.config import settings as config
from sluice.errors import (
    ConfigError,
    InvalidRequest,
    ModelError,
    ShortOfMemory,
    SluiceError,
    UnknownModel,
    Unsupported,
)
from sluice.health import Condition, Part
from sluice.loading import Loader, Version, fingerprint_of
from sluice.spec import TensorSpec
from sluice.store import aliases, overlay, repository, triton
from sluice.store.aliases import Change
from sluice.store.repository import Finding, VersionFiles
from sluice.telemetry.statistics import ModelStatistics
from sluice.versions import LOADING, READY, UNAVAILABLE, UNLOADED, UNLOADING, Route, Status, Versions, full_name
from sluice.workers.pool import Pool
from sluice.workers.worker import State

log = logging.getLogger("sluice.catalog")

_T = TypeVar("_T")


@dataclass(frozen=True)
class IndexRow:
    """One line of the repository index."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ModelMetadata:
    """What clients are told about a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: dict[str, str]


@dataclass(frozen=True)
class Aliases:
    """What the versions of a model are called."""

    model: str
    aliases: dict[str, str]
    default: str  # the version that answers requests that name none; "" while there is none


class Catalog:
    """Every known model with its versions; the only owner of their states."""

    def __init__(self, models: config.Models, pool: Pool, loader: Loader, ready_share: float = 0.5) -> None:
        self._settings = models
        self._ready_share = ready_share  # of a required model's workers must hold it
        self._pool = pool
        self._loader = loader
        self._versions = Versions(models.repository)
        self._models = self._versions.by_model
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._overlays: dict[str, list[Path]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._troubles: dict[str, str] = {}  # of fallbacks, as they were last logged
        self.short_of_memory = ""  # why nothing is loaded for a while
        self.notify: Callable[[], None] = lambda: None  # called whenever a state changes
        loader.notify = lambda: self.notify()

    # What requests ask.

    def route(self, name: str, number: str = "") -> Route:
        """Who answers a request: the version asked for or, while it is broken, its fallback."""
        return self._versions.route(name, number)

    def live(self, name: str, number: str = "") -> Version:
        """The version that serves, by number or alias; without one that in production or else the latest live one."""
        return self._versions.live(name, number)

    # What health asks.

    def capable(self) -> bool:
        """A worker runs, and every required model is answered by enough of its workers: those that the settings
        name or, if they name all, those that are or were live and have not been unloaded."""
        return self._works() and all(map(self._answered_enough, self._required()))

    def lacking(self) -> list[str]:
        """Why it is not capable."""
        if not self._works():
            return ["no worker is running"]
        found = {part.name: part.reason for part in self.parts() if part.condition is not Condition.OK}
        reasons = []
        for name in sorted(self._required()):
            if not self._answered_enough(name):
                own = [f"model {full}: {why}" for full, why in found.items() if full.partition("/")[0] == name]
                reasons += own or [f"model {name}: too few of its workers hold it"]
        return reasons

    def _works(self) -> bool:
        return any(worker.state is State.RUNNING for worker in self._pool.workers)

    def _required(self) -> set[str]:
        required = {name for name in self._settings.load if name != "*"}
        if "*" in self._settings.load:
            required.update(filter(self._versions.expected, self._models))
        return required

    def _answered_enough(self, name: str) -> bool:
        return self._versions.answered(name, "", self._ready_share)

    def version_ready(self, name: str, number: str = "") -> bool:
        return self._versions.answered(name, number)

    def parts(self) -> list[Part]:
        """The condition of every version that is or should be live."""
        return [
            self._versions.part(f"{name}/{number}" if number else name, status)
            for name, statuses in self._models.items()
            for number, status in statuses.items()
            if status.state != UNLOADING and status.reason != UNLOADED
        ]

    def workers_changed(self) -> None:
        """A version that none of its workers can load again is out of service: its requests must not wait for ever. Nor
        must those of one whose devices are out of service, which comes back with them."""
        for name, statuses in self._models.items():
            for number, status in list(statuses.items()):
                version = status.version
                if version is None or status.state != READY:
                    continue
                reasons = [worker.refused(version.lane.key) for worker in version.workers]
                if all(reasons):
                    log.error("model '%s' version %s is out of service: %s", name, number, reasons[0])
                    statuses[number] = Status(UNAVAILABLE, reasons[0], lost=version)
                    self._loader.abandon(version, reasons[0])
                    self._versions.choose_default(name)
                elif reason := version.absent():
                    self._loader.refuse_waiting(version, reason)
        self._loader.answer_for_the_absent()
        self.notify()

    # What clients ask about models.

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        found = self.live(name, version)
        spec = found.spec
        statuses = self._models[name]
        ready = sorted((number for number, status in statuses.items() if status.state == READY), key=int)
        properties = {"backend": spec.backend, "padding": spec.padding.value}
        if found.padding_reason:
            properties["padding_reason"] = found.padding_reason
        if found.text is not None:  # not among the inputs: who sends all of those would send it beside the tensors
            properties["text"] = found.text.profile.task
        properties["circuit"] = found.circuit.phase.value
        if found.circuit.reason:
            properties["circuit_reason"] = found.circuit.reason
        if found.files.settings.fallback:
            properties["fallback"] = found.files.settings.fallback
            if trouble := self._versions.stand_in(found).trouble:
                properties["fallback_trouble"] = trouble
        return ModelMetadata(name, tuple(ready), spec.platform, spec.inputs, spec.outputs, properties)

    def configuration(self, name: str, version: str = "") -> dict[str, Any]:
        found = self.live(name, version)
        return triton.configuration(found.spec, found.files.settings)

    def statistics(self, name: str = "", version: str = "") -> list[ModelStatistics]:
        if name and version:
            return [self.live(name, version).record.statistics]
        names = [name] if name else sorted(self._models)
        return [
            status.version.record.statistics
            for one in names
            for _, status in sorted(self._versions.known(one).items(), key=lambda item: int(item[0] or 0))
            if status.version is not None
        ]

    def index(self, ready: bool = False) -> list[IndexRow]:
        rows = [
            IndexRow(name, number, status.state, self._versions.remark(status))
            for name, statuses in self._models.items()
            for number, status in statuses.items()
        ]
        on_disk = self._versions.names_on_disk()
        rows += [IndexRow(name, "", UNAVAILABLE, "not loaded") for name in on_disk if name not in self._models]
        rows = [row for row in rows if row.state == READY] if ready else rows
        return sorted(rows, key=lambda row: (row.name, int(row.version or 0)))

    # Loading and unloading.

    async def load_all(self) -> None:
        """Load what the settings name; what cannot be loaded is left in the index with its reason."""
        try:
            findings = await asyncio.to_thread(repository.scan, self._settings.repository)
        except ModelError as error:
            raise ConfigError(f"models.repository: {error.message}") from error
        if "*" not in self._settings.load:
            found = {finding.name: finding for finding in findings}
            for name in set(self._settings.load) - set(found):
                self._models[name] = {"": Status(UNAVAILABLE, "there is no such model in the repository")}
                log.error("model '%s' is not in the repository %s", name, self._settings.repository)
            findings = [found[name] for name in self._settings.load if name in found]
        await asyncio.gather(*(self._load_at_start(finding) for finding in findings))
        self._report_fallbacks()

    async def _load_at_start(self, finding: Finding) -> None:
        async with self._lock(finding.name):
            await self._apply(finding)

    async def load(self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load or reload a model: new and changed versions are brought up beside the old ones, then take over."""
        self._check_control()
        if self.short_of_memory:
            raise ShortOfMemory(self.short_of_memory, retry_after=1.0)
        await asyncio.shield(self._in_background(self._load(name, config, files)))

    async def _load(self, name: str, config: str | None, files: Mapping[str, bytes] | None) -> None:
        """To its end, even if whoever asked for it goes away meanwhile."""
        async with self._lock(name):
            directory = self._settings.repository
            if files:
                if config is None:
                    raise InvalidRequest("'config' must be given when files are")
                directory = await asyncio.to_thread(overlay.write, name, files)
                self._overlays.setdefault(name, []).append(directory)
            try:
                finding = await asyncio.to_thread(repository.find, directory, name, config)
                if config is not None and finding.settings is None:  # what one client sent says nothing about the model
                    raise ModelError(f"failed to load '{name}': {'; '.join(reason for _, reason in finding.problems)}")
                problems = await self._apply(finding)
            finally:
                await self._drop_overlays(name)
                self._report_fallbacks()
        if problems:
            raise ModelError(f"failed to load '{name}': {'; '.join(problems)}")

    async def unload(self, name: str, dependents: bool = False) -> None:
        """Stop serving a model once everything accepted for it is answered. No model here has dependents."""
        self._check_control()
        await asyncio.shield(self._in_background(self._unload(name)))

    async def _unload(self, name: str) -> None:
        async with self._lock(name):
            statuses = self._models.get(name)
            if statuses is None:
                if self._versions.on_disk(name):
                    return
                raise UnknownModel(f"failed to unload '{name}': the model is not known")
            self._versions.forget_default(name)
            await asyncio.gather(*(self._retire(name, number) for number in list(statuses)))
            await self._drop_overlays(name)
            self._report_fallbacks()

    # Promoting.

    def aliases(self, name: str) -> Aliases:
        """What a model's versions are called, in this server."""
        self._check_control()
        self._versions.known(name)
        return Aliases(name, dict(self._versions.aliases(name)), self._versions.default(name))

    async def history(self, name: str) -> list[Change]:
        """Who gave which alias to which version, the latest last."""
        self._check_control()
        return await asyncio.to_thread(aliases.history, self._directory(name))

    async def promote(self, name: str, alias: str, version: str, by: str, reason: str = "") -> Change:
        """Give an alias to a version, which is brought up first unless it is live. Until then nothing changes."""
        self._check_control()
        aliases.check(alias)
        if self.short_of_memory:
            raise ShortOfMemory(self.short_of_memory, retry_after=1.0)
        return await asyncio.shield(self._in_background(self._promote(name, alias, version, by, reason)))

    async def _promote(self, name: str, alias: str, version: str, by: str, reason: str) -> Change:
        """To its end, even if whoever asked for it goes away meanwhile."""
        directory = self._directory(name)
        async with self._lock(name):
            number = aliases.resolve(name, await asyncio.to_thread(aliases.read, directory), version)
            await asyncio.to_thread(aliases.existing, directory, number)
            served = self._versions.default(name)
            await self._make_live(name, number)
            change = await asyncio.to_thread(aliases.promote, directory, alias, number, by, reason, served)
            if change.before != change.after:
                log.info("model '%s': %s is version %s now, by %s", name, alias, number, by or "nobody known")
            self._versions.name_them(name, await asyncio.to_thread(aliases.read, directory))
            self._versions.choose_default(name)  # requests go there from here on; the rest is tidying up
            self.notify()
            problems = await self._apply(await asyncio.to_thread(repository.find, self._settings.repository, name))
            await self._drop_overlays(name)
            self._report_fallbacks()
        if problems:  # of others: this one is live
            log.warning("model '%s': %s", name, "; ".join(problems))
        return change

    async def _make_live(self, name: str, number: str) -> None:
        finding = await asyncio.to_thread(repository.find, self._settings.repository, name, None, number)
        files = next((files for files in finding.versions if files.version == number), None)
        if files is None:
            reason = next(
                (reason for version, reason in finding.problems if version in ("", number)), "it is not there"
            )
        else:
            self._name_at_first(finding)
            reason = await self._bring_up(files)
        if reason:
            raise ModelError(f"version {number} of '{name}' cannot be promoted: {reason}")

    def _directory(self, name: str) -> Path:
        if not repository.is_name(name) or not self._versions.on_disk(name):
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        return self._settings.repository / name

    def _report_fallbacks(self) -> None:
        """Say what is wrong with them, once everything that shall be loaded is."""
        troubles = {full_name(one): self._versions.stand_in(one).trouble for one in self._versions.all_live()}
        for name, trouble in troubles.items():
            if trouble and trouble != self._troubles.get(name):
                log.warning("model '%s': %s", name, trouble)
        self._troubles = troubles

    def _check_control(self) -> None:
        if not self._settings.control:
            raise Unsupported("explicit model load / unload is not allowed: models.control is off")

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _apply(self, finding: Finding) -> list[str]:
        """Make what is live follow what was found; the reasons of what could not be."""
        statuses = self._models.setdefault(finding.name, {})
        wanted = {files.version for files in finding.versions}
        problems = [reason for _, reason in finding.problems]
        for number, reason in finding.problems:
            log.error("model '%s'%s: %s", finding.name, f" version {number}" if number else "", reason)
            if number not in statuses or statuses[number].version is None:
                statuses[number] = Status(UNAVAILABLE, reason, lost=_lost(statuses.get(number)))
        if not any(number == "" for number, _ in finding.problems):
            statuses.pop("", None)
        self._name_at_first(finding)
        outcomes = await asyncio.gather(*(self._bring_up(files) for files in finding.versions))
        problems += [reason for reason in outcomes if reason]
        for note in finding.settings.notes if finding.settings is not None else ():
            log.info("model '%s': %s", finding.name, note)
        if wanted:
            self._versions.name_them(finding.name, finding.aliases)
        kept = wanted | {number for number, _ in finding.problems} | {*self._versions.aliases(finding.name).values()}
        # Nothing is taken down for what could not be read, or could not be brought up.
        leaving = list(statuses.keys() - kept) if wanted and not any(outcomes) else []
        for number in leaving:  # before the default is chosen: what leaves gets no more requests
            statuses[number].state = UNLOADING
        self._versions.choose_default(finding.name)
        await asyncio.gather(*(self._retire(finding.name, number) for number in leaving))
        self.notify()
        return problems

    def _name_at_first(self, finding: Finding) -> None:
        """While nothing is live yet: one that is not in production must not answer only because it is there first."""
        statuses = self._models.setdefault(finding.name, {})
        if finding.versions and not any(status.version for status in statuses.values()):
            self._versions.name_them(finding.name, finding.aliases)

    async def _bring_up(self, files: VersionFiles) -> str:
        """Load one version; the reason if it cannot be."""
        statuses = self._models[files.model]
        old = statuses.get(files.version)
        fingerprint = fingerprint_of(files)
        if old is not None and old.version is not None:
            if old.version.fingerprint == fingerprint:
                return ""
        else:
            statuses[files.version] = Status(LOADING, lost=_lost(old))
        try:
            version = await self._loader.load(files, fingerprint, old.version if old else None)
        except Exception as error:  # whatever one version does must not stop the others
            expected = isinstance(error, SluiceError)
            reason = error.message if isinstance(error, SluiceError) else f"internal error: {error!r:.200}"
            log.error(
                "model '%s' version %s cannot be served: %s", files.model, files.version, reason, exc_info=not expected
            )
            if statuses[files.version].version is None:
                statuses[files.version] = Status(UNAVAILABLE, reason, lost=_lost(statuses[files.version]))
            return reason
        replaced = statuses[files.version].version  # None as well if it was abandoned meanwhile
        statuses[files.version] = Status(READY, version=version)
        self._versions.choose_default(files.model)
        self.notify()
        if replaced is not None:
            self._in_background(self._drain_replaced(replaced))
        return ""

    async def _drain_replaced(self, version: Version) -> None:
        await self._loader.drain(version)
        await self._drop_overlays(version.spec.name)

    async def _retire(self, name: str, number: str) -> None:
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

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _drop_overlays(self, name: str) -> None:
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

    async def remember(self) -> None:
        """Keep what was learned of the live versions for the next start."""
        await asyncio.gather(*(self._loader.remember(version) for version in self._versions.all_live()))

    async def close(self) -> None:
        """Forget everything; requests were drained before."""
        await self.remember()
        for version in self._versions.all_live():
            version.circuit.stop()
        for task in self._tasks:
            task.cancel()
        self.remove_files()

    def remove_files(self) -> None:
        """Remove what came with load requests."""
        for directory in itertools.chain.from_iterable(self._overlays.values()):
            shutil.rmtree(directory, ignore_errors=True)
        self._overlays.clear()


def _lost(status: Status | None) -> Version | None:
    return status.lost if status is not None else None
