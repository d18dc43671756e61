"""Brings one version up: loads it on its workers, learns its spec, warms it, opens its lane; and takes it down again.

Whatever fails on the way, the workers are left without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from sluice.admission.circuit import Circuit
from sluice.admission.validation import Rules
from sluice.config import settings as config
from sluice.errors import InvalidRequest, ModelError, ModelFailed, NotReady, WorkerLost
from sluice.request import Tensor
from sluice.reuse.answers import Identity
from sluice.scheduler.cost import Cost
from sluice.scheduler.entry import Entry, Limits, Work
from sluice.scheduler.loop import Lane, Scheduler
from sluice.scheduler.policy import Bounds, Policy
from sluice.scheduler.steps import EXACT, Learned, Steps
from sluice.spec import ModelSpec, Padding, Signature
from sluice.store import inspection, learned, manifest, python_policy
from sluice.store.axes import build_spec, signature_from_settings
from sluice.store.contents import Hashes, is_beside
from sluice.store.repository import VersionFiles
from sluice.store.settings import ModelSettings
from sluice.telemetry.record import Record, VersionRecord
from sluice.text import inputs as texts
from sluice.text.inputs import TextInput
from sluice.workers import devices, profiling, warming, wire
from sluice.workers.pool import Pool
from sluice.workers.probe import probe
from sluice.workers.worker import Resident, State, Worker

log = logging.getLogger("sluice.catalog")

_T = TypeVar("_T")

# Padded tokens in one batch when nobody says otherwise: what memory allows, since what pays is learned. A CPU worker
# that runs all kinds of shapes of up to 1024 tokens takes 250 MiB beside its models; a GPU needs far more to be busy.
DEFAULT_BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}
DEFAULT_BATCH_ROWS = {"cpu": 64, "cuda": 512}

# The target when nobody sets one: so many times what the longest request takes alone, and at least what a person
# notices.
TARGET_MULTIPLE = 10
LEAST_TARGET = 0.1

# A version is given up when workers died so often while nothing else was loaded.
_LOADED_ALONE = 3
_BACK_PATIENCE = 60.0

# Lengths that batches are padded to where each shape is costly to prepare.
COSTLY_SHAPES = 12


@dataclass(frozen=True, slots=True)
class Version:
    """A live version: everything a request meets after it was routed."""

    files: VersionFiles
    fingerprint: object  # changes when the files or settings do
    spec: ModelSpec
    rules: Rules
    lane: Lane
    record: VersionRecord
    circuit: Circuit
    workers: tuple[Worker, ...]
    cost: Cost
    memory: Path  # where the cost is kept
    circumstances: learned.Circumstances
    padding_reason: str
    trouble: str  # how it failed at warm-up; it is served all the same, since made-up input may be the reason
    seconds: float  # from load to warm
    scheduler: Scheduler
    identity: Identity  # in the keys of kept answers
    text: TextInput | None  # what it needs to take texts

    @property
    def number(self) -> str:
        return self.spec.version

    def absent(self) -> str:
        """Why none of its workers will hold it soon; empty while one may."""
        reasons = [worker.absent(self.lane.key) for worker in self.workers]
        return reasons[0] if all(reasons) else ""

    async def submit(self, work: Work) -> tuple[Tensor, ...]:
        self.circuit.check()
        if not self.lane.policy.workers and (reason := self.absent()):
            raise NotReady(f"'{self.spec.name}' version {self.number} is not at ready state: {reason}")
        return await self.scheduler.submit(self.lane, work)


class Loader:
    """Knows the pool and the scheduler, so that the catalog need not."""

    def __init__(
        self, models: config.Models, limits: config.Scheduler, pool: Pool, scheduler: Scheduler, record: Record
    ) -> None:
        self._settings = models
        self._limits = limits
        self._pool = pool
        self._scheduler = scheduler
        self._record = record
        self._generations = itertools.count(1)
        self._alone = asyncio.Lock()
        self._remembered: dict[str, int] = {}  # version of each lane's cost that was written
        self._hashes = Hashes()
        self._draining: dict[str, Version] = {}  # by their lanes' keys
        self.notify: Callable[[], None] = lambda: None  # called whenever a circuit opens or closes

    async def load(self, files: VersionFiles, fingerprint: object, old: Version | None) -> Version:
        """A worker that died while several versions were loading does not tell which of them it died of, or whether of
        any: each is tried again, alone."""
        try:
            return await self._load_once(files, fingerprint, old)
        except WorkerLost as error:
            lost = error
        async with self._alone:
            for _ in range(_LOADED_ALONE):
                log.warning("model '%s' version %s: %s; loading it again", files.model, files.version, lost.message)
                with contextlib.suppress(TimeoutError):  # a worker in a crash loop may never be
                    async with asyncio.timeout(_BACK_PATIENCE):
                        await asyncio.gather(*(worker.back() for worker in self._pool.workers))
                try:
                    return await self._load_once(files, fingerprint, old)
                except WorkerLost as error:
                    lost = error
        raise lost

    async def _load_once(self, files: VersionFiles, fingerprint: object, old: Version | None) -> Version:
        began = time.monotonic()
        settings = files.settings
        verify = partial(_verify, files, self._hashes, self._settings.pickle_directories)
        await asyncio.to_thread(verify)
        key = f"{files.model}/{files.version}#{next(self._generations)}"
        workers = self._pool.choose(settings.instances, settings.gpus)
        running = [worker for worker in workers if worker.state is State.RUNNING]
        if not running:
            raise ModelError("no worker is running on the devices this model asks for")
        load = self._load_message(key, files)
        try:
            # One worker goes ahead: what kills it, or never ends, costs the others nothing.
            signature = await running[0].load(load)
            most_rows = self._limits.max_batch_rows or DEFAULT_BATCH_ROWS[self._pool.kind]
            spec = build_spec(files, signature, most_rows)
            finding = await probe(running[0], key, spec, settings.tolerance, _asked(settings))
            spec = finding.spec
            text = await asyncio.to_thread(texts.load, files.directory, spec, settings)
            bounds = self._bounds(spec, settings)
            warm_up = warming.works(spec, settings, bounds, files.directory.parent)
            await _all(worker.load(load) for worker in running[1:])
            warmed = await _all(_warm(worker, key, spec, warm_up) for worker in running)
            circumstances = _circumstances(files, running[0])
            memory = learned.path_of(files.directory, running[0].device.kind)
            longest = settings.max_length or profiling.USUAL_LONGEST
            cost = await self._cost(running[0], key, spec, bounds, longest, memory, circumstances)
        except BaseException:
            for worker in running:
                worker.unload(key)
            raise
        taken_over = old is not None and not old.record.closed
        record = old.record if taken_over and old else self._record.version(files.model, files.version)
        target = settings.target_latency or self._limits.target_latency or _default_target(cost, spec, longest)
        policy: Policy[Entry] = Policy(cost, target, bounds, self._steps(spec, longest))
        policy.shares = self._limits.shares
        lane = Lane(key, spec, self._queue_limits(settings), record, policy)
        record.watch(lambda: self._scheduler.waiting(lane), lambda: policy.utilisation(time.monotonic()), target)
        record.set_padding(spec.padding)
        self._scheduler.add_lane(lane)
        for worker in workers:
            worker.adopt(Resident(load, spec, warm_up, verify))
        seconds = time.monotonic() - began
        trouble = next((one.trouble for one in warmed if one.trouble), "")
        circuit = Circuit(
            lane, workers, warmed[0].passed, partial(self._scheduler.refuse_all, lane), lambda: self.notify()
        )
        self._report(spec, finding.reason, trouble, target, seconds)
        rules = Rules(settings.priority_levels, settings.default_priority, settings.max_length)
        return Version(
            files=files,
            fingerprint=fingerprint,
            spec=spec,
            rules=rules,
            lane=lane,
            record=record,
            circuit=circuit,
            workers=tuple(workers),
            cost=cost,
            memory=memory,
            circumstances=circumstances,
            padding_reason=finding.reason,
            trouble=trouble,
            seconds=seconds,
            scheduler=self._scheduler,
            identity=await asyncio.to_thread(_identity, files, key),
            text=text,
        )

    async def _cost(
        self,
        worker: Worker,
        key: str,
        spec: ModelSpec,
        bounds: Bounds,
        longest: int,
        memory: Path,
        circumstances: learned.Circumstances,
    ) -> Cost:
        """What was learned in an earlier life, if it is still true; else what a profile says."""
        state = await asyncio.to_thread(learned.read, memory, circumstances)
        if state is not None:
            try:
                cost = Cost.restore(state)
            except ValueError as error:
                log.warning("%s cannot be used (%s); learning anew", memory, error)
            else:
                if await profiling.credible(cost, worker, key, spec, longest):
                    log.info("what batches of '%s' version %s cost is known from before", spec.name, spec.version)
                    return cost
                log.info("%s no longer tells the truth; learning anew", memory)
        return await profiling.profile(worker, key, spec, bounds, longest)

    def _steps(self, spec: ModelSpec, longest: int) -> Steps:
        """What batches are padded to: on a CPU exact lengths cost nothing, elsewhere each new shape does."""
        costly = self._pool.kind != "cpu" and spec.has_sequence and spec.padding is Padding.ANY
        return Learned(COSTLY_SHAPES, longest) if costly else EXACT

    def _load_message(self, key: str, files: VersionFiles) -> wire.Load:
        signature: Signature | None = None
        if files.backend == "python":
            python_policy.check_allowed(files.path, self._settings.python_directories)
            signature = signature_from_settings(files.settings)
        device = self._pool.workers[0].device
        return wire.Load(
            key=key,
            backend=files.backend,
            path=str(files.path.absolute()),
            directory=str(files.directory.absolute()),
            parameters=dict(files.settings.parameters),
            device=device.kind,
            threads=device.threads,
            platform=signature.platform if signature else None,
            inputs=wire.from_ports(signature.inputs) if signature else (),
            outputs=wire.from_ports(signature.outputs) if signature else (),
        )

    def _bounds(self, spec: ModelSpec, settings: ModelSettings) -> Bounds:
        tokens = settings.max_batch_tokens or self._limits.max_batch_tokens or DEFAULT_BATCH_TOKENS[self._pool.kind]
        rows = 1 if spec.padding is Padding.NEVER else max(1, spec.max_batch_rows)
        return Bounds(rows, tokens if spec.has_sequence else rows, self._limits.max_batch_bytes)

    def _queue_limits(self, settings: ModelSettings) -> Limits:
        return Limits(
            queue=settings.max_queue or self._limits.max_queue,
            queue_timeout=settings.queue_timeout or self._limits.queue_timeout or None,
        )

    def _report(self, spec: ModelSpec, reason: str, trouble: str, target: float, seconds: float) -> None:
        if reason:
            log.warning("model '%s' version %s: padding is '%s': %s", spec.name, spec.version, spec.padding, reason)
        if trouble:
            log.warning("model '%s' version %s: %s", spec.name, spec.version, trouble)
        log.info(
            "model '%s' version %s is ready after %.1f s; it answers within %g s",
            spec.name,
            spec.version,
            seconds,
            target,
        )

    async def remember(self, version: Version) -> None:
        """Keep what was learned since the last time, for the next start."""
        cost, key = version.cost, version.lane.key
        if self._remembered.get(key) == cost.version:
            return
        self._remembered[key] = cost.version  # from now on, lest two write the same file
        try:
            kept = await asyncio.to_thread(learned.write, version.memory, version.circumstances, cost.state())
        except Exception:
            log.exception("what was learned of '%s' version %s cannot be kept", version.spec.name, version.number)
            kept = False
        if not kept:
            self._remembered.pop(key, None)

    async def drain(self, version: Version) -> None:
        """Let a version finish what it was given, then take it off its workers."""
        self._draining[version.lane.key] = version
        try:
            self.answer_for_the_absent()
            await version.lane.drained()
        finally:
            del self._draining[version.lane.key]
        version.circuit.stop()
        await self.remember(version)
        self._remembered.pop(version.lane.key, None)
        self._scheduler.remove_lane(version.lane)
        for worker in version.workers:
            worker.unload(version.lane.key)

    @property
    def draining(self) -> list[Version]:
        """Versions that finish what they were given."""
        return list(self._draining.values())

    def answer_for_the_absent(self) -> None:
        """What was given to a draining version that none of its workers will hold again would wait for ever."""
        for version in self.draining:
            if reason := version.absent():
                self.refuse_waiting(version, reason)

    def refuse_waiting(self, version: Version, reason: str) -> None:
        """Answer everything that waits for it."""
        text = f"'{version.spec.name}' version {version.number} is not at ready state: {reason}"
        self._scheduler.refuse_all(version.lane, NotReady(text))

    def abandon(self, version: Version, reason: str) -> None:
        """Take a version off its workers at once; what waits for it is answered."""
        version.circuit.stop()
        self.refuse_waiting(version, reason)
        self._scheduler.remove_lane(version.lane)
        for worker in version.workers:
            worker.unload(version.lane.key)
        version.record.close()


def _circumstances(files: VersionFiles, worker: Worker) -> learned.Circumstances:
    """What a learned cost depends on beside the traffic."""
    device = worker.device
    try:
        size = files.path.stat().st_size
    except OSError:
        size = 0
    return {
        "device": device.model,
        "threads": device.threads,
        "runtime": devices.runtime(files.backend, device.kind),
        "file": files.path.name,
        "size": size,
    }


def _default_target(cost: Cost, spec: ModelSpec, longest: int) -> float:
    """Two digits, so that it is the same at most starts and easy to say."""
    alone = cost.seconds(1, longest if spec.has_sequence else 1)
    return max(LEAST_TARGET, float(f"{TARGET_MULTIPLE * alone:.2g}"))


@dataclass(slots=True)
class _Warmed:
    """How a version's warm-up went on one worker."""

    trouble: str = ""  # the first failure that is the model's own, not that of input made up here
    passed: Work | None = None  # the first that was computed well, which is the smallest


