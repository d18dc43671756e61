"""Where queues, workers and the clock meet: entries come in, batches go to workers, answers go out.

The law of this file: it is the only place of the package with a clock and an `await`, and the only owner of entries.
It runs on one event loop and is never entered from a thread. What wakes it: a submitted entry, a worker that can take
a batch, the time at which the policy wants to be asked again, an entry's timer. Each entry gets exactly one answer,
because `finished` and `_fail` are the only ends and both check that the reply is still open.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Container, Hashable, Sequence
from typing import Protocol

from sluice.errors import (
    DeadlineExceeded,
    InternalError,
    Overloaded,
    QueueFull,
    QueueTimeout,
    SluiceError,
    WorkerLost,
)
from sluice.request import Tensor
from sluice.scheduler.entry import Batch, Entry, Limits, Work
from sluice.scheduler.policy import Policy
from sluice.scheduler.roster import Roster
from sluice.spec import ModelSpec, Padding
from sluice.telemetry.record import BatchFigures, VersionRecord

log = logging.getLogger("sluice.scheduler")

# One request may cost at most this many workers their life; after the first it computes alone, so no other suffers.
MAX_LOSSES = 3

# The event loop counts in milliseconds: a shorter wait would turn without pause.
_SHORTEST_WAIT = 0.001


class Executor(Hashable, Protocol):
    """A worker as the scheduler sees it."""

    @property
    def idle(self) -> bool:
        """Nothing runs on it and nothing is staged."""

    @property
    def open(self) -> bool:
        """May be given a batch: it is idle, or what it runs is about to end."""

    @property
    def serving(self) -> Container[str]:
        """The versions it holds."""

    def free_at(self, now: float) -> float:
        """When a batch given now is predicted to begin."""

    def run(self, batch: Batch) -> None:
        """Start computing, or stage it behind what runs: then `Scheduler.began` is called when its turn comes. When it
        ended, `freed` is called, then, exactly once, `finished`, `failed` or `returned`."""


class Lane:
    """One live version's queue, with what is needed to batch it."""

    def __init__(self, key: str, spec: ModelSpec, limits: Limits, record: VersionRecord, policy: Policy[Entry]) -> None:
        self.key = key
        self.spec = spec
        self.limits = limits
        self.record = record
        self.policy = policy
        self.running = 0  # entries handed to workers
        self._empty: asyncio.Event | None = None

    def settle(self) -> None:
        """Tell `drained` that something left."""
        if self._empty is not None and not len(self.policy) and not self.running:
            self._empty.set()

    async def drained(self) -> None:
        """Until nothing waits and nothing runs."""
        if len(self.policy) or self.running:
            self._empty = asyncio.Event()
            await self._empty.wait()


