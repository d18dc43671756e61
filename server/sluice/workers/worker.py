"""A worker as the scheduler and the catalog see it: it runs batches, holds versions, and comes back when it dies.

The law of this file: at most one job runs at a time and at most one more is staged behind it, just before its
predicted end; each job ends exactly once, through its `done`, its `failed` or, if its turn never came, its `returned`.
The two slots alternate: when a job ends the next one is started in the other slot before the answers of the first are
cut out of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from sluice.config.settings import Workers
from sluice.errors import InternalError, InvalidRequest, ModelError, ModelFailed, SluiceError, WorkerLost
from sluice.request import Tensor
from sluice.scheduler.entry import Batch, Work
from sluice.scheduler.loop import Scheduler
from sluice.spec import ModelSpec, Signature
from sluice.telemetry.record import BatchFigures, Record
from sluice.workers import assembly, wire
from sluice.workers.devices import Device
from sluice.workers.process import Process
from sluice.workers.slots import Slot, array_at

log = logging.getLogger("sluice.workers")

_STOP_PATIENCE = 5.0
# A worker that lived this long has proven that it can: its next death is not part of a crash loop.
_PROVEN_AFTER = 10.0
_LONGEST_BACKOFF = 30.0
# What a hand-over takes beside writing the slot: the message's way to the process and back to the loop (a round trip
# over the socket takes 0.15 ms), and half a millisecond of the event loop's timers, which count in whole ones.
_HAND_OVER = 0.0007
# Of its predicted time.
_OVERDUE = 1.25


class State(Enum):
    STARTING = "starting"
    RUNNING = "running"
    DEAD = "dead"  # waiting to be started again
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Resident:
    """A version the worker shall hold in every one of its lives."""

    load: wire.Load
    spec: ModelSpec
    warm_up: Sequence[Work]


@dataclass(slots=True)
class Job:
    """Something being computed."""

    number: int
    key: str
    plan: assembly.Plan
    write: Callable[[memoryview], None]
    done: Callable[[wire.Done, memoryview], None]
    failed: Callable[[SluiceError], None]
    returned: Callable[[], None]
    began_late: Callable[[], None] = lambda: None  # it was staged, and its turn has come
    freed: Callable[[float | None], None] = lambda seconds: None  # it ended, after computing so long if it did
    predicted: float = 0.0  # seconds; 0 = not known, nothing is staged behind it
    slot: int = -1
    began: float = 0.0  # when it was rung, or when the job before it ended
    ending: bool = False  # the next one may be staged
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    hung: bool = False


class Worker:
    """One device's worker through all its lives."""

    def __init__(
        self, device: Device, settings: Workers, scheduler: Scheduler, record: Record, changed: Callable[[], None]
    ) -> None:
        self.device = device
        self.state = State.STARTING
        self._settings = settings
        self._scheduler = scheduler
        self._record = record
        self._changed = changed
        self._slots: list[Slot] = []
        self._last_slot = 1  # of the job that ended last, whose answers may still be in it
        self._process: Process | None = None
        self._job: Job | None = None
        self._staged: Job | None = None
        self._writing = 0.0005  # seconds that filling a slot takes, a running mean
        self._numbers = itertools.count(1)
        self._loads: dict[str, asyncio.Future[Signature]] = {}
        self._residents: dict[str, Resident] = {}
        self._loaded: set[str] = set()  # in this life
        self._refused: dict[str, str] = {}  # why this life could not load a resident
        self.serving: set[str] = set()  # loaded, warm and resident: may be given batches
        self._started: asyncio.Future[None] | None = None
        self._born = 0.0
        self._early_deaths = 0
        self._life: asyncio.Task[None] | None = None
        self._bringing_back = asyncio.Lock()

    # What the scheduler asks.

    @property
    def idle(self) -> bool:
        return self._job is None and self.state is State.RUNNING

    @property
    def open(self) -> bool:
        job = self._job
        if self.state is not State.RUNNING or job is None:
            return self.idle
        # Behind one that should have ended long ago nothing is staged: nobody knows when it will.
        late = time.monotonic() - job.began > _OVERDUE * job.predicted + _HAND_OVER
        return self._staged is None and job.ending and not late

    def free_at(self, now: float) -> float:
        job = self._job
        return now if job is None else max(now, job.began + job.predicted)

    def holds(self, key: str) -> bool:
        return key in self.serving

    def refused(self, key: str) -> str:
        """Why it does not hold a version that it should; empty while it may still come to hold it."""
        return self._refused.get(key, "")

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def run(self, batch: Batch) -> None:
        """Compute a batch and tell the scheduler how it went."""
        works = [entry.work for entry in batch.entries]
        assembled = time.monotonic()

        def done(reply: wire.Done, memory: memoryview) -> None:
            computed = time.monotonic()
            for work in works:
                work.request.timeline.computed = computed
                work.request.timeline.compute_seconds = reply.seconds
            try:
                outputs = assembly.read(batch.spec, works, reply.outputs, memory)
                figures = BatchFigures(
                    rows=batch.rows,
                    tokens=batch.tokens,
                    padded_tokens=batch.padded_tokens,
                    assemble_seconds=started - assembled,
                    compute_seconds=reply.seconds,
                    respond_seconds=time.monotonic() - computed,
                )
            except Exception as error:
                log.exception("cannot read the outputs of %s", batch.key)
                failure = InternalError("the outputs of the model do not fit its signature")
                failure.__cause__ = error
                self._scheduler.failed(batch, failure)
            else:
                self._scheduler.finished(batch, outputs, figures)

        try:
            planned = assembly.plan(batch.spec, works, length=batch.length)
            self._start(
                Job(
                    next(self._numbers),
                    batch.key,
                    planned,
                    lambda memory: assembly.write(batch.spec, works, planned, memory),
                    done,
                    lambda error: self._scheduler.failed(batch, error),
                    lambda: self._scheduler.returned(batch),
                    lambda: self._scheduler.began(batch, self),
                    lambda seconds: self._scheduler.freed(batch, self, seconds),
                    batch.seconds,
                )
            )
        except Exception:
            log.exception("cannot assemble a batch of %s", batch.key)
            self._scheduler.freed(batch, self, None)
            self._scheduler.failed(batch, InternalError("internal error while assembling the batch"))
            return
        started = time.monotonic()
        self._writing += 0.05 * (started - assembled - self._writing)
        for work in works:
            work.request.timeline.started = started

    # What the catalog asks.

    async def load(self, load: wire.Load) -> Signature:
        """Load a version; it takes no batches before `adopt`."""
        if self._process is None or self.state is not State.RUNNING:
            raise WorkerLost(f"worker {self.device.name} is not running")
        loaded: asyncio.Future[Signature] = asyncio.get_running_loop().create_future()
        self._loads[load.key] = loaded
        self._process.send(load)
        try:
            async with asyncio.timeout(self._settings.load_timeout):
                signature = await loaded
        except TimeoutError as error:
            self._process.kill()
            raise ModelError(f"loading took longer than {self._settings.load_timeout:g} s") from error
        finally:
            self._loads.pop(load.key, None)
        self._loaded.add(load.key)
        return signature

    async def trial(self, key: str, spec: ModelSpec, works: Sequence[Work]) -> dict[str, Tensor]:
        """Compute works outside of any queue, as one batch, and return its whole outputs, nothing cut."""
        outputs, _ = await self.timed_trial(key, spec, works)
        return outputs

    async def timed_trial(self, key: str, spec: ModelSpec, works: Sequence[Work]) -> tuple[dict[str, Tensor], float]:
        """A trial, and the seconds that the worker was busy with it."""
        async with self._scheduler.turn(self):
            if not self.idle or key not in self._loaded:  # it may have died and come back while this waited
                raise WorkerLost(f"worker {self.device.name} is not running")
            reply: asyncio.Future[tuple[dict[str, Tensor], float]] = asyncio.get_running_loop().create_future()
            planned = assembly.plan(spec, works, place_outputs=False)

            def done(message: wire.Done, memory: memoryview) -> None:
                seconds = time.monotonic() - job.began
                if not reply.done():
                    reply.set_result((_whole(spec, message.outputs, memory), seconds))

            def failed(error: SluiceError) -> None:
                if not reply.done():
                    reply.set_exception(error)

            def write(memory: memoryview) -> None:
                assembly.write(spec, works, planned, memory)

            def returned() -> None:
                failed(WorkerLost(f"worker {self.device.name} is not running"))

            job = Job(next(self._numbers), key, planned, write, done, failed, returned)
            self._start(job)
            return await reply

    def adopt(self, resident: Resident) -> None:
        """Hold this version from now on, in this life and all later ones; it is loaded and warm, unless this life is
        younger than the loading."""
        key = resident.load.key
        self._residents[key] = resident
        if key in self._loaded:
            self.serving.add(key)
            self._scheduler.recount()
        elif self.state is State.RUNNING:
            self._life = asyncio.get_running_loop().create_task(self._bring_back_all())

    def unload(self, key: str) -> None:
        self._residents.pop(key, None)
        self._refused.pop(key, None)
        self.serving.discard(key)
        self._loaded.discard(key)
        if self._process is not None:
            self._process.send(wire.Unload(key))

    async def back(self) -> None:
        """Until it runs and holds its versions again, if it died."""
        while self._life is not None and not self._life.done():
            await asyncio.wait({self._life})

    # Its lives.

    async def start(self) -> None:
        """Spawn the first process and wait until it runs."""
        self._slots = [Slot.create(f"sluice-{self.device.name}-{number}") for number in range(2)]
        await self._spawn()
        self._scheduler.add_worker(self)

    async def _spawn(self) -> None:
        self.state = State.STARTING
        self._started = asyncio.get_running_loop().create_future()
        self._process = Process(self.device, self._received, self._gone)
        self._process.start(self._slots)
        self._born = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                await self._started
        except TimeoutError as error:
            self._process.kill()
            raise WorkerLost(f"worker {self.device.name} did not start in time") from error
        self.state = State.RUNNING

    async def _come_back(self) -> None:
        """The next life: started after a pause that grows in a crash loop, then loaded and warmed as before."""
        if self._early_deaths > 1:
            await asyncio.sleep(min(_LONGEST_BACKOFF, 0.1 * 2.0**self._early_deaths))
        try:
            await self._spawn()
        except WorkerLost as error:
            # It died again, which `_gone` handles with a life of its own.
            log.error("worker %s could not be brought back: %s", self.device.name, error.message)
        else:
            await self._bring_back_all()
        self._scheduler.wake()
        self._changed()

    async def _bring_back_all(self) -> None:
        """Load and warm every resident that this life does not have; one at a time, whoever asks for it."""
        tried: set[str] = set()
        async with self._bringing_back:
            while missing := self._residents.keys() - self._loaded - tried:
                key = min(missing)
                tried.add(key)
                try:
                    await self._bring_back(key, self._residents[key])
                except ModelError as error:
                    log.error("worker %s cannot load %s again: %s", self.device.name, key, error.message)
                    self._refused[key] = error.message
                    self._changed()
                except WorkerLost:
                    if self.state is not State.RUNNING:
                        return  # its next life begins anew

    async def _bring_back(self, key: str, resident: Resident) -> None:
        await self.load(resident.load)
        try:
            for work in resident.warm_up:
                await self.trial(key, resident.spec, [work])
        except (ModelFailed, InvalidRequest):
            pass  # a model that refuses made-up input cannot be warmed, and serves all the same
        if key in self._residents and key in self._loaded:
            self.serving.add(key)
            self._scheduler.recount()
            self._changed()

    def _gone(self, how: str) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.DEAD
        self._record.worker_restarted()
        early = time.monotonic() - self._born < _PROVEN_AFTER
        self._early_deaths = self._early_deaths + 1 if early else 1
        self.serving.clear()
        self._loaded.clear()
        self._refused.clear()
        log.error("worker %s died (%s); starting it again", self.device.name, how)
        lost = WorkerLost(f"the worker computing this request died ({how})")
        for waiting in (self._started, *self._loads.values()):
            if waiting is not None and not waiting.done():
                waiting.set_exception(WorkerLost(f"the worker died ({how})"))
        self._scheduler.recount()
        job, staged = self._job, self._staged
        for ended in (job, staged):
            if ended is not None:
                self._end(ended)
                ended.freed(None)
        self._job = self._staged = None
        if job is not None and job.hung:
            job.failed(ModelFailed(f"computing took longer than {self._settings.compute_timeout:g} s"))
        elif job is not None:
            job.failed(lost)
        if staged is not None:
            staged.returned()
        self._life = asyncio.get_running_loop().create_task(self._come_back())
        self._changed()

    # Its messages.

    def _start(self, job: Job) -> None:
        """Ring for it, now if the process is idle; else it is read from the socket when the running one is done."""
        job.slot = 1 - (self._last_slot if self._job is None else self._job.slot)
        self._ring(job)
        if self._job is None:
            self._begin(job)
        else:
            self._staged = job

    def _begin(self, job: Job) -> None:
        """It computes from now on."""
        self._job = job
        job.began = time.monotonic()
        loop = asyncio.get_running_loop()
        job.timers.append(loop.call_later(self._settings.compute_timeout, self._hung, job))
        if job.predicted:
            lead = self._writing + _HAND_OVER
            job.timers.append(loop.call_later(max(0.0, job.predicted - lead), self._near_its_end, job))

    def _near_its_end(self, job: Job) -> None:
        job.ending = True
        self._scheduler.wake()

    def _end(self, job: Job) -> None:
        for timer in job.timers:
            timer.cancel()
        job.timers.clear()

    def _next(self, job: Job, seconds: float | None) -> bool:
        """The job ended; whether a staged one has taken its place."""
        self._end(job)
        job.freed(seconds)
        self._last_slot = job.slot
        self._job, staged = None, self._staged
        self._staged = None
        if staged is not None:
            self._begin(staged)
            staged.began_late()
        return staged is not None

    def _hung(self, job: Job) -> None:
        """Nothing reaches a process that computes for ever but a kill; what follows is the same as for any death."""
        if self._job is job and self._process is not None:
            patience = self._settings.compute_timeout
            log.error("worker %s computes %s for more than %g s; killing it", self.device.name, job.key, patience)
            job.hung = True
            self._process.kill()

    def _ring(self, job: Job) -> None:
        slot = self._slots[job.slot]
        slot.grow(max(job.plan.size, 1))
        job.write(slot.memory)
        plan = job.plan
        assert self._process is not None
        self._process.send(wire.Run(job.number, job.key, job.slot, slot.size, plan.inputs, plan.outputs, plan.size))

    def _received(self, message: wire.ToServer) -> None:
        match message:
            case wire.Started():
                if self._started is not None and not self._started.done():
                    self._started.set_result(None)
            case wire.Loaded(key, platform, inputs, outputs):
                self._settle_load(key, Signature(platform, wire.to_ports(inputs), wire.to_ports(outputs)))
            case wire.Refused(key, reason):
                self._settle_load(key, ModelError(reason))
            case wire.Done(number) if (job := self._job) is not None and job.number == number:
                self._computed(job, message)
            case wire.Failed(number, reason, refused) if (job := self._job) is not None and job.number == number:
                self._next(job, None)
                job.failed(InvalidRequest(reason) if refused else ModelFailed(reason))
                self._scheduler.wake()
            case wire.Overflow(number, size) if (job := self._job) is not None and job.number == number:
                self._ring_again(job, size)
            case wire.Logged(level, logger, text):
                logging.getLogger(logger).log(level, text, extra={"worker": self.device.name})

    def _computed(self, job: Job, message: wire.Done) -> None:
        memory = self._slots[job.slot].memory
        # Two ends that are read in one turn of the event loop look as if the second batch had taken no time.
        if self._next(job, max(time.monotonic() - job.began, message.seconds)):
            # The slot that would be filled next is this job's own: its answers are cut out first.
            job.done(message, memory)
            self._scheduler.wake()
        else:
            self._scheduler.dispatch()
            job.done(message, memory)

    def _ring_again(self, job: Job, size: int) -> None:
        """In a slot with room for the outputs as well. One staged behind it computes already: they change places."""
        try:
            self._slots[job.slot].grow(size)
            self._ring(job)
            if self._staged is not None:
                self._end(job)
                staged, self._staged = self._staged, job
                self._begin(staged)
        except (OSError, ValueError, OverflowError) as error:
            log.error("worker %s: no slot of %d bytes can be had: %s", self.device.name, size, error)
            self._next(job, None)
            job.failed(ModelFailed(f"its outputs need {size} bytes, which cannot be had"))
            self._scheduler.wake()

    def _settle_load(self, key: str, outcome: Signature | ModelError) -> None:
        waiting = self._loads.get(key)
        if waiting is None or waiting.done():
            return
        if isinstance(outcome, ModelError):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)

    def kill(self) -> None:
        """End the process at once; it is not started again."""
        self.state = State.CLOSED
        if self._process is not None:
            self._process.kill()

    async def close(self) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        if self._life is not None:
            self._life.cancel()
        if self._process is not None:
            # What still computes has been given up; only an idle worker is worth asking.
            await self._process.stop(_STOP_PATIENCE if self._job is None else 0.0)
        for slot in self._slots:
            slot.close()


def _whole(spec: ModelSpec, outputs: Sequence[wire.Place], memory: memoryview) -> dict[str, Tensor]:
    return {
        place.name: assembly.as_tensor(place.name, spec.output_by_name[place.name].datatype, array_at(memory, place))
        for place in outputs
    }
