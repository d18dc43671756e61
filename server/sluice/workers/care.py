"""Looks after one worker: signs of life, processes that stand still, memory, standbys, and the way back of one that
failed where others succeed.

Called every now and then, off the way of requests; what takes longer runs in the background, one of each kind.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Coroutine, Hashable, Mapping
from typing import Any, Protocol

from sluice.admission.breaker import Breaker
from sluice.errors import DeviceFault, ModelError, WorkerLost
from sluice.workers.life import Life
from sluice.workers.lives import Lives, Surroundings
from sluice.workers.process import Look, look_at
from sluice.workers.restarts import Cause

log = logging.getLogger("sluice.workers")

# Between two replacements for taking too much memory: what is too much at once would never end.
_RECYCLE_EVERY = 60.0


class Patient(Hashable, Protocol):
    """The worker that is looked after."""

    @property
    def breaker(self) -> Breaker: ...

    @property
    def serving(self) -> Collection[str]: ...

    @property
    def proofs(self) -> dict[str, Any]:
        """The versions of which it knows a tiny batch that went well; the next to be tried comes first."""

    async def prove(self, key: str) -> str:
        """Compute a tiny batch; why it went wrong, or empty."""

    def missing(self, life: Life) -> set[str]:
        """The versions that a life should have and neither has nor refused."""

    def switched(self) -> None:
        """What can be served has changed."""


class Care:
    """What is done for one worker."""

    def __init__(self, surroundings: Surroundings, lives: Lives, patient: Patient) -> None:
        self._around = surroundings
        self._watchdog = surroundings.watchdog
        self._lives = lives
        self._patient = patient
        self._recycle_after = 0.0
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def look(self, now: float, looks: Mapping[int, Look]) -> None:
        for life in list(self._lives):
            self._see_it_move(life, now, looks.get(life.pid))
            if life.running and self._patient.missing(life):
                self._lives.tend(life)
        current = self._lives.current
        if current is None or not current.running:
            return
        if self._watchdog.beats(current.rested_since, now) and current.idle and not current.loading:
            self._once("beat", self._beat(current))
        if self._patient.breaker.may_probe(now):
            self._once("probe", self._probe(current))
        if self._around.settings.standby:
            self._lives.keep_standby(now)
        self._weigh(now, looks.get(current.pid))

    def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    def _once(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """In the background, unless it is under way already."""
        if name in self._tasks:
            work.close()
            return
        task = self._tasks[name] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    def _see_it_move(self, life: Life, now: float, look: Look | None) -> None:
        stopped = look is not None and look.stopped
        life.stopped_since = (life.stopped_since or now) if stopped else None
        if life.stopped_since is not None and self._watchdog.stands_still(life.stopped_since, now):
            life.stands_still(now - life.stopped_since)

    async def _beat(self, life: Life) -> None:
        """Have it show that it can compute; what does not answer in time is killed by the watchdog."""
        patient = self._patient
        key = next((key for key in patient.proofs if key in patient.serving), None)
        if key is None:
            life.ping(self._watchdog.sign_of_life)
            return
        await patient.prove(key)
        if key in patient.proofs:  # the next time it is the turn of another version
            patient.proofs[key] = patient.proofs.pop(key)

    async def _probe(self, life: Life) -> None:
        """It got no requests for a while: whether it can compute what it could once. If not, its process is replaced,
        and the device is to blame if that happens again."""
        patient = self._patient
        patient.breaker.probing(time.monotonic())
        reason = ""
        for key in [key for key in patient.proofs if key in life.warm]:
            if key in patient.proofs and not reason:
                reason = await patient.prove(key)
        patient.breaker.probed(time.monotonic(), ok=not reason, reason=reason)
        self._around.peers.forgive(patient)
        if reason:
            life.kill(Cause.DEVICE, DeviceFault(reason))
        else:
            patient.switched()

    def _weigh(self, now: float, look: Look | None) -> None:
        bound = self._around.settings.max_memory
        if bound and look is not None and look.anonymous > bound and now >= self._recycle_after:
            self._recycle_after = now + _RECYCLE_EVERY
            held = f"it holds {look.anonymous >> 20} MiB, more than {bound >> 20} MiB"
            self._once("recycle", self._recycle(held, bound))

    async def _recycle(self, reason: str, bound: int) -> None:
        try:
            await self._lives.recycle(Cause.MEMORY, reason)
        except (ModelError, WorkerLost) as error:
            log.error("a worker that should be replaced goes on as it is: %s", error.message)
            return
        finally:
            self._recycle_after = time.monotonic() + _RECYCLE_EVERY
        fresh = self._lives.current
        held = await asyncio.to_thread(look_at, fresh.pid) if fresh is not None else None
        if held is not None and held.anonymous > bound:
            log.warning(
                "worker %s holds %d MiB though it is fresh: workers.max_memory is too small for what it serves",
                fresh.device.name if fresh is not None else "",
                held.anonymous >> 20,
            )