class Scheduler:
    """Pairs workers with waiting entries."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._roster: Roster[Entry] = Roster()
        self._workers: list[Executor] = []
        self._turns: dict[Executor, deque[asyncio.Future[None]]] = {}
        self._in_turn: set[Executor] = set()
        self._had_turn: set[Executor] = set()
        self._arrivals = itertools.count()
        self._batches = itertools.count(1)
        self._woken = False
        self._alarm: asyncio.TimerHandle | None = None
        self._staged: dict[Executor, Batch] = {}

    def add_lane(self, lane: Lane) -> None:
        self._lanes[lane.key] = lane
        self._roster.add(lane.key, lane.policy)

    def remove_lane(self, lane: Lane) -> None:
        if self._lanes.pop(lane.key, None) is not None:
            self._roster.drop(lane.key)

    def add_worker(self, worker: Executor) -> None:
        self._workers.append(worker)
        self.recount()

    def recount(self) -> None:
        """Which worker holds what has changed: forecasts follow."""
        for lane in self._lanes.values():
            workers = sum(lane.key in worker.serving for worker in self._workers)
            if workers != lane.policy.workers:
                lane.policy.workers = workers
                lane.policy.renew()
        self.wake()

    async def submit(self, lane: Lane, work: Work) -> tuple[Tensor, ...]:
        """Queue the work and wait for its outputs; cancelling the caller removes it."""
        policy = lane.policy
        if len(policy) >= lane.limits.queue:
            raise QueueFull(f"Exceeds maximum queue size: {lane.limits.queue} requests wait for '{lane.spec.name}'")
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        entry = self._entry(lane, work, loop.create_future(), now)
        refusal = policy.submit(entry, now)
        if refusal is not None:
            raise Overloaded(f"'{lane.spec.name}' is overloaded: {refusal.reason}", retry_after=refusal.retry_after)
        work.request.timeline.queued = now
        self._set_timers(loop, lane, entry)
        self.wake()
        try:
            return await entry.reply
        finally:
            for timer in entry.timers:
                timer.cancel()
            if entry.waiting:
                policy.remove(entry)
            lane.settle()

    def _entry(self, lane: Lane, work: Work, reply: asyncio.Future[tuple[Tensor, ...]], now: float) -> Entry:
        number = next(self._arrivals)
        due = now + lane.policy.patience(work.rows, work.length)
        if work.request.deadline is not None:
            due = min(due, work.request.deadline)
        return Entry(
            rows=work.rows,
            length=work.length,
            size=work.size,
            group=("alone", number) if lane.spec.padding is Padding.NEVER else work.group,
            arrival=now,
            due=due,
            shift=work.priority * lane.policy.target / 2,
            tenant=work.request.tenant or None,
            sequence=number,
            work=work,
            reply=reply,
        )

    def _set_timers(self, loop: asyncio.AbstractEventLoop, lane: Lane, entry: Entry) -> None:
        """Deadlines fire on time whatever the device is doing: each has a timer of its own."""
        deadline = entry.work.request.deadline
        if deadline is not None:
            entry.timers.append(loop.call_at(deadline, self._fail, entry, _deadline_exceeded()))
        patience = entry.work.queue_timeout or lane.limits.queue_timeout
        if patience:
            entry.timers.append(loop.call_later(patience, self._lose_patience, entry))

    def waiting(self, lane: Lane) -> int:
        """Requests that nobody computes yet, be they queued or staged."""
        staged = (entry for batch in self._staged.values() if batch.key == lane.key for entry in batch.entries)
        return len(lane.policy) + sum(not entry.reply.done() for entry in staged)

    def _lose_patience(self, entry: Entry) -> None:
        if entry.waiting or any(entry in batch.entries for batch in self._staged.values()):
            self._fail(entry, QueueTimeout("Request timeout expired"))

    def wake(self) -> None:
        """Look for work at the end of this turn of the event loop, when everything that arrived in it is queued."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self.dispatch)

    @contextlib.asynccontextmanager
    async def turn(self, worker: Executor) -> AsyncIterator[None]:
        """Have this worker to oneself, outside of any queue (warm-up); turns alternate with live batches."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.setdefault(worker, deque()).append(turn)
        self.wake()
        try:
            await turn
            yield
        finally:
            self._in_turn.discard(worker)
            self._had_turn.add(worker)
            self.wake()

    def dispatch(self) -> None:
        """Give every worker that can take one a batch, the idle ones first."""
        self._woken = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now = time.monotonic()
        able = [worker for worker in self._workers if worker.open and worker not in self._in_turn]
        able.sort(key=lambda worker: (not worker.idle, worker.free_at(now)))
        asked_again: list[float] = []
        for position, worker in enumerate(able):
            if not self._turns.get(worker):
                self._run_batch(worker, len(able) - position, asked_again)
            elif not worker.idle:
                continue  # a turn is to have the worker to itself: nothing is staged before it
            elif worker in self._had_turn:
                self._had_turn.discard(worker)
                if not self._run_batch(worker, len(able) - position, asked_again):
                    self._give_turn(worker)
            elif not self._give_turn(worker):
                self._run_batch(worker, len(able) - position, asked_again)
        if asked_again:
            delay = max(_SHORTEST_WAIT, min(asked_again) - time.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(delay, self.dispatch)

    def _give_turn(self, worker: Executor) -> bool:
        turns = self._turns.get(worker)
        while turns:
            turn = turns.popleft()
            if not turn.done():
                self._in_turn.add(worker)
                turn.set_result(None)
                return True
        return False

    def _run_batch(self, worker: Executor, able: int, asked_again: list[float]) -> bool:
        """Give the worker the next batch of its most urgent lane, if any lane has one."""
        while True:
            now = time.monotonic()
            try:
                choice = self._roster.choose(worker, worker.free_at(now), worker.serving, able)
            except Exception:
                # A bug in the policy must be loud and answered, never a queue that nobody looks at again.
                log.exception("the policy failed; answering everything that waits")
                for lane in list(self._lanes.values()):
                    self.refuse_all(lane, InternalError("internal error in the scheduler"))
                return False
            if choice is None:
                return False
            lane, decision = self._lanes[choice.key], choice.decision
            for entry in decision.given_up:
                self._give_up(lane, entry)
            if decision.entries:
                # One that was cancelled or expired in this very turn of the event loop must not reach a worker.
                entries = tuple(entry for entry in decision.entries if not entry.reply.done())
                if not entries:
                    self._roster.failed(choice.key, worker, now)
                    continue
                for entry in decision.entries:
                    entry.waiting = False
                    entry.work.request.timeline.assembled = now
                lane.running += len(entries)
                number = next(self._batches)
                batch = Batch(number, lane.key, lane.spec, entries, decision.length, decision.seconds)
                if not worker.idle:
                    self._staged[worker] = batch
                worker.run(batch)
                return True
            if decision.until is not None:
                asked_again.append(decision.until)
            if not decision.given_up:
                return False

    def _give_up(self, lane: Lane, entry: Entry) -> None:
        entry.waiting = False
        text = f"'{lane.spec.name}' is overloaded: this request could no longer be answered in time"
        self._fail(entry, Overloaded(text, retry_after=lane.policy.target))

    def began(self, batch: Batch, worker: Executor) -> None:
        """A batch that was staged computes from now on."""
        self._staged.pop(worker, None)
        self._roster.started(batch.key, worker, time.monotonic() + batch.seconds)

    def freed(self, batch: Batch, worker: Executor, seconds: float | None) -> None:
        """A batch ended on the worker, after so many seconds if it was computed."""
        now = time.monotonic()
        if self._staged.get(worker) is batch:
            del self._staged[worker]
        if seconds is None:
            self._roster.failed(batch.key, worker, now)
        else:
            self._roster.finished(batch.key, worker, batch.rows, batch.length, seconds, now)

    def finished(self, batch: Batch, outputs: Sequence[tuple[Tensor, ...]], figures: BatchFigures) -> None:
        """A worker computed the batch; one tuple of outputs for each entry."""
        for entry, tensors in zip(batch.entries, outputs, strict=True):
            if not entry.reply.done():
                entry.reply.set_result(tensors)
        lane = self._lanes.get(batch.key)
        if lane is not None:
            lane.record.batch(figures)
        self._ran(batch)

    def failed(self, batch: Batch, error: SluiceError) -> None:
        """A worker could not compute the batch. Of several entries each is tried again alone, so that only a guilty
        one fails; a worker's death costs each of them one of its few losses."""
        lost = isinstance(error, WorkerLost)
        alone = len(batch.entries) == 1
        lane = self._lanes.get(batch.key)
        for entry in batch.entries:
            entry.losses += lost
            retry = entry.losses < MAX_LOSSES if lost else not alone
            if entry.reply.done():
                continue
            if retry and lane is not None:
                entry.group = ("alone", entry.sequence)
                self._put_back(lane, entry)
            else:
                self._fail(entry, error)
        self._ran(batch)
        self.wake()

    def returned(self, batch: Batch) -> None:
        """The worker died before it began the batch: it goes back as it was."""
        lane = self._lanes.get(batch.key)
        for entry in batch.entries:
            if entry.reply.done():
                continue
            if lane is not None:
                self._put_back(lane, entry)
            else:
                self._fail(entry, WorkerLost("the worker died and its version is gone"))
        self._ran(batch)
        self.wake()

    def _put_back(self, lane: Lane, entry: Entry) -> None:
        entry.waiting = True
        lane.policy.restore(entry, time.monotonic())

    def _ran(self, batch: Batch) -> None:
        lane = self._lanes.get(batch.key)
        if lane is not None:
            lane.running -= len(batch.entries)
            lane.settle()

    def _fail(self, entry: Entry, error: SluiceError) -> None:
        if not entry.reply.done():
            entry.reply.set_exception(error)

    def refuse_all(self, lane: Lane, error: SluiceError) -> None:
        """Answer everything that waits in a lane."""
        for entry in list(lane.policy):
            lane.policy.remove(entry)
            entry.waiting = False
            self._fail(entry, error)

    def close(self) -> None:
        """Answer whatever still waits; nothing does after a proper drain."""
        if self._alarm is not None:
            self._alarm.cancel()
        for lane in self._lanes.values():
            self.refuse_all(lane, WorkerLost("the server stopped before this request could be computed"))


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("Deadline Exceeded")
