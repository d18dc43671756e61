"""One life of a worker: a process with its own two slots, the versions loaded in it, and the jobs it is given.

The law of this file: at most one job runs at a time and at most one more is staged behind it, just before its
predicted end; each job ends exactly once, through its `done`, its `failed` or, if its turn never came, its `returned`.
The two slots alternate: when a job ends the next one is started in the other slot before the answers of the first are
cut out of its own. A life never comes back, and knows nothing of the lives before and after it: its keeper does.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sluice.config.settings import Workers
from sluice.errors import (
    DeviceFault,
    Hung,
    InvalidRequest,
    ModelError,
    ModelFailed,
    NoRoom,
    OutOfDeviceMemory,
    SluiceError,
    WorkerLost,
    system_reason,
)
from sluice.spec import Signature
from sluice.workers import assembly, wire
from sluice.workers.devices import Device
from sluice.workers.faults import Fault, is_broken
from sluice.workers.process import Process
from sluice.workers.restarts import PROVEN_BATCHES, Cause, Death
from sluice.workers.slots import Slot

log = logging.getLogger("sluice.workers")

# What a hand-over takes beside writing the slot: the message's way to the process and back to the loop (a round trip
# over the socket takes 0.15 ms), and half a millisecond of the event loop's timers, which count in whole ones.
_HAND_OVER = 0.0007
# Of its predicted time.
_OVERDUE = 1.25
# Seconds. A timer that is so late says that it was the server that stood still, as when its container is paused: then
# its workers may have answered long ago, or stood still as well.
_STOOD_STILL = 0.5


@dataclass(slots=True)
class Job:
    """Something being computed."""

    key: str
    plan: assembly.Plan
    write: Callable[[memoryview], None]
    done: Callable[[wire.Done, memoryview], None]
    failed: Callable[[SluiceError], None]
    returned: Callable[[], None]
    patience: float  # seconds it may compute
    began_late: Callable[[], None] = lambda: None  # it was staged, and its turn has come
    freed: Callable[[float | None], None] = lambda seconds: None  # it ended, after computing so long if it did
    predicted: float = 0.0  # seconds; 0 = not known, nothing is staged behind it
    live: bool = False  # requests wait for it
    number: int = 0
    slot: int = -1
    until: float = 0.0  # then it is overdue
    began: float = 0.0  # when it was rung, or when the job before it ended
    ending: bool = False  # the next one may be staged
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Keeper(Protocol):
    """Who a life belongs to."""

    def near_free(self, life: Life) -> None:
        """It can be given a job now, or a job may be staged."""

    def freed(self, life: Life) -> None:
        """It computed a job and has no other: the moment to give it the next, before the answers are cut out."""

    def ended(self, life: Life, death: Death, how: str) -> None:
        """The process is gone, or could not be started. Its jobs are failed after this returns."""


class Life:
    """From spawn to death."""

    def __init__(self, device: Device, settings: Workers, keeper: Keeper) -> None:
        self.device = device
        self.running = False  # it started, and nothing speaks against it
        self.loaded: set[str] = set()
        self.warm: set[str] = set()  # loaded, and computed once what its version's warm-up asks for
        self.refused: dict[str, str] = {}  # why a version could not be loaded
        self.served = False  # it has been given requests, or could have been
        self.born = time.monotonic()
        self.rested_since = self.born  # when it last showed that it computes
        self.stopped_since: float | None = None  # the system says so
        self.excused = False  # the same request made the device fail before
        self.struck = False  # killed by somebody else, for which nothing that it did is to blame
        self.culprit = ""  # the version that it computed when it ended
        self.upbringing: asyncio.Task[None] | None = None
        self._settings = settings
        self._keeper = keeper
        self._slots: list[Slot] = []
        self._last_slot = 1  # of the job that ended last, whose answers may still be in it
        self._process: Process | None = None
        self._job: Job | None = None
        self._staged: Job | None = None
        self._numbers = 0
        self._batches = 0
        self._writing = 0.0005  # seconds that filling a slot takes, a running mean
        self._started: asyncio.Future[None] | None = None
        self._loads: dict[str, asyncio.Future[Signature]] = {}
        self._broken = False  # the device says so
        self._doom: tuple[Cause, SluiceError] | None = None  # it is being killed, and why
        self._ping: asyncio.TimerHandle | None = None
        self._stopping = False
        self._over = False

    # What its keeper asks.

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def idle(self) -> bool:
        return self._job is None and self.running

    @property
    def open(self) -> bool:
        job = self._job
        if job is None or not self.running:
            return self.running
        # Behind one that should have ended long ago nothing is staged: nobody knows when it will.
        late = time.monotonic() - job.began > _OVERDUE * job.predicted + _HAND_OVER
        return self._staged is None and job.ending and not late

    @property
    def dying(self) -> bool:
        return self._doom is not None

    @property
    def loading(self) -> bool:
        return bool(self._loads)

    def free_at(self, now: float) -> float:
        job = self._job
        return now if job is None else max(now, job.began + job.predicted)

    # Its process.

    async def start(self) -> None:
        """Spawn the process and wait until it runs; WorkerLost when it does not, after the keeper was told."""
        self._started = asyncio.get_running_loop().create_future()
        try:
            for number in range(2):
                self._slots.append(Slot.create(f"sluice-{self.device.name}-{number}"))
            self._process = Process(self.device, self._received, self._gone)
            self._process.start(self._slots)
        except OSError as error:
            self._gone(f"it cannot be started: {system_reason(error)}")
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                await self._started
        except TimeoutError as error:
            self.kill(Cause.HUNG, WorkerLost(f"worker {self.device.name} did not start in time"))
            raise WorkerLost(f"worker {self.device.name} did not start in time") from error
        if self._over or self._stopping:
            raise WorkerLost(f"worker {self.device.name} ended as it started")
        self.running = self._doom is None

    def kill(self, cause: Cause, error: SluiceError) -> None:
        """End the process at once; what it computes fails with the error. Nothing else reaches one that hangs."""
        if self._over or self._doom is not None:
            return
        self._doom = cause, error
        self.running = False
        if self._process is not None:
            self._process.kill()

    async def stop(self, patience: float) -> None:
        """Ask it to end, and end it if it does not in time; what it still computes has been given up."""
        self._stopping = True
        self.running = False
        if self._process is not None:
            await self._process.stop(patience)
        self._close()

    def _gone(self, how: str) -> None:
        self._over = True
        self.running = False
        if self._ping is not None:
            self._ping.cancel()
        cause, error = self._doom or (Cause.DIED, WorkerLost(f"the worker computing this request died ({how})"))
        self.struck = cause is Cause.DIED and how == f"signal {signal.SIGKILL.name}"
        # A device that computed well until a request came that made it fail before is not the one to blame.
        doubtful = not self.excused and self._batches < PROVEN_BATCHES
        blamed = cause is Cause.DEVICE and (self._broken or doubtful)
        spawned = bool(self.pid)
        death = Death(cause, time.monotonic() - self.born, self._batches, self.served, blamed, spawned)
        self.culprit = self._job.key if self._job is not None else ""
        try:
            self._keeper.ended(self, death, how)
        except Exception:  # what waits for this life must be answered all the same
            log.exception("the end of worker %s could not be dealt with", self.device.name)
        for waiting in (self._started, *self._loads.values()):
            if waiting is not None and not waiting.done():
                waiting.set_exception(WorkerLost(f"the worker died ({how})" if self._doom is None else error.message))
                waiting.exception()  # nobody may be waiting for it any more
        job, staged = self._job, self._staged
        self._job = self._staged = None
        self._close()
        for ended in (job, staged):
            if ended is not None:
                self._disarm(ended)
                if not self._stopping:
                    ended.freed(None)
        # When it is stopped requests have been given up; whoever tried something out still waits.
        if job is not None and not (self._stopping and job.live):
            job.failed(error)
        if staged is not None and not (self._stopping and staged.live):
            staged.returned()

    def _close(self) -> None:
        for slot in self._slots:
            slot.close()
        self._slots.clear()

    # Versions.

    async def load(self, load: wire.Load) -> Signature:
        if not self.running:
            raise WorkerLost(f"worker {self.device.name} is not running")
        if len(wire.encode(load)) > wire.MAX_PACKET:
            raise ModelError("its settings are too large to be handed to a worker")
        loaded: asyncio.Future[Signature] = asyncio.get_running_loop().create_future()
        self._loads[load.key] = loaded
        self._send(load)
        try:
            async with asyncio.timeout(self._settings.load_timeout):
                signature = await loaded
        except TimeoutError as error:
            reason = f"loading took longer than {self._settings.load_timeout:g} s"
            self.kill(Cause.HUNG, Hung(reason))
            raise ModelError(reason) from error
        finally:
            self._loads.pop(load.key, None)
        self.loaded.add(load.key)
        return signature

    def unload(self, key: str) -> None:
        for known in (self.loaded, self.warm):
            known.discard(key)
        self.refused.pop(key, None)
        self._send(wire.Unload(key))

    # Jobs.

    def give(self, job: Job) -> None:
        """Ring for it, now if the process is idle; else it is read from the socket when the running one is done."""
        self._numbers += 1
        job.number = self._numbers
        job.slot = 1 - (self._last_slot if self._job is None else self._job.slot)
        self._ring(job)
        if self._job is None:
            self._begin(job)
        else:
            self._staged = job

    def wrote(self, seconds: float) -> None:
        """Laying out a batch and giving it took so long."""
        self._writing += 0.05 * (seconds - self._writing)

    def ping(self, patience: float) -> None:
        """Have it killed if it does not say anything for so long."""
        if self._ping is None and self.idle:
            self._ping = asyncio.get_running_loop().call_later(patience, self._silent, patience)
            self._send(wire.Ping())

    def trim(self) -> None:
        """Give back memory that is kept only to be quick."""
        self._send(wire.Trim())
        used = {job.slot for job in (self._job, self._staged) if job is not None}
        for number, slot in enumerate(self._slots):
            if number not in used:
                slot.trim()

    def stands_still(self, seconds: float) -> None:
        """The system says that the process has been stopped for so long."""
        self._hang(f"its process was stopped for {seconds:.1f} s")

    def _silent(self, patience: float) -> None:
        loop = asyncio.get_running_loop()
        if self._ping is not None and loop.time() > self._ping.when() + _STOOD_STILL:
            self._ping = loop.call_later(patience, self._silent, patience)
            return
        self._hang(f"it gave no sign of life for {patience:g} s")

    def _hang(self, reason: str) -> None:
        log.error("worker %s has hung: %s; killing it", self.device.name, reason)
        self.kill(Cause.HUNG, Hung(f"the worker computing this request was taken for hung: {reason}"))

    def _overdue(self, job: Job) -> None:
        if self._job is job:
            if time.monotonic() > job.until + _STOOD_STILL:
                self._allow(job)
                return
            reason = f"computing {job.key} took longer than {job.patience:g} s"
            log.error("worker %s has hung: %s; killing it", self.device.name, reason)
            text = f"computing took longer than {job.patience:g} s, so the worker was taken for hung"
            self.kill(Cause.HUNG, Hung(text))

    def _begin(self, job: Job) -> None:
        """It computes from now on."""
        self._job = job
        job.began = time.monotonic()
        self._allow(job)
        if job.predicted:
            lead = self._writing + _HAND_OVER
            loop = asyncio.get_running_loop()
            job.timers.append(loop.call_later(max(0.0, job.predicted - lead), self._near_its_end, job))

    def _allow(self, job: Job) -> None:
        """Give it its time, from now on."""
        job.until = time.monotonic() + job.patience
        job.timers.append(asyncio.get_running_loop().call_later(job.patience, self._overdue, job))

    def _near_its_end(self, job: Job) -> None:
        job.ending = True
        self._keeper.near_free(self)

    def _disarm(self, job: Job) -> None:
        for timer in job.timers:
            timer.cancel()
        job.timers.clear()

    def _next(self, job: Job, seconds: float | None) -> bool:
        """The job ended; whether a staged one has taken its place."""
        self._disarm(job)
        job.freed(seconds)
        self._last_slot = job.slot
        self._job, staged = None, self._staged
        self._staged = None
        if staged is not None:
            self._begin(staged)
            staged.began_late()
        return staged is not None

    def _ring(self, job: Job) -> None:
        slot = self._slots[job.slot]
        slot.grow(max(job.plan.size, 1))
        job.write(slot.memory)
        plan = job.plan
        self._send(wire.Run(job.number, job.key, job.slot, slot.size, plan.inputs, plan.outputs, plan.size))

    def _send(self, message: wire.ToWorker) -> None:
        if self._process is not None:
            self._process.send(message)

    # Its messages.

    def _received(self, message: wire.ToServer) -> None:
        if self._ping is not None:
            self._ping.cancel()
            self._ping = None
        self.rested_since = time.monotonic()
        match message:
            case wire.Started():
                if self._started is not None and not self._started.done():
                    self._started.set_result(None)
            case wire.Loaded(key, platform, inputs, outputs):
                self._settle_load(key, Signature(platform, wire.to_ports(inputs), wire.to_ports(outputs)))
            case wire.Refused(key, reason, fault):
                if fault == Fault.DEVICE:
                    self._device_failed(reason)  # which ends the loading as well
                else:
                    self._settle_load(key, NoRoom(reason) if fault == Fault.MEMORY else ModelError(reason))
            case wire.Done(number) if (job := self._job) is not None and job.number == number:
                self._computed(job, message)
            case wire.Failed(number, reason, fault) if (job := self._job) is not None and job.number == number:
                self._raised(job, reason, Fault(fault))
            case wire.Overflow(number, size) if (job := self._job) is not None and job.number == number:
                self._ring_again(job, size)
            case wire.Logged(level, logger, text):
                logging.getLogger(logger).log(level, text, extra={"worker": self.device.name})

    def _computed(self, job: Job, message: wire.Done) -> None:
        memory = self._slots[job.slot].memory
        self._batches += job.live
        # Two ends that are read in one turn of the event loop look as if the second batch had taken no time.
        if self._next(job, max(time.monotonic() - job.began, message.seconds)):
            # The slot that would be filled next is this job's own: its answers are cut out first.
            job.done(message, memory)
            self._keeper.near_free(self)
        else:
            self._keeper.freed(self)
            job.done(message, memory)

    def _raised(self, job: Job, reason: str, fault: Fault) -> None:
        if fault is Fault.DEVICE:
            self._device_failed(reason)  # what is staged is returned when the process is gone
            self._disarm(job)
            self._job = None
            job.freed(None)
            job.failed(DeviceFault(f"the device failed: {reason}"))
            return
        self._batches += job.live
        self._next(job, None)
        match fault:
            case Fault.REFUSED:
                job.failed(InvalidRequest(reason))
            case Fault.MEMORY:
                job.failed(OutOfDeviceMemory(reason))
            case Fault.MODEL:
                job.failed(ModelFailed(reason))
        self._keeper.near_free(self)

    def _device_failed(self, reason: str) -> None:
        log.error("worker %s: its device failed; replacing the process: %s", self.device.name, reason)
        self._broken = is_broken(reason)
        self.kill(Cause.DEVICE, DeviceFault(f"the device failed: {reason}"))

    def _ring_again(self, job: Job, size: int) -> None:
        """In a slot with room for the outputs as well. One staged behind it computes already: they change places."""
        try:
            self._slots[job.slot].grow(size)
            self._ring(job)
            if self._staged is not None:
                self._disarm(job)
                staged, self._staged = self._staged, job
                self._begin(staged)
                staged.began_late()
        except (OSError, ValueError, OverflowError) as error:
            log.error("worker %s: no slot of %d bytes can be had: %s", self.device.name, size, error)
            self._next(job, None)
            job.failed(ModelFailed(f"its outputs need {size} bytes, which cannot be had"))
            self._keeper.near_free(self)

    def _settle_load(self, key: str, outcome: Signature | ModelError) -> None:
        waiting = self._loads.get(key)
        if waiting is None or waiting.done():
            return
        if isinstance(outcome, ModelError):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)
