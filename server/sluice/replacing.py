"""How a version takes the place of another: beside it where memory has room for both, else worker by worker.

In turn, a worker gives up the old version, loads the new one and computes it, while the other workers answer with the
old one. Once half of them hold the new one requests go there, the old one finishes what it was given, and the others
follow one by one. Where a single worker holds the old version, its requests wait meanwhile, and none is refused for it.
If the new version cannot be had, the workers that gave up the old one load it again, and it serves on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from sluice.config import settings as config
from sluice.errors import ModelError, NoRoom, SluiceError
from sluice.loading import Loader, Place, Version
from sluice.store.fingerprint import fingerprint_of
from sluice.store.repository import VersionFiles
from sluice.workers.worker import Resident, State, Worker

log = logging.getLogger("sluice.catalog")

# What a worker takes to hold a version, per byte of its files, while nobody has measured it: the weights, prepared as
# well, and what it computes with. Loading takes the files' bytes once more, for a moment.
USUAL_SHARE = 2.0
_SHARE_BESIDE_A_DEVICE = 1.0
# A model whose files are smaller tells nothing about what others take.
_TELLING = 1 << 20

Room = Callable[[], Awaitable[int]]


@dataclass(slots=True)
class Replacement:
    """A version that was brought up, and what is still to be done before it has the place of others."""

    version: Version
    leaving: Sequence[Version] = ()  # what gave up workers for it
    rest: Sequence[Worker] = ()  # workers that follow once the others have left
    given_up: list[tuple[Worker, Resident]] = field(default_factory=list)

    @property
    def in_turn(self) -> bool:
        return bool(self.leaving)

    def let_in(self) -> None:
        """Who was held up asks again who answers."""
        for version in self.leaving:
            version.gate.open()


class Replacer:
    """Decides between the two ways, and goes the second."""

    def __init__(self, models: config.Models, loader: Loader) -> None:
        self._mode = models.replace
        self._loader = loader
        self._one = asyncio.Lock()  # what is replaced in turn is replaced one after the other
        self.room: Room | None = None  # bytes that may still be taken; None = nobody counts them

    async def load(
        self, files: VersionFiles, fingerprint: object, old: Version | None, leaving: Sequence[Version] = ()
    ) -> Replacement:
        """Bring a version up. `old` is what is live under its number, `leaving` the others that nobody wants once it
        is there."""
        leaving = [version for version in (old, *leaving) if version is not None]
        reason = await self._no_room(files, leaving) if leaving else ""
        back = old is None or await asyncio.to_thread(_way_back, old)
        if reason and not back and self._mode == "auto":
            raise ModelError(
                f"{reason}, and its files were changed in place, so that there would be no way back;"
                " put them into a version directory of their own"
            )
        if not reason or not back:
            try:
                return Replacement(await self._loader.load(files, fingerprint, old))
            except NoRoom as error:  # a device's memory is nothing that can be asked for before
                if self._mode != "auto" or not leaving or not back:
                    raise
                reason = f"there is no room for it beside: {error.message}"
        await self._loader.verify(files)  # before anybody gives up anything for it
        log.info("model '%s' version %s replaces %s in turn: %s", files.model, files.version, _names(leaving), reason)
        async with self._one:
            return await self._in_turn(files, fingerprint, old, leaving)

    async def keeps_both(self, files: VersionFiles) -> bool:
        """Whether a version that nobody asks now may be brought up, for the case that it is wanted back."""
        if self._mode == "in-turn":
            return False
        return self._mode == "beside" or not await self._short_of(files, [])

    async def _no_room(self, files: VersionFiles, leaving: Sequence[Version]) -> str:
        """Why it is not brought up beside what is there; empty if it is."""
        if self._mode == "beside":
            return ""
        if self._mode == "in-turn":
            return "models.replace says so"
        return await self._short_of(files, leaving)

    async def _short_of(self, files: VersionFiles, like: Sequence[Version]) -> str:
        if self.room is None:
            return ""
        size = await asyncio.to_thread(files.size)
        measured = [one.held / one.size for one in like if one.held and one.size >= _TELLING]
        share = max(measured, default=USUAL_SHARE)
        if self._loader.kind != "cpu":  # where the weights are elsewhere, and what was measured is the device's driver
            share = _SHARE_BESIDE_A_DEVICE
        workers = len(like[0].workers) if like else files.settings.instances or len(self._loader.choose(files.settings))
        needed, room = int(size * (share * workers + 1)), await self.room()
        if needed <= room:
            return ""
        return f"there is no room for it beside: it would take about {_mib(needed)}, and {_mib(max(0, room))} are left"

    async def _in_turn(
        self, files: VersionFiles, fingerprint: object, old: Version | None, leaving: Sequence[Version]
    ) -> Replacement:
        workers = self._workers(files, leaving)
        running = [worker for worker in workers if worker.state is State.RUNNING]
        if not running:
            raise ModelError("no worker is running on the devices this model asks for")
        first = running[: (len(running) + 1) // 2]
        given_up: list[tuple[Worker, Resident]] = []
        version: Version | None = None
        try:
            await _hold_up(leaving, first)
            await _vacate(first[0], leaving, given_up)
            version = await self._loader.load(files, fingerprint, old, Place(workers, first[0], leaving[0].cost))
            for worker in first[1:]:
                await _vacate(worker, leaving, given_up)
                await _follow(worker, version)
        except BaseException as error:
            reason = error.message if isinstance(error, SluiceError) else repr(error)
            log.warning("model '%s': back to %s: %s", files.model, _names(leaving), reason)
            try:
                if version is not None:
                    await self.undo(Replacement(version, leaving, given_up=given_up))
                else:
                    await _restore(given_up)
            finally:  # whatever becomes of it, nobody waits for ever
                for one in leaving:
                    one.gate.open()
            raise
        rest = [worker for worker in workers if worker not in first]
        return Replacement(version, leaving, rest, given_up)

    def _workers(self, files: VersionFiles, leaving: Sequence[Version]) -> Sequence[Worker]:
        """Those of what it replaces, as nobody else's memory is freed."""
        asked = files.settings
        for version in leaving:
            had = version.files.settings
            if (had.instances, had.gpus) == (asked.instances, asked.gpus):
                return version.workers
        return self._loader.choose(asked)

    async def finish(self, replacement: Replacement) -> None:
        """The others have left: the rest of the workers follows, one by one. One that cannot load it says so itself,
        as when a worker comes back."""
        for worker in replacement.rest:
            for version in replacement.leaving:
                worker.unload(version.lane.key)
            worker.trim()
            await _follow(worker, replacement.version)

    async def undo(self, replacement: Replacement) -> None:
        """The new version is not wanted after all; whoever knows it sends it no more requests."""
        version = replacement.version
        await self._loader.drain(version)
        if all(version.record is not one.record for one in replacement.leaving):
            version.record.close()
        await _restore(replacement.given_up)
        replacement.let_in()


async def _hold_up(leaving: Sequence[Version], first: Sequence[Worker]) -> None:
    """Let no more requests come to what no other worker will hold, and have what came finished."""
    for version in leaving:
        if not any(worker.holds(version.lane.key) for worker in version.workers if worker not in first):
            version.gate.close()
            await version.lane.drained()


async def _vacate(worker: Worker, leaving: Sequence[Version], given_up: list[tuple[Worker, Resident]]) -> None:
    for version in leaving:
        resident = await worker.vacate(version.lane.key)
        if resident is not None:
            given_up.append((worker, resident))


async def _follow(worker: Worker, version: Version) -> None:
    worker.adopt(version.resident)
    await worker.back()


async def _restore(given_up: Sequence[tuple[Worker, Resident]]) -> None:
    for worker, resident in given_up:
        worker.adopt(resident)
    await asyncio.gather(*(worker.back() for worker, _ in given_up))


def _way_back(version: Version) -> bool:
    """Whether its files are still those that were loaded."""
    return fingerprint_of(version.files) == version.fingerprint


def _names(versions: Sequence[Version]) -> str:
    return ", ".join(f"version {version.number}" for version in versions)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
