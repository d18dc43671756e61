"""Brings one version up: loads it on its workers, learns its spec, warms it, opens its lane; and takes it down again.

Whatever fails on the way, the workers are left without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from sluice.admission.circuit import Circuit
from sluice.admission.gate import Gate
from sluice.admission.validation import Rules
from sluice.config import settings as config
from sluice.encryption.keys import Keys
from sluice.errors import ModelError, NotReady, WorkerLost
from sluice.request import Tensor
from sluice.reuse.answers import Identity
from sluice.reuse.identity import identity_of
from sluice.scheduler.cost import Cost
from sluice.scheduler.entry import Entry, Work
from sluice.scheduler.loop import Lane, Scheduler
from sluice.scheduler.policy import Policy
from sluice.spec import ModelSpec, Padding, Signature
from sluice.store import inspection, learned, manifest, python_policy
from sluice.store.approval import Approval
from sluice.store.axes import build_spec, signature_from_settings
from sluice.store.contents import Hashes
from sluice.store.graph_inspection import Inspected
from sluice.store.repository import VersionFiles
from sluice.store.settings import ModelSettings
from sluice.store.trust import Trust
from sluice.telemetry.record import Record, VersionRecord
from sluice.text import inputs as texts
from sluice.text.inputs import TextInput
from sluice.text.tokenizing import Unreadable
from sluice.workers import bounding, costing, profiling, warming, wire
from sluice.workers.pool import Pool
from sluice.workers.probe import probe
from sluice.workers.worker import Resident, State, Worker

log = logging.getLogger("sluice.catalog")

_T = TypeVar("_T")

# A version is given up when workers died so often while nothing else was loaded.
_LOADED_ALONE = 3
_BACK_PATIENCE = 60.0


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
    resident: Resident  # how a worker comes to hold it
    identity: Identity  # in the keys of kept answers
    text: TextInput | None  # what it needs to take texts
    size: int = 0  # bytes of its files
    digest: str = ""  # of its files as they were verified when it was loaded; "" = it is not sealed
    held: int = 0  # bytes by which the first worker grew that loaded it; 0 = others loaded meanwhile, nobody knows
    gate: Gate = field(default_factory=lambda: Gate(0))

    @property
    def number(self) -> str:
        return self.spec.version

    def absent(self) -> str:
        """Why none of its workers will hold it soon; empty while one may."""
        reasons = [worker.absent(self.lane.key) for worker in self.workers]
        return reasons[0] if all(reasons) else ""

    async def submit(self, work: Work) -> tuple[Tensor, ...]:
        if self.gate.shut:
            await self.gate.wait(
                self.spec.name, work.request.deadline, work.queue_timeout or self.lane.limits.queue_timeout
            )
        self.circuit.check()
        if not self.lane.policy.workers and (reason := self.absent()):
            raise NotReady(f"'{self.spec.name}' version {self.number} is not at ready state: {reason}")
        return await self.scheduler.submit(self.lane, work)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version is to live, if not wherever its settings say, and beside whatever is there."""

    workers: Sequence[Worker]
    first: Worker  # the only one that it is loaded on now
    like: Cost  # of what it takes the place of


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
        self._begun = 0  # loads
        self._alone = asyncio.Lock()
        self._remembered: dict[str, int] = {}  # version of each lane's cost that was written
        self._hashes = Hashes()
        self._keys = Keys.given(os.environ, models.key_file)
        self.approval = Approval(models)  # of what shall be in production
        self._draining: dict[str, Version] = {}  # by their lanes' keys
        self._under_way: set[int] = set()  # loads
        self.known_costs: Counter[bool] = Counter()  # whether the cost of a version was known from before
        self.notify: Callable[[], None] = lambda: None  # called whenever a circuit opens or closes

    def cache_hits(self) -> dict[tuple[str, bool], int]:
        """How often each kind of thing was known from before when a version was loaded, and how often not."""
        looked_up = {"sha256": self._hashes.looked_up, "cost": self.known_costs}
        return {(name, hit): counted[hit] for name, counted in looked_up.items() for hit in (True, False)}

    async def verify(self, files: VersionFiles) -> None:
        """ModelError if the version may not be loaded as its files are."""
        await asyncio.to_thread(self._look_over, files)

    async def load(
        self, files: VersionFiles, fingerprint: object, old: Version | None, place: Place | None = None
    ) -> Version:
        """A worker that died while several versions were loading does not tell which of them it died of, or whether of
        any: each is tried again, alone."""
        try:
            return await self._load_once(files, fingerprint, old, place)
        except WorkerLost as error:
            lost = error
        async with self._alone:
            for _ in range(_LOADED_ALONE):
                log.warning("model '%s' version %s: %s; loading it again", files.model, files.version, lost.message)
                with contextlib.suppress(TimeoutError):  # a worker in a crash loop may never be
                    async with asyncio.timeout(_BACK_PATIENCE):
                        await asyncio.gather(*(worker.back() for worker in self._pool.workers))
                try:
                    return await self._load_once(files, fingerprint, old, place)
                except WorkerLost as error:
                    lost = error
        raise lost

    async def _load_once(
        self, files: VersionFiles, fingerprint: object, old: Version | None, place: Place | None
    ) -> Version:
        self._begun += 1
        number = self._begun
        self._under_way.add(number)
        try:
            return await self._bring_up(number, files, fingerprint, old, place)
        finally:
            self._under_way.discard(number)

    @property
    def kind(self) -> str:
        """What versions are computed on."""
        return self._pool.kind

    def choose(self, settings: ModelSettings) -> list[Worker]:
        """The workers that a version is to live on."""
        return self._pool.choose(settings.instances, settings.gpus)

    async def _bring_up(
        self, number: int, files: VersionFiles, fingerprint: object, old: Version | None, place: Place | None
    ) -> Version:
        began, alone = time.monotonic(), len(self._under_way) == 1
        settings = files.settings
        inspected, digest = await asyncio.to_thread(self._look_over, files)
        key = f"{files.model}/{files.version}#{number}"
        workers = place.workers if place is not None else self.choose(settings)
        wanted = [place.first] if place is not None else workers
        running = [worker for worker in wanted if worker.state is State.RUNNING]
        if not running:
            raise ModelError("no worker is running on the devices this model asks for")
        load = self._load_message(key, files, inspected)
        before = running[0].held()
        try:
            # One worker goes ahead: what kills it, or never ends, costs the others nothing.
            signature = await running[0].load(load)
            spec = build_spec(files, signature, bounding.most_rows(self._limits, self._pool.kind))
            padding = Padding(settings.padding) if settings.padding else None
            finding = await probe(running[0], key, spec, settings.tolerance, padding)
            spec = finding.spec
            text, unread = await _text(files, spec, settings)
            bounds = bounding.batch(self._limits, self._pool.kind, spec, settings)
            warm_up = await asyncio.to_thread(warming.works, spec, settings, bounds, files.directory.parent)
            await _all(worker.load(load) for worker in running[1:])
            warmed = await _all(costing.warm(worker, key, spec, warm_up) for worker in running)
            circumstances = costing.circumstances(files, running[0])
            memory = learned.path_of(files.directory, running[0].device.kind)
            longest = settings.max_length or profiling.USUAL_LONGEST
            asked = costing.Asked(running[0], key, spec, bounds, longest)
            known = await costing.known(asked, memory, circumstances)
            self.known_costs[known is not None] += 1
            if known is None and place is not None:  # requests may wait for this
                known = await costing.borrowed(asked, place.like)
            cost = known if known is not None else await costing.measured(asked)
            # Whoever loads something else meanwhile grows as well.
            alone = alone and self._begun == number
            held = max(0, running[0].held() - before) if alone else 0
            size = await asyncio.to_thread(files.size)
            identity = await asyncio.to_thread(identity_of, files, key)
        except BaseException:
            for worker in running:
                worker.unload(key)
            raise
        taken_over = old is not None and not old.record.closed
        record = old.record if taken_over and old else self._record.version(files.model, files.version)
        target = settings.target_latency or self._limits.target_latency or costing.usual_target(cost, spec, longest)
        policy: Policy[Entry] = Policy(cost, target, bounds, bounding.steps(self._pool.kind, spec, longest))
        policy.shares = self._limits.shares
        lane = Lane(key, spec, bounding.queue(self._limits, settings), record, policy)
        record.watch(lambda: self._scheduler.waiting(lane), lambda: policy.utilisation(time.monotonic()), target)
        record.set_padding(spec.padding)
        self._scheduler.add_lane(lane)
        resident = Resident(load, spec, warm_up, partial(self._look_again, files, digest))
        for worker in wanted:
            worker.adopt(resident)
        seconds = time.monotonic() - began
        record.loaded(seconds, size, held)
        trouble = next((one.trouble for one in warmed if one.trouble), "") or unread
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
            resident=resident,
            identity=identity,
            text=text,
            size=size,
            digest=digest,
            held=held,
            gate=Gate(lane.limits.queue),
        )

    def _look_over(self, files: VersionFiles) -> tuple[Inspected, str]:
        """ModelError if the version is not as it was sealed and signed, or has in it what nobody should load; its
        digest, "" if it is not sealed."""
        hashes = self._hashes.afresh() if self._settings.hashes_anew else self._hashes
        said = _compared(files, hashes)
        Trust(self._settings, hashes).check(files.directory, said)
        inspected = inspection.inspect(files, self._settings.pickle_directories, self._keys)
        return inspected, said.digest() if said is not None else ""

    def _look_again(self, files: VersionFiles, digest: str) -> None:
        """The same before a worker comes back with it. What was approved is replaced by nothing else then."""
        _, found = self._look_over(files)
        if self.approval.asked and digest and found != digest:
            raise ModelError(
                f"{files.model}/{files.version}: its files are not those that were loaded, whose digest is {digest}; "
                "put them back, or load the model anew"
            )

    def _load_message(self, key: str, files: VersionFiles, inspected: Inspected) -> wire.Load:
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
            secret=inspected.secret,
            externals=inspected.externals if inspected.secret else (),
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


async def _all(awaitables: Iterable[Awaitable[_T]]) -> list[_T]:
    """Every result, or the first error once all have ended, so that nothing goes on behind a failed load."""
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


async def _text(files: VersionFiles, spec: ModelSpec, settings: ModelSettings) -> tuple[TextInput | None, str]:
    """What it needs to take texts, or why it takes tokens only although it has a tokenizer."""
    try:
        return await asyncio.to_thread(texts.load, files.directory, spec, settings), ""
    except Unreadable as error:
        return None, f"takes no texts: {error.message}"


def _compared(files: VersionFiles, hashes: Hashes) -> manifest.Manifest | None:
    """Its manifest, which it is as."""
    said = manifest.read(files.directory)
    if said is None:
        return None
    manifest.verify(files.directory, said, hashes)
    name = files.path.relative_to(files.directory).as_posix()
    if said.file(name) is None:
        raise ModelError(f"{files.model}/{files.version}/{name}: a model's file must be one that its manifest names")
    return said
