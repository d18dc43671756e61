"""The lives of one worker, one after the other: which is current, which is being prepared, and when the next begins.

The law of this file: new work goes to the current life only. A next one may be prepared beside it, as a standby or to
replace it; the switch happens at once when the current one dies, and else at the border between two batches, when the
next one holds everything that the current one does: no request notices, and two processes never compute requests on one
device at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from sluice.config.settings import Health, Workers
from sluice.errors import ModelError, WorkerLost
from sluice.scheduler.loop import Scheduler
from sluice.telemetry.record import Record
from sluice.workers.devices import Device
from sluice.workers.life import Life
from sluice.workers.peers import Peers
from sluice.workers.restarts import Case, Cause, Death, Others, Restarts, Verdict
from sluice.workers.watchdog import Watchdog

log = logging.getLogger("sluice.workers")

_STOP_PATIENCE = 5.0
# Seconds before a standby that died, or a replacement that did not come up, is tried again.
_AGAIN = 10.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all workers of a server share."""

    settings: Workers
    scheduler: Scheduler
    record: Record
    changed: Callable[[], None] = lambda: None  # called whenever a worker's state changes
    others: Callable[[Device], Others] = lambda device: Others(0, 0)
    health: Health = field(default_factory=Health)
    peers: Peers = field(default_factory=Peers)
    # Two processes for one worker take memory and time: only one worker at a time has a second one made.
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def watchdog(self) -> Watchdog:
        return Watchdog(self.settings.hang_timeout, self.settings.compute_timeout, self.health.probe_interval)


class Owner(Protocol):
    """The worker whose lives they are."""

    def switched(self) -> None:
        """Another life is the current one, or none is, or it runs now: what can be served has changed."""

    def missing(self, life: Life) -> set[str]:
        """The versions that the worker shall hold and that this life neither has nor refused."""

    async def bring_up(self, life: Life) -> None:
        """Load and warm what is missing."""


