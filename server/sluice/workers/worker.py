"""A worker as the scheduler and the catalog see it: it runs batches, holds versions, and comes back when it dies.

The law of this file: a worker is a device's place through all its lives. What it shall hold is known here; each life
(`life.py`) is brought up to hold it, and `lives.py` says which life is the current one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from sluice.admission.breaker import Breaker, Phase, Rule
from sluice.errors import (
    DeviceFault,
    Hung,
    InternalError,
    InvalidRequest,
    ModelError,
    ModelFailed,
    OutOfDeviceMemory,
    SluiceError,
    WorkerLost,
)
from sluice.health import Condition, Part
from sluice.request import Tensor
from sluice.scheduler.entry import Batch, Work
from sluice.spec import ModelSpec, Signature
from sluice.telemetry.record import BatchFigures
from sluice.workers import assembly, wire
from sluice.workers.care import Care
from sluice.workers.devices import Device
from sluice.workers.life import Job, Life
from sluice.workers.lives import Lives, Surroundings
from sluice.workers.process import Look, look_at
from sluice.workers.restarts import Cause
from sluice.workers.slots import array_at

log = logging.getLogger("sluice.workers")

# On a CPU a shape needs no preparation of its own: a new life runs what it can in so many seconds, short ones first.
_WARM_SECONDS = 0.5
# A version that ended so many lives while it was loaded is not loaded again.
_DEADLY = 3


class State(Enum):
    STARTING = "starting"
    RUNNING = "running"
    DEAD = "dead"  # waiting to be started again
    OUT = "out"  # its device failed again and again
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Resident:
    """A version the worker shall hold in every one of its lives."""

    load: wire.Load
    spec: ModelSpec
    warm_up: Sequence[Work]
    check: Callable[[], object]  # ModelError if its files are no longer what they were


@dataclass(frozen=True, slots=True)
class Proof:
    """A small batch of a version, which was computed well once and so can be again."""

    spec: ModelSpec
    work: Work

    @property
    def size(self) -> int:
        return self.work.rows * self.work.length


class Worker:
    """One device's worker through all its lives."""

    def __init__(self, device: Device, surroundings: Surroundings) -> None:
        self.device = device
        self.serving: set[str] = set()  # loaded, warm and resident, and nothing speaks against it: may be given batches
        self.breaker = Breaker(Rule())
        self._around = surroundings
        self._scheduler = surroundings.scheduler
        self._watchdog = surroundings.watchdog
        self._lives = Lives(device, surroundings, self)
        self._residents: dict[str, Resident] = {}
        self.proofs: dict[str, Proof] = {}
        self._deadly: Counter[str] = Counter()  # lives that ended while they loaded a version
        self._spoiled: set[str] = set()  # versions whose warm-up ended the last life
        self._faulted: deque[frozenset[int]] = deque(maxlen=16)  # requests under which the device failed lately
        self._care = Care(surroundings, self._lives, self)
        self._waiting: set[asyncio.Timeout] = set()  # for a turn

    # What the scheduler asks.

    @property
    def idle(self) -> bool:
        life = self._lives.current
        return life is not None and life.idle

    @property
    def open(self) -> bool:
        life = self._lives.current
        if life is None or not life.open:
            return False
        return life.idle or not self._lives.switching

    def free_at(self, now: float) -> float:
        life = self._lives.current
        return now if life is None else life.free_at(now)

    def run(self, batch: Batch) -> None:
        """Compute a batch and tell the scheduler how it went."""
        works = [entry.work for entry in batch.entries]
        assembled = time.monotonic()

        def done(reply: wire.Done, memory: memoryview) -> None:
            computed = time.monotonic()
            self._tell_peers(batch.key, failed=False, now=computed)
            self._spoiled.discard(batch.key)
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
            life = self._lives.current
            assert life is not None
            planned = assembly.plan(batch.spec, works, length=batch.length)
            life.give(
                Job(
                    batch.key,
                    planned,
                    write=lambda memory: assembly.write(batch.spec, works, planned, memory),
                    done=done,
                    failed=lambda error: self._failed(life, batch, error),
                    returned=lambda: self._scheduler.returned(batch),
                    patience=self._watchdog.batch(batch.seconds),
                    began_late=lambda: self._scheduler.began(batch, self),
                    freed=lambda seconds: self._scheduler.freed(batch, self, seconds),
                    predicted=batch.seconds,
                    live=True,
                )
            )
        except Exception:
            log.exception("cannot assemble a batch of %s", batch.key)
            self._scheduler.freed(batch, self, None)
            self._scheduler.failed(batch, InternalError("internal error while assembling the batch"))
            return
        started = time.monotonic()
        life.wrote(started - assembled)
        for work in works:
            work.request.timeline.started = started

    def _failed(self, life: Life, batch: Batch, error: SluiceError) -> None:
        if isinstance(error, DeviceFault):
            self._excuse(life, batch)
        guilty = isinstance(error, ModelFailed | Hung | DeviceFault) and not isinstance(error, OutOfDeviceMemory)
        if guilty:
            now = time.monotonic()
            self._tell_peers(batch.key, failed=True, now=now)
            self._suspect(now)
        self._scheduler.failed(batch, error)

    def _tell_peers(self, key: str, failed: bool, now: float) -> None:
        if key in self._residents:
            self._around.peers.add(self, key, failed, now)

    def _excuse(self, life: Life, batch: Batch) -> None:
        """A request that makes a device fail is tried again until it is known: that is one failure, not several."""
        entries = frozenset(entry.sequence for entry in batch.entries)
        life.excused = any(entries & before for before in self._faulted)
        self._faulted.append(entries)

    def _suspect(self, now: float) -> None:
        """Take no batches for a while, if it fails where others succeed."""
        reason = self._around.peers.suspicion(self, now)
        if reason and self.breaker.allows(now):
            self.breaker.trip(now, reason)
            log.error("worker %s gets no requests for a while: %s", self.device.name, reason)
            self.switched()

    # What the catalog asks.

    @property
    def state(self) -> State:
        life = self._lives.current
        if self._lives.closed:
            return State.CLOSED
        if self._lives.out:
            return State.OUT
        if life is None or life.dying:
            return State.DEAD
        return State.RUNNING if life.running else State.STARTING

    def holds(self, key: str) -> bool:
        return key in self.serving

    def refused(self, key: str) -> str:
        """Why it does not hold a version that it should; empty while it may still come to hold it."""
        life = self._lives.current
        return life.refused.get(key, "") if life is not None else ""

    def absent(self, key: str) -> str:
        """Why it will not hold a version soon; empty while it may."""
        return self._lives.reason if self._lives.out else self.refused(key)

    async def load(self, load: wire.Load) -> Signature:
        """Load a version; it takes no batches before `adopt`."""
        life = self._lives.current
        if life is None or not life.running:
            raise WorkerLost(f"worker {self.device.name} is not running")
        try:
            return await life.load(load)
        finally:
            self._lives.try_switch()

    async def trial(self, key: str, spec: ModelSpec, works: Sequence[Work]) -> dict[str, Tensor]:
        """Compute works outside of any queue, as one batch, and return its whole outputs, nothing cut."""
        outputs, _ = await self.timed_trial(key, spec, works)
        return outputs

    async def timed_trial(self, key: str, spec: ModelSpec, works: Sequence[Work]) -> tuple[dict[str, Tensor], float]:
        """A trial, and the seconds that the worker was busy with it."""
        return await self._in_turn(key, spec, works, self._watchdog.trial)

    async def _in_turn(
        self, key: str, spec: ModelSpec, works: Sequence[Work], patience: float
    ) -> tuple[dict[str, Tensor], float]:
        limit = asyncio.timeout(None)
        self._waiting.add(limit)  # a worker that is out of service has no turn to give
        try:
            async with limit, self._scheduler.turn(self):
                self._waiting.discard(limit)
                life = self._lives.current
                if life is None or not life.idle or key not in life.loaded:  # it may have died while this waited
                    raise WorkerLost(f"worker {self.device.name} is not running")
                outcome = await self._alone(life, key, spec, works, patience)
        except TimeoutError as error:
            raise WorkerLost(f"worker {self.device.name} is out of service") from error
        finally:
            self._waiting.discard(limit)
        if len(works) == 1 and key in life.loaded:
            proof, known = Proof(spec, works[0]), self.proofs.get(key)
            if known is None or proof.size < known.size:
                self.proofs[key] = proof
        return outcome

    async def _alone(
        self, life: Life, key: str, spec: ModelSpec, works: Sequence[Work], patience: float
    ) -> tuple[dict[str, Tensor], float]:
        """On a life that nobody else can give a job to now."""
        reply: asyncio.Future[tuple[dict[str, Tensor], float]] = asyncio.get_running_loop().create_future()
        planned = assembly.plan(spec, works, place_outputs=False)

        def done(message: wire.Done, memory: memoryview) -> None:
            seconds = time.monotonic() - job.began
            if reply.done():
                return
            try:
                reply.set_result((_whole(spec, message.outputs, memory), seconds))
            except Exception as error:
                log.exception("cannot read the outputs of %s", key)
                reply.set_exception(InternalError(f"its outputs cannot be read: {error!r:.200}"))

        def failed(error: SluiceError) -> None:
            if not reply.done():
                reply.set_exception(error)

        def write(memory: memoryview) -> None:
            assembly.write(spec, works, planned, memory)

        def returned() -> None:
            failed(WorkerLost(f"worker {self.device.name} is not running"))

        job = Job(key, planned, write, done, failed, returned, patience)
        life.give(job)
        return await reply

    def adopt(self, resident: Resident) -> None:
        """Hold this version from now on, in this life and all later ones; it is loaded and warm, unless this life is
        younger than the loading."""
        key = resident.load.key
        self._residents[key] = resident
        current = self._lives.current
        if current is not None and key in current.loaded:
            current.warm.add(key)
            self.switched()
        for life in self._lives:
            if life.running and self.missing(life):
                self._lives.tend(life)

    def unload(self, key: str) -> None:
        self._residents.pop(key, None)
        self.proofs.pop(key, None)
        self._deadly.pop(key, None)
        self._spoiled.discard(key)
        self._around.peers.drop(key)
        self.serving.discard(key)
        for life in self._lives:
            life.unload(key)
        self._lives.try_switch()

    async def vacate(self, key: str) -> Resident | None:
        """Give a version up for another, once nothing of it is computed here; None if it was not to be held."""
        resident = self._residents.pop(key, None)
        self.switched()  # it is given no more batches
        limit = asyncio.timeout(None)
        self._waiting.add(limit)
        try:
            async with limit, self._scheduler.turn(self):
                pass  # whatever it computed has ended
        except TimeoutError:
            pass  # it is out of service, and computes nothing
        except BaseException:
            if resident is not None:
                self.adopt(resident)
            raise
        finally:
            self._waiting.discard(limit)
        self.unload(key)
        self.trim()
        return resident

    async def back(self) -> None:
        """Until it runs and holds its versions again, if it died."""
        await self._lives.back()

    # What its lives ask.

    def switched(self) -> None:
        life = self._lives.current
        able = life is not None and life.running and self.breaker.phase is Phase.CLOSED
        self.serving = life.warm & self._residents.keys() if able and life is not None else set()
        if life is not None and self.serving:
            life.served = True
        if self._lives.out:
            for limit in self._waiting:
                limit.reschedule(0.0)
        self._scheduler.recount()
        self._around.changed()

    def missing(self, life: Life) -> set[str]:
        return self._residents.keys() - life.warm - life.refused.keys()

    async def bring_up(self, life: Life) -> None:
        """Load and warm every resident that it does not have; what ended a life before comes last."""
        while life.running and (missing := self.missing(life)):
            key = min(missing, key=lambda key: (self._deadly[key], key in self._spoiled, key))
            resident = self._residents[key]
            try:
                if key not in life.loaded:
                    await self._load_again(life, resident)
                if key in self._residents:
                    await self._warm(life, resident)
                else:  # unloaded meanwhile
                    life.unload(key)
            except WorkerLost:
                return  # its next life begins anew
            except Exception as error:  # whatever is wrong with one version must not keep the worker from all others
                expected = isinstance(error, ModelError)
                reason = error.message if isinstance(error, ModelError) else f"internal error: {error!r:.200}"
                log.error("worker %s cannot load %s again: %s", self.device.name, key, reason, exc_info=not expected)
                life.refused[key] = reason
                self._around.changed()

    async def _load_again(self, life: Life, resident: Resident) -> None:
        """A version that ends the process in which it is loaded must not keep the worker from all others."""
        key = resident.load.key
        if self._deadly[key] >= _DEADLY:
            raise ModelError(f"loading it ended the worker's process {_DEADLY} times")
        await asyncio.to_thread(resident.check)
        try:
            await life.load(resident.load)
        except (WorkerLost, ModelError):
            # What was computed meanwhile is the likelier reason, if anything was.
            self._deadly[key] += not life.running and not life.struck and not life.culprit
            raise
        self._deadly.pop(key, None)

    async def _warm(self, life: Life, resident: Resident) -> None:
        """One whose warm-up ended the last life is served without it, like one that refuses made-up input: requests
        are watched more closely, and the one that does such a thing is found."""
        key, until = resident.load.key, time.monotonic() + _WARM_SECONDS
        for work in sorted(resident.warm_up, key=lambda work: work.rows * work.length):
            if key in self._spoiled or (self.device.kind == "cpu" and time.monotonic() > until):
                break
            try:
                if life is self._lives.current:
                    await self._in_turn(key, resident.spec, [work], self._watchdog.trial)
                else:
                    await self._alone(life, key, resident.spec, [work], self._watchdog.trial)
            except (ModelFailed, InvalidRequest):
                continue
            except WorkerLost:
                if not life.running and not life.struck and life.culprit == key:
                    self._spoiled.add(key)
                raise
        if key in life.loaded:
            life.warm.add(key)
            self.switched()

    # Health.

    @property
    def pid(self) -> int:
        return self._lives.current.pid if self._lives.current is not None else 0

    @property
    def pids(self) -> tuple[int, ...]:
        """Of all its processes."""
        return tuple(life.pid for life in self._lives if life.pid)

    @property
    def reason(self) -> str:
        """Why it does not take requests; empty if it does."""
        return self.breaker.reason if self.state is State.RUNNING else self._lives.reason

    @property
    def restarts(self) -> int:
        return self._lives.ended_lives

    def memory(self) -> int:
        """Bytes that its processes hold for themselves: neither pages of files nor slots."""
        return sum(look.anonymous for pid in self.pids if (look := look_at(pid)) is not None)

    def held(self) -> int:
        """Bytes that its current process holds for itself."""
        look = look_at(self.pid) if self.pid else None
        return look.anonymous if look is not None else 0

    def parts(self) -> list[Part]:
        """The worker and its device, as an operator wants to know them."""
        device, now = f"{self.device.name} {self.device.model}".strip(), time.monotonic()
        faults = self._lives.faults(now)
        if self._lives.out:
            health = Part("device", device, Condition.FAILED, self._lives.reason)
        elif faults:
            health = Part("device", device, Condition.DEGRADED, f"it failed {faults} times lately")
        else:
            health = Part("device", device, Condition.OK)
        return [Part("worker", self.device.name, *self._condition()), health]

    def _condition(self) -> tuple[Condition, str]:
        state, life = self.state, self._lives.current
        if state is not State.RUNNING or life is None:
            starting = state is State.STARTING
            said = f"{state.value}: {self.reason}" if self.reason else state.value
            return Condition.DEGRADED if starting else Condition.FAILED, said
        if self.breaker.phase is not Phase.CLOSED:
            return Condition.DEGRADED, f"it gets no requests: {self.breaker.reason}"
        if life.refused:
            key, why = min(life.refused.items())
            return Condition.DEGRADED, f"it cannot load {key}: {why}"
        missing = self.missing(life)
        if missing:
            return Condition.DEGRADED, f"it is loading {', '.join(sorted(missing))}"
        standby = ", a standby is ready" if self._lives.next is not None and not self.missing(self._lives.next) else ""
        count = len(self.serving)
        return Condition.OK, f"process {life.pid}, {count} version{'' if count == 1 else 's'}{standby}"

    def trim(self) -> None:
        """Have its processes give back memory that they keep only to be quick."""
        for life in self._lives:
            life.trim()

    def look(self, now: float, looks: Mapping[int, Look]) -> None:
        """Called every now and then, with what the system says about the processes."""
        self._care.look(now, looks)

    async def prove(self, key: str) -> str:
        """Compute a tiny batch of a version, one that went well before; why it did not now, or empty."""
        proof = self.proofs[key]
        try:
            await self._in_turn(key, proof.spec, [proof.work], self._watchdog.sign_of_life)
        except SluiceError as error:
            log.warning("worker %s could not compute a tiny batch of %s: %s", self.device.name, key, error.message)
            return error.message or error.reason
        except Exception as error:
            log.exception("worker %s could not be given a tiny batch of %s", self.device.name, key)
            return f"internal error: {error!r:.200}"
        return ""

    async def recycle(self, reason: str, cause: Cause = Cause.RECYCLED) -> None:
        """Replace its process by a fresh one, which is warm before it takes over; no request notices."""
        await self._lives.recycle(cause, reason)

    # Its beginning and end.

    async def start(self) -> None:
        """Spawn the first process and wait until it runs."""
        await self._lives.begin()
        self._scheduler.add_worker(self)

    def kill(self) -> None:
        """End the processes at once; none is started again."""
        self._lives.kill()

    async def close(self) -> None:
        self._care.close()
        await self._lives.close()


def _whole(spec: ModelSpec, outputs: Sequence[wire.Place], memory: memoryview) -> dict[str, Tensor]:
    return {
        place.name: assembly.as_tensor(place.name, spec.output_by_name[place.name].datatype, array_at(memory, place))
        for place in outputs
    }