async def _warm(worker: Worker, key: str, spec: ModelSpec, works: list[Work]) -> _Warmed:
    """Run them all."""
    warmed = _Warmed()
    for work in works:
        try:
            await worker.trial(key, spec, [work])
        except InvalidRequest as error:
            log.info("model '%s' version %s refuses made-up input: %s", spec.name, spec.version, error.message)
        except ModelFailed as error:
            warmed.trouble = warmed.trouble or f"a warm-up run failed: {error.message}"
        else:
            warmed.passed = warmed.passed or work
    return warmed


async def _all(awaitables: Iterable[Awaitable[_T]]) -> list[_T]:
    """Every result, or the first error once all have ended, so that nothing goes on behind a failed load."""
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def _asked(settings: ModelSettings) -> Padding | None:
    return Padding(settings.padding) if settings.padding else None


def _verify(files: VersionFiles, hashes: Hashes, pickle_directories: list[Path]) -> None:
    """ModelError if the version is not what its manifest says, or has in it what nobody should load."""
    _compare(files, hashes)
    inspection.inspect(files, pickle_directories)


def _compare(files: VersionFiles, hashes: Hashes) -> None:
    said = manifest.read(files.directory)
    if said is None:
        return
    manifest.verify(files.directory, said, hashes)
    name = files.path.relative_to(files.directory).as_posix()
    if said.file(name) is None:
        raise ModelError(f"{files.model}/{files.version}/{name}: a model's file must be one that its manifest names")


def _identity(files: VersionFiles, key: str) -> Identity:
    """Sealed files are the same wherever they lie; others are known to this server only, as long as they are loaded."""
    said = manifest.read(files.directory)
    return Identity(said.digest(), True) if said is not None else Identity(key, False)


def fingerprint_of(files: VersionFiles) -> object:
    """Equal for a version whose files and settings did not change; what its manifest or card adds changes nothing."""
    try:
        paths = [path for path in files.directory.rglob("*") if not is_beside(path.relative_to(files.directory))]
        seen = sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    except OSError:
        seen = []
    return files.settings, files.directory, seen
