"""Follows a repository's files while they are served: what has changed there and come to rest is applied like a load.

What wakes it is the time between two looks; what ends it is its cancellation.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from sluice.config import settings as config
from sluice.errors import ModelError, UnknownModel
from sluice.following import Follower
from sluice.store import aliases, repository
from sluice.store.watching import Changed, Watch
from sluice.telemetry.complaints import Complaint
from sluice.versions import Versions

log = logging.getLogger("sluice.catalog")


class Tracker:
    """Knows which models follow their files, and which of their versions are not complete."""

    def __init__(self, models: config.Models, versions: Versions, follower: Follower) -> None:
        self.paused = ""  # why nothing is loaded for a while
        self._settings = models
        self._versions = versions
        self._models = versions.by_model
        self._follower = follower
        self._watch = Watch(models.repository)
        self._blind = Complaint(log)
        self._left_alone: set[str] = set()  # models that clients unloaded, or loaded otherwise than they lie on disk

    def leave_alone(self, name: str) -> None:
        self._left_alone.add(name)

    def follow_again(self, name: str) -> None:
        self._left_alone.discard(name)

    def is_followed(self, name: str) -> bool:
        wanted = "*" in self._settings.load or name in self._settings.load or name in self._models
        return wanted and name not in self._left_alone

    def begin(self) -> None:
        """What there is now is about to be loaded."""
        self._watch.begin()

    async def watch(self) -> None:
        """Until cancelled: look whether files have changed and come to rest."""
        while True:
            await asyncio.sleep(self._settings.watch)
            if self.paused:
                continue  # what has changed is still to be seen later
            try:
                changes = await asyncio.to_thread(self._watch.look)
            except OSError as error:
                self._blind.raised(f"the repository {self._settings.repository} cannot be followed: {error}")
                continue
            self._blind.over("the repository can be followed again")
            for change in changes:
                if self.is_followed(change.name):
                    self._follower.in_background(self._follow(change))

    async def _follow(self, change: Changed) -> None:
        name = change.name
        try:
            async with self._follower.lock(name):
                if not self.is_followed(name):
                    return
                if change.gone:
                    await self._forget(name)
                    return
                log.info("model '%s' has changed in the repository", name)
                await self.apply(name)
                self._follower.report_fallbacks()
        except UnknownModel:  # gone since: it will be seen
            return
        except Exception:
            log.exception("model '%s' cannot follow its files", name)

    async def apply(self, name: str) -> list[str]:
        """Follow what lies on disk, but for what is still being copied there, or failed before and has not changed;
        the reasons of what could not be."""
        unfinished = self._watch.unfinished(name)
        live = {number for number, status in self._models.get(name, {}).items() if status.version is not None}
        hidden = {number: reason for number, reason in unfinished.items() if number not in live}
        finding = await asyncio.to_thread(repository.find, self._settings.repository, name, unfinished=hidden.keys())
        if not finding.versions and not unfinished and live and await asyncio.to_thread(self._is_empty, name):
            log.info("model '%s' has no version in the repository any more: it is unloaded", name)
            await self._follower.retire_all(name)
        told = tuple((number, reason) for number, reason in hidden.items() if reason)
        finding = replace(finding, problems=(*finding.problems, *told))
        return await self._follower.apply(finding, again=False, leave=unfinished.keys() & live)

    def _is_empty(self, name: str) -> bool:
        """Whether its last version was removed, and no alias says that it should be there."""
        directory = self._settings.repository / name
        try:
            there = any(repository.is_number(path.name) for path in directory.iterdir())
            return not there and not aliases.read(directory).keys() - {aliases.PREVIOUS}
        except (OSError, ModelError):
            return False

    async def _forget(self, name: str) -> None:
        if name in self._models:
            log.info("model '%s' is not in the repository any more: it is unloaded", name)
            await self._follower.retire_all(name)
            self._versions.forget(name)
            self._follower.notify()