class Lives:
    """Keeps the current life and at most one other that is to follow."""

    def __init__(self, device: Device, surroundings: Surroundings, owner: Owner) -> None:
        self.current: Life | None = None
        self.next: Life | None = None
        self.reason = ""  # why there is no current life, or what became of the last one
        self.out = False  # the device is out of service
        self.closed = False
        self.ended_lives = 0
        self._device = device
        self._around = surroundings
        self._owner = owner
        self._leaving: dict[Life, asyncio.Task[None]] = {}
        self._restarts = Restarts()
        self._revival: asyncio.Task[None] | None = None
        self._making: asyncio.Task[None] | None = None
        self._standby_after = 0.0
        self._wanted: asyncio.Future[None] | None = None  # the switch that somebody waits for
        self._cause = Cause.RECYCLED

    def __iter__(self) -> Iterator[Life]:
        """All that have a process."""
        yield from (life for life in (self.current, self.next, *self._leaving) if life is not None)

    @property
    def switching(self) -> bool:
        """The next life only waits for the current one's batch to end."""
        return self._wanted is not None and not self._wanted.done() and self._complete()

    def faults(self, now: float) -> int:
        """Faults of the device lately."""
        return self._restarts.faults(now)

    # Beginning.

    async def begin(self) -> None:
        """The first life, until it runs."""
        self.current = self._new()
        await self.current.start()

    def _new(self) -> Life:
        return Life(self._device, self._around.settings, self)

    async def _prepare(self, life: Life) -> None:
        """Start it and bring it up; it goes on when nobody waits for it any more."""
        life.upbringing = asyncio.get_running_loop().create_task(self._raise(life, start=True))
        await asyncio.wait({life.upbringing})

    def tend(self, life: Life) -> None:
        """There is something missing in it."""
        if life.upbringing is None or life.upbringing.done():
            life.upbringing = asyncio.get_running_loop().create_task(self._raise(life, start=False))

    async def _raise(self, life: Life, start: bool) -> None:
        try:
            if start:
                await life.start()
                self._owner.switched()
            await self._owner.bring_up(life)
        except WorkerLost as error:
            # `ended` has been called, or is about to be, and sees to what follows.
            log.debug("worker %s could not be started: %s", self._device.name, error.message)
        except Exception as error:
            # One that cannot be brought up must not stay as it is.
            log.exception("worker %s could not be brought up", self._device.name)
            life.kill(Cause.DIED, WorkerLost(f"internal error: {error!r:.200}"))
        self.try_switch()

    async def _revive(self, pause: float) -> None:
        died = time.monotonic()
        if pause:
            await asyncio.sleep(pause)
        self.out = False
        life = self.current = self._new()
        self._owner.switched()
        await self._prepare(life)
        if life.running and not self._owner.missing(life):
            log.info("worker %s is warm again, %.2f s after it died", self._device.name, time.monotonic() - died)

    async def back(self) -> None:
        """Until it runs and holds its versions again, if it died."""
        while not self.out and not self.closed:
            upbringing = self.current.upbringing if self.current is not None else None
            busy = [task for task in (self._revival, upbringing) if task is not None and not task.done()]
            if not busy:
                return
            await asyncio.wait(busy)

    # Switching.

    def keep_standby(self, now: float) -> None:
        """Have one made, if there is none and the current life needs nothing."""
        current = self.current
        made = self._making is None or self._making.done()
        if self.next is None and made and current is not None and current.running and now >= self._standby_after:
            grown = current.upbringing is None or current.upbringing.done()
            if grown and not current.loading and not self._owner.missing(current):
                self._making = asyncio.get_running_loop().create_task(self._make_standby())

    async def _make_standby(self) -> None:
        async with self._around.alone:
            if self.next is None and self.current is not None and not self.closed:
                self.next = self._new()
                await self._prepare(self.next)

    async def recycle(self, cause: Cause, reason: str) -> None:
        """Replace the process by a fresh one, which is warm before it takes over; no request notices. WorkerLost or
        ModelError when that cannot be had; then the old one goes on."""
        async with self._around.alone:
            if self.current is None or self.closed:
                raise WorkerLost(f"worker {self._device.name} is not running")
            log.info("worker %s is replaced by a fresh process: %s", self._device.name, reason)
            self._wanted, self._cause = asyncio.get_running_loop().create_future(), cause
            wanted = self._wanted
            try:
                if self.next is None:
                    self.next = self._new()
                    await self._prepare(self.next)
                self.try_switch()
                await wanted
                self.reason = reason
            finally:
                self._wanted = None

    def try_switch(self) -> None:
        """If a switch is wanted and nothing speaks against it any more."""
        wanted, following, current = self._wanted, self.next, self.current
        if wanted is None or wanted.done() or current is None:
            return
        if following is None:
            wanted.set_exception(WorkerLost(f"the replacement of worker {self._device.name} did not start"))
            return
        if refused := sorted(current.warm & following.refused.keys()):
            wanted.set_exception(ModelError(f"the replacement cannot load {refused[0]}"))
            self.next = None
            self._leave(following)
            return
        if self._owner.missing(following) and following.running:
            self.tend(following)
        elif self._complete() and current.idle:
            self.current, self.next = following, None
            self._leave(current)
            self.ended_lives += 1
            self._around.record.worker_restarted(self._cause)
            wanted.set_result(None)
            self._owner.switched()

    def _complete(self) -> bool:
        """The next life holds what the current one does. A version that is being loaded is nobody's yet: it is waited
        for, as it could not go on in another process."""
        current, following = self.current, self.next
        if current is None or following is None or not following.running or current.loading:
            return False
        return current.loaded <= following.warm and not self._owner.missing(following)

    def _leave(self, life: Life) -> None:
        life.running = False
        task = asyncio.get_running_loop().create_task(life.stop(_STOP_PATIENCE))
        self._leaving[life] = task
        task.add_done_callback(lambda _: self._leaving.pop(life, None))

    # What a life tells.

    def near_free(self, life: Life) -> None:
        if life is self.current:
            self.try_switch()
            self._around.scheduler.wake()

    def freed(self, life: Life) -> None:
        if life is self.current:
            self.try_switch()
            self._around.scheduler.dispatch()

    def ended(self, life: Life, death: Death, how: str) -> None:
        if self.closed or life in self._leaving:
            return
        now = time.monotonic()
        if life is self.next:
            self.next = None
            self._standby_after = now + _AGAIN
            log.error("the second process of worker %s died (%s)", self._device.name, how)
            self.try_switch()
        elif life is self.current:
            self._bury(death, how, now)

    def _bury(self, death: Death, how: str, now: float) -> None:
        """The current life is over: another takes its place at once, or after the pause that its death asks for."""
        self.ended_lives += 1
        self._around.record.worker_restarted(death.cause)
        verdict = self._restarts.died(death, self._around.others(self._device), now)
        following, self.next, self.current = self.next, None, None
        if following is not None and verdict.case is Case.DEVICE_GONE:
            self._leave(following)
            following = None
        self.out = verdict.case is Case.DEVICE_GONE
        before, self.reason = self.reason, _told(death, how, verdict)
        if following is not None:
            self.reason = f"{_ended(death, how)}; its second process took over"
            self.current = following
        else:
            self._revival = asyncio.get_running_loop().create_task(self._revive(verdict.pause))
        if verdict.case is not Case.NOT_SPAWNED or self.reason != before:  # said once, not each second
            log.error("worker %s %s", self._device.name, self.reason)
        if self._wanted is not None and not self._wanted.done():
            if following is not None:
                self._wanted.set_result(None)
            else:
                self._wanted.set_exception(WorkerLost(f"worker {self._device.name} died"))
        self._owner.switched()
        # What it computed is put back only after this: whoever answers for what nobody will compute looks once more.
        asyncio.get_running_loop().call_soon(self._around.changed)

    # Ending.

    def kill(self) -> None:
        """End every process at once."""
        self.closed = True
        for life in self:
            life.kill(Cause.DIED, WorkerLost("the server stopped"))

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for task in (self._revival, self._making, *(life.upbringing for life in self)):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        # What still computes has been given up; only an idle process is worth asking.
        await asyncio.gather(*(life.stop(_STOP_PATIENCE if life.idle else 0.0) for life in self))


def _ended(death: Death, how: str) -> str:
    match death.cause:
        case Cause.HUNG:
            return "hung and was killed"
        case Cause.DEVICE:
            return "was ended because its device failed"
        case _:
            return f"died ({how})"


def _told(death: Death, how: str, verdict: Verdict) -> str:
    """What happened and what follows, as an operator wants to read it."""
    if verdict.case is Case.DEVICE_GONE:
        return f"{_ended(death, how)}, again: its device is out of service for {verdict.pause:g} s"
    when = f"in {verdict.pause:g} s" if verdict.pause else "now"
    return f"{_ended(death, how)}; it is started again {when} ({verdict.case})"
