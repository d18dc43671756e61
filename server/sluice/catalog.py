"""The models as the rest of the server knows them: who answers, what is ready, and what clients may have changed.

A version is brought up (`loading.py`) beside whatever serves already, or in its place where there is no room for both
(`replacing.py`), and what serves follows what lies on disk (`following.py`). Whatever is wrong with one version becomes
its state's reason and touches no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sluice.config import settings as config
from sluice.errors import (
    ConfigError,
    InvalidRequest,
    ModelError,
    NotApproved,
    ShortOfMemory,
    UnknownModel,
    Unsupported,
)
from sluice.following import Follower
from sluice.health import Condition, Part
from sluice.inventory import Aliases, IndexRow, Inventory, ModelMetadata
from sluice.loading import Loader, Version
from sluice.replacing import Replacer, Room
from sluice.store import aliases, overlay, repository
from sluice.store.aliases import Change
from sluice.store.bringing import Bringing
from sluice.store.repository import Finding
from sluice.store.trust import Trust
from sluice.telemetry.statistics import ModelStatistics
from sluice.tracking import Tracker
from sluice.versions import LOADING, READY, UNAVAILABLE, Route, Status, Versions
from sluice.workers.pool import Pool
from sluice.workers.worker import State

log = logging.getLogger("sluice.catalog")


class Catalog:
    """Every known model with its versions."""

    def __init__(self, models: config.Models, pool: Pool, loader: Loader, ready_share: float = 0.5) -> None:
        self._settings = models
        self._ready_share = ready_share  # of a required model's workers must hold it
        self._pool = pool
        self._loader = loader
        self._versions = Versions(models.repository)
        self._models = self._versions.by_model
        self._inventory = Inventory(self._versions)
        self._replacer = Replacer(models, loader)
        self._follower = Follower(self._versions, loader, self._replacer)
        self._tracker = Tracker(models, self._versions, self._follower)
        self._watching: asyncio.Task[None] | None = None
        self.bringing: Bringing | None = None  # brings what models lack at the start
        self.notify: Callable[[], None] = lambda: None  # called whenever a state changes
        loader.notify = self._follower.notify = lambda: self.notify()

    @property
    def short_of_memory(self) -> str:
        """Why nothing is loaded for a while; empty while anything may be."""
        return self._tracker.paused

    @short_of_memory.setter
    def short_of_memory(self, reason: str) -> None:
        self._tracker.paused = reason

    @property
    def follower(self) -> Follower:
        return self._follower

    def count_room(self, room: Room) -> None:
        """Say how many bytes may still be taken."""
        self._replacer.room = room

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
        return self._inventory.parts()

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

    # What clients and metrics ask about models.

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        return self._inventory.metadata(name, version)

    def configuration(self, name: str, version: str = "") -> dict[str, Any]:
        return self._inventory.configuration(name, version)

    def statistics(self, name: str = "", version: str = "") -> list[ModelStatistics]:
        return self._inventory.statistics(name, version)

    def index(self, ready: bool = False) -> list[IndexRow]:
        return self._inventory.index(ready)

    def in_use(self) -> Iterator[tuple[str, str, str]]:
        """Model, version and alias of what answers."""
        return self._inventory.in_use()

    # Loading and unloading.

    async def load_all(self) -> None:
        """Load what the settings name; what cannot be loaded is left in the index with its reason."""
        if self._settings.watch:  # before the files are looked at: what changes from here on is seen
            await asyncio.to_thread(self._tracker.begin)
        try:
            findings = await asyncio.to_thread(repository.scan, self._settings.repository)
        except ModelError as error:
            raise ConfigError(f"models.repository: {error.message}") from error
        Trust(self._settings).warn_of_nobody({finding.name for finding in findings})
        if "*" not in self._settings.load:
            found = {finding.name: finding for finding in findings}
            for name in set(self._settings.load) - set(found):
                self._models[name] = {"": Status(UNAVAILABLE, "there is no such model in the repository")}
                log.error("model '%s' is not in the repository %s", name, self._settings.repository)
            findings = [found[name] for name in self._settings.load if name in found]
        await asyncio.gather(*(self._load_at_start(finding) for finding in findings))
        self._follower.report_fallbacks()
        for finding in findings:
            self._report_production(finding.name)

    async def _load_at_start(self, finding: Finding) -> None:
        async with self._follower.lock(finding.name):
            if self.bringing is not None and self.bringing.lacks(finding):
                self._models[finding.name] = {"": Status(LOADING, "is brought from its source")}
                self.notify()
                finding = await self.bringing.bring(finding)
            await self._follower.apply(finding, at_start=True)

    async def load(self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load or reload a model: new and changed versions are brought up, then take over."""
        self._check_control()
        if files and self._loader.approval.asked:
            raise NotApproved(
                f"failed to load '{name}': files that come with a request are approved by nobody, and models.approval "
                "asks for that; put them into the repository, as another version"
            )
        if self.short_of_memory:
            raise ShortOfMemory(self.short_of_memory, retry_after=1.0)
        await asyncio.shield(self._follower.in_background(self._load(name, config, files)))

    async def _load(self, name: str, config: str | None, files: Mapping[str, bytes] | None) -> None:
        """To its end, even if whoever asked for it goes away meanwhile."""
        async with self._follower.lock(name):
            directory = self._settings.repository
            if files:
                if config is None:
                    raise InvalidRequest("'config' must be given when files are")
                directory = await asyncio.to_thread(overlay.write, name, files)
                self._follower.keep_overlay(name, directory)
            try:
                finding = await asyncio.to_thread(repository.find, directory, name, config)
                if config is not None and finding.settings is None:  # what one client sent says nothing about the model
                    raise ModelError(f"failed to load '{name}': {'; '.join(reason for _, reason in finding.problems)}")
                (self._tracker.follow_again if config is None else self._tracker.leave_alone)(name)
                problems = await self._follower.apply(finding)
            finally:
                await self._follower.drop_overlays(name)
                self._follower.report_fallbacks()
        if problems:
            raise ModelError(f"failed to load '{name}': {'; '.join(problems)}")

    async def unload(self, name: str, dependents: bool = False) -> None:
        """Stop serving a model once everything accepted for it is answered. No model here has dependents."""
        self._check_control()
        await asyncio.shield(self._follower.in_background(self._unload(name)))

    async def _unload(self, name: str) -> None:
        async with self._follower.lock(name):
            if name not in self._models:
                if self._versions.on_disk(name):
                    self._tracker.leave_alone(name)
                    return
                raise UnknownModel(f"failed to unload '{name}': the model is not known")
            self._tracker.leave_alone(name)
            await self._follower.retire_all(name)

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
        return await asyncio.shield(self._follower.in_background(self._promote(name, alias, version, by, reason)))

    async def _promote(self, name: str, alias: str, version: str, by: str, reason: str) -> Change:
        """To its end, even if whoever asked for it goes away meanwhile."""
        directory = self._directory(name)
        async with self._follower.lock(name):
            number = aliases.resolve(name, await asyncio.to_thread(aliases.read, directory), version)
            await asyncio.to_thread(aliases.existing, directory, number)
            approved = ""
            if alias == aliases.PRODUCTION:
                approved = await asyncio.to_thread(self._loader.approval.check, directory / number)
            served = self._versions.default(name)
            unwanted = "" if any(one.number == number for one in self._versions.live_of(name)) else number
            await self._make_live(name, number, alias)
            try:
                if approved and self._versions.live(name, number).digest != approved:
                    raise NotApproved(
                        f"{name}/{number} cannot become production: what is loaded of it is not what was approved; "
                        "load it anew (models.approval)"
                    )
                change = await asyncio.to_thread(aliases.promote, directory, alias, number, by, reason, served)
            except BaseException:
                await self._follower.undo(name, unwanted)
                raise
            if change.before != change.after:
                log.info("model '%s': %s is version %s now, by %s", name, alias, number, by or "nobody known")
            await self._follow_aliases(name)
        return change

    async def _follow_aliases(self, name: str) -> None:
        """They were changed: requests go where they say at once; the rest is tidying up."""
        self._tracker.follow_again(name)
        directory = self._directory(name)
        allowed = await self._follower.approved(name, directory, await asyncio.to_thread(aliases.read, directory), ())
        self._versions.name_them(name, allowed.aliases)
        self._versions.choose_default(name)
        self.notify()
        await self._follower.settle(name)
        problems = await self._tracker.apply(name)
        await self._follower.drop_overlays(name)
        self._follower.report_fallbacks()
        if problems:  # of others: what the change is about is live
            log.warning("model '%s': %s", name, "; ".join(problems))

    async def remove_alias(self, name: str, alias: str, by: str, reason: str = "") -> Change:
        """Take an alias away; nothing is asked to be live for it any more."""
        self._check_control()
        return await asyncio.shield(self._follower.in_background(self._remove_alias(name, alias, by, reason)))

    async def _remove_alias(self, name: str, alias: str, by: str, reason: str) -> Change:
        directory = self._directory(name)
        async with self._follower.lock(name):
            if alias == aliases.PRODUCTION and self._loader.approval.asked:
                live = {number for number, status in self._models.get(name, {}).items() if status.state == READY}
                left = await asyncio.to_thread(repository.left_without, directory, alias)
                for numbers in (left, live):  # once the directory was followed, and until then
                    await asyncio.to_thread(self._loader.approval.check_removal, directory, numbers)
            change = await asyncio.to_thread(aliases.remove, directory, alias, by, reason)
            log.info("model '%s': version %s is %s no more, by %s", name, change.before, alias, by or "nobody known")
            if name in self._models and self._tracker.is_followed(name):
                await self._follow_aliases(name)
        return change

    async def _make_live(self, name: str, number: str, alias: str) -> None:
        finding = await asyncio.to_thread(repository.find, self._settings.repository, name, None, number)
        reason = await self._follower.make_live(finding, number, instead=alias == aliases.PRODUCTION)
        if reason:
            raise ModelError(f"version {number} of '{name}' cannot be promoted: {reason}")

    def _directory(self, name: str) -> Path:
        if not repository.is_name(name) or not self._versions.on_disk(name):
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        return self._settings.repository / name

    # What is said, and the end.

    def _report_production(self, name: str) -> None:
        """Another version may answer quite otherwise: that it takes over is for somebody to decide, who is told how."""
        named = self._versions.aliases(name)
        number, way = named.get(aliases.PRODUCTION, ""), named.get(aliases.PREVIOUS, "")
        if number and self._versions.default(name) != number:
            known = self._models[name].get(way)
            back = known is not None and (known.state == READY or known.gave_way)
            log.error(
                "model '%s': version %s is in production and cannot answer%s",
                name,
                number,
                f"; `sluice rollback {name}` puts back version {way}, which was there before" if back else "",
            )

    def _check_control(self) -> None:
        if not self._settings.control:
            raise Unsupported("explicit model load / unload is not allowed: models.control is off")

    def start(self) -> None:
        """Follow the directory from now on, if the settings say so."""
        if self._settings.watch:
            self._watching = asyncio.get_running_loop().create_task(self._tracker.watch())

    async def remember(self) -> None:
        """Keep what was learned of the live versions for the next start."""
        await asyncio.gather(*(self._loader.remember(version) for version in self._versions.all_live()))

    async def close(self) -> None:
        """Forget everything; requests were drained before."""
        if self._watching is not None:
            self._watching.cancel()
        await self.remember()
        for version in self._versions.all_live():
            version.circuit.stop()
        self._follower.close()

    def remove_files(self) -> None:
        """Remove what came with load requests."""
        self._follower.remove_files()
