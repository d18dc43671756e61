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
from typing import Any

from sluice.config import settings as config
from sluice.errors import ConfigError, InvalidRequest, ModelError, NotReady, SluiceError, UnknownModel, Unsupported
from sluice.loading import Loader, Version, fingerprint_of
from sluice.spec import TensorSpec
from sluice.store import overlay, repository, triton
from sluice.store.repository import Finding, VersionFiles
from sluice.telemetry.statistics import ModelStatistics
from sluice.workers.pool import Pool
from sluice.workers.worker import State

log = logging.getLogger("sluice.catalog")

READY, UNAVAILABLE, LOADING, UNLOADING = "READY", "UNAVAILABLE", "LOADING", "UNLOADING"


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


@dataclass(slots=True)
class _Status:
    state: str
    reason: str = ""
    version: Version | None = None


class Catalog:
    """Every known model with its versions; the only owner of their states."""

    def __init__(self, models: config.Models, pool: Pool, loader: Loader) -> None:
        self._settings = models
        self._pool = pool
        self._loader = loader
        self._models: dict[str, dict[str, _Status]] = {}
        self._latest: dict[str, Version] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._overlays: dict[str, list[Path]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.notify: Callable[[], None] = lambda: None  # called whenever a state changes

    # What requests ask.

    def live(self, name: str, number: str = "") -> Version:
        """The version that serves; without a number the latest live one."""
        if not number:
            latest = self._latest.get(name)
            if latest is not None:
                return latest
        statuses = self._known(name)
        if number:
            status = statuses.get(number)
            if status is None:
                raise UnknownModel(f"Request for unknown model: '{name}' version {number} is not found")
            if status.version is None or status.state != READY:
                raise NotReady(f"'{name}' version {number} is not at ready state{_because(status.reason)}")
            return status.version
        known = sorted((number for number in statuses if number), key=int)
        last = known[-1] if known else "-1"
        reason = statuses[last].reason if known else next((status.reason for status in statuses.values()), "")
        raise NotReady(f"'{name}' version {last} is not at ready state{_because(reason)}")

    def _known(self, name: str) -> dict[str, _Status]:
        statuses = self._models.get(name)
        if statuses is None:
            if not self._on_disk(name):
                raise UnknownModel(f"Request for unknown model: '{name}' is not found")
            raise NotReady(f"'{name}' is not at ready state: it is not loaded")
        return statuses

    def _on_disk(self, name: str) -> bool:
        if not name or name.startswith(".") or "/" in name:
            return False
        try:
            return (self._settings.repository / name).is_dir()
        except (OSError, ValueError):  # a name that no file can have
            return False

    def _names_on_disk(self) -> list[str]:
        try:
            entries = self._settings.repository.iterdir()
            return sorted(path.name for path in entries if path.is_dir() and not path.name.startswith("."))
        except OSError:
            return []

    # What health asks.

    def capable(self) -> bool:
        if not any(worker.state is State.RUNNING for worker in self._pool.workers):
            return False
        required = [name for name in self._settings.load if name != "*"]
        if not all(name in self._latest for name in required):
            return False
        versions = [status.version for statuses in self._models.values() for status in statuses.values()]
        return all(self._held(version) for version in versions if version is not None)

    def version_ready(self, name: str, number: str = "") -> bool:
        try:
            return self._held(self.live(name, number))
        except NotReady:
            return False

    def _held(self, version: Version) -> bool:
        return any(worker.holds(version.lane.key) for worker in version.workers)

    def workers_changed(self) -> None:
        """A version that none of its workers can load again is out of service: its requests must not wait for ever."""
        for name, statuses in self._models.items():
            for number, status in list(statuses.items()):
                version = status.version
                if version is None or status.state != READY:
                    continue
                reasons = [worker.refused(version.lane.key) for worker in version.workers]
                if all(reasons):
                    log.error("model '%s' version %s is out of service: %s", name, number, reasons[0])
                    statuses[number] = _Status(UNAVAILABLE, reasons[0])
                    self._loader.abandon(version, reasons[0])
                    self._choose_latest(name)
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
            for _, status in sorted(self._known(one).items(), key=lambda item: int(item[0] or 0))
            if status.version is not None
        ]

    def index(self, ready: bool = False) -> list[IndexRow]:
        rows = [
            IndexRow(name, number, status.state, status.reason or (status.version.trouble if status.version else ""))
            for name, statuses in self._models.items()
            for number, status in statuses.items()
        ]
        rows += [
            IndexRow(name, "", UNAVAILABLE, "not loaded") for name in self._names_on_disk() if name not in self._models
        ]
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
                self._models[name] = {"": _Status(UNAVAILABLE, "there is no such model in the repository")}
                log.error("model '%s' is not in the repository %s", name, self._settings.repository)
            findings = [found[name] for name in self._settings.load if name in found]
        await asyncio.gather(*(self._load_at_start(finding) for finding in findings))

    async def _load_at_start(self, finding: Finding) -> None:
        async with self._lock(finding.name):
            await self._apply(finding)

    async def load(self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load or reload a model: new and changed versions are brought up beside the old ones, then take over."""
        self._check_control()
        async with self._lock(name):
            directory = self._settings.repository
            if files:
                if config is None:
                    raise InvalidRequest("'config' must be given when files are")
                directory = await asyncio.to_thread(overlay.write, name, files)
                self._overlays.setdefault(name, []).append(directory)
            try:
                finding = await asyncio.to_thread(repository.find, directory, name, config)
                problems = await self._apply(finding)
            finally:
                await self._drop_overlays(name)
        if problems:
            raise ModelError(f"failed to load '{name}': {'; '.join(problems)}")

    async def unload(self, name: str, dependents: bool = False) -> None:
        """Stop serving a model once everything accepted for it is answered. No model here has dependents."""
        self._check_control()
        async with self._lock(name):
            statuses = self._models.get(name)
            if statuses is None:
                if self._on_disk(name):
                    return
                raise UnknownModel(f"failed to unload '{name}': the model is not known")
            self._latest.pop(name, None)
            await asyncio.gather(*(self._retire(name, number) for number in list(statuses)))
            await self._drop_overlays(name)

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
                statuses[number] = _Status(UNAVAILABLE, reason)
        if not any(number == "" for number, _ in finding.problems):
            statuses.pop("", None)
        outcomes = await asyncio.gather(*(self._bring_up(files) for files in finding.versions))
        problems += [reason for reason in outcomes if reason]
        for note in finding.settings.notes if finding.settings is not None else ():
            log.info("model '%s': %s", finding.name, note)
        kept = wanted | {number for number, _ in finding.problems}
        # A directory that could not be read at all takes nothing down.
        leaving = list(statuses.keys() - kept) if wanted else []
        for number in leaving:  # before the latest is chosen: what leaves gets no more requests
            statuses[number].state = UNLOADING
        self._choose_latest(finding.name)
        await asyncio.gather(*(self._retire(finding.name, number) for number in leaving))
        self.notify()
        return problems

    async def _bring_up(self, files: VersionFiles) -> str:
        """Load one version; the reason if it cannot be."""
        statuses = self._models[files.model]
        old = statuses.get(files.version)
        fingerprint = fingerprint_of(files)
        if old is not None and old.version is not None:
            if old.version.fingerprint == fingerprint:
                return ""
        else:
            statuses[files.version] = _Status(LOADING)
        try:
            version = await self._loader.load(files, fingerprint, old.version if old else None)
        except Exception as error:  # whatever one version does must not stop the others
            expected = isinstance(error, SluiceError)
            reason = error.message if isinstance(error, SluiceError) else f"internal error: {error!r:.200}"
            log.error(
                "model '%s' version %s cannot be served: %s", files.model, files.version, reason, exc_info=not expected
            )
            if old is None or old.version is None:
                statuses[files.version] = _Status(UNAVAILABLE, reason)
            return reason
        replaced = old.version if old is not None else None
        statuses[files.version] = _Status(READY, version=version)
        self._choose_latest(files.model)
        self.notify()
        if replaced is not None:
            self._in_background(self._loader.drain(replaced))
        return ""

    def _choose_latest(self, name: str) -> None:
        ready = [number for number, status in self._models[name].items() if status.state == READY]
        latest = self._models[name][max(ready, key=int)].version if ready else None
        if latest is None:
            self._latest.pop(name, None)
        else:
            self._latest[name] = latest

    async def _retire(self, name: str, number: str) -> None:
        """Take a version out of service and forget what it held."""
        status = self._models[name][number]
        version = status.version
        if version is not None:
            status.state = UNLOADING
            self.notify()
            await self._loader.drain(version)
            version.record.close()
        self._models[name][number] = _Status(UNAVAILABLE, "unloaded")
        self.notify()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drop_overlays(self, name: str) -> None:
        """Remove the files that came with load requests, but for those that live versions are from: a worker that
        comes back reads them again."""
        versions = [status.version for status in self._models.get(name, {}).values() if status.version is not None]
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
        versions = [status.version for statuses in self._models.values() for status in statuses.values()]
        await asyncio.gather(*(self._loader.remember(version) for version in versions if version is not None))

    async def close(self) -> None:
        """Forget everything; requests were drained before."""
        await self.remember()
        for task in self._tasks:
            task.cancel()
        for directory in itertools.chain.from_iterable(self._overlays.values()):
            shutil.rmtree(directory, ignore_errors=True)
        self._overlays.clear()


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
