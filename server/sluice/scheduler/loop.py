"""Where queues, workers and the clock meet: entries come in, batches go to idle workers, answers go out.

The law of this file: it is the only place of the package with a clock and an `await`, and the only owner of entries.
It runs on one event loop and is never entered from a thread. What wakes it: a submitted entry, a worker that became
idle, an entry's timer. Each entry gets exactly one answer, because `_answer` and `_fail` are the only ends and both
check that the reply is still open.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from sluice.errors import DeadlineExceeded, InternalError, QueueFull, QueueTimeout, SluiceError, WorkerLost
from sluice.request import Tensor
from sluice.scheduler import policy
from sluice.scheduler.entry import Batch, Entry, Limits, Work
from sluice.scheduler.queue import Queue
from sluice.spec import ModelSpec, Padding
from sluice.telemetry.record import BatchFigures, VersionRecord

log = logging.getLogger("sluice.scheduler")

# One request may cost at most this many workers their life; after the first it computes alone, so no other suffers.
MAX_LOSSES = 3


class Executor(Protocol):
    """A worker as the scheduler sees it."""

    @property
    def idle(self) -> bool: ...

    def holds(self, key: str) -> bool: ...

    def run(self, batch: Batch) -> None:
        """Start computing; `Scheduler.finished` or `.failed` is called later, exactly once."""


class Lane:
    """One live version's queue, with what is needed to batch it."""

    def __init__(self, key: str, spec: ModelSpec, limits: Limits, record: VersionRecord) -> None:
        self.key = key
        self.spec = spec
        self.limits = limits
        self.record = record
        self.queue = Queue()
        self.running = 0  # entries handed to workers
        self._empty: asyncio.Event | None = None

    def settle(self) -> None:
        """Tell `drained` that something left."""
        if self._empty is not None and not self.queue and not self.running:
            self._empty.set()

    async def drained(self) -> None:
        """Until nothing waits and nothing runs."""
        if self.queue or self.running:
            self._empty = asyncio.Event()
            await self._empty.wait()


class Scheduler:
    """Pairs idle workers with waiting entries."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._workers: list[Executor] = []
        self._turns: dict[Executor, deque[asyncio.Future[None]]] = {}
        self._in_turn: set[Executor] = set()
        self._had_turn: set[Executor] = set()
        self._arrivals = itertools.count()
        self._batches = itertools.count(1)
        self._woken = False

    def add_lane(self, lane: Lane) -> None:
        self._lanes[lane.key] = lane

    def remove_lane(self, lane: Lane) -> None:
        self._lanes.pop(lane.key, None)

    def add_worker(self, worker: Executor) -> None:
        self._workers.append(worker)
        self.wake()

    def remove_worker(self, worker: Executor) -> None:
        self._workers.remove(worker)
        for turn in self._turns.pop(worker, ()):
            turn.cancel()

    async def submit(self, lane: Lane, work: Work) -> tuple[Tensor, ...]:
        """Queue the work and wait for its outputs; cancelling the caller removes it."""
        if len(lane.queue) >= lane.limits.queue:
            raise QueueFull(f"Exceeds maximum queue size: {lane.limits.queue} requests wait for '{lane.spec.name}'")
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        number = next(self._arrivals)
        group = ("alone", number) if lane.spec.padding is Padding.NEVER else work.group
        entry = Entry(work, loop.create_future(), now + work.priority_shift, number, group)
        work.request.timeline.queued = now
        self._set_timers(loop, lane, entry)
        lane.queue.add(entry)
        self.wake()
        try:
            return await entry.reply
        finally:
            for timer in entry.timers:
                timer.cancel()
            if entry.waiting:
                lane.queue.remove(entry)
            lane.settle()

    def _set_timers(self, loop: asyncio.AbstractEventLoop, lane: Lane, entry: Entry) -> None:
        """Deadlines fire on time whatever the device is doing: each has a timer of its own."""
        deadline = entry.work.request.deadline
        if deadline is not None:
            entry.timers.append(loop.call_at(deadline, self._fail, entry, _deadline_exceeded()))
        patience = entry.work.queue_timeout or lane.limits.queue_timeout
        if patience:
            entry.timers.append(loop.call_later(patience, self._lose_patience, entry))

    def _lose_patience(self, entry: Entry) -> None:
        if entry.waiting:
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
        """Give every idle worker something to do."""
        self._woken = False
        idle = [worker for worker in self._workers if worker.idle and worker not in self._in_turn]
        for position, worker in enumerate(idle):
            if worker in self._had_turn:
                self._had_turn.discard(worker)
                if not self._run_batch(worker, len(idle) - position):
                    self._give_turn(worker)
            elif not self._give_turn(worker):
                self._run_batch(worker, len(idle) - position)

    def _give_turn(self, worker: Executor) -> bool:
        turns = self._turns.get(worker)
        while turns:
            turn = turns.popleft()
            if not turn.done():
                self._in_turn.add(worker)
                turn.set_result(None)
                return True
        return False

    def _run_batch(self, worker: Executor, idle_workers: int) -> bool:
        """Give the worker the next batch of its most urgent lane, if any lane has one."""
        while (lane := self._most_urgent_lane(worker)) is not None:
            try:
                entries = _alive(lane, idle_workers)
            except Exception:
                # A bug in the policy must be loud and answered, never a queue that nobody looks at again.
                log.exception("the policy failed for '%s'; answering everything that waits", lane.key)
                self.refuse_all(lane, InternalError("internal error in the scheduler"))
                continue
            if not entries:
                continue
            now = time.monotonic()
            for entry in entries:
                lane.queue.remove(entry)
                entry.work.request.timeline.assembled = now
            lane.running += len(entries)
            worker.run(Batch(next(self._batches), lane.key, lane.spec, tuple(entries)))
            return True
        return False

    def _most_urgent_lane(self, worker: Executor) -> Lane | None:
        best: Lane | None = None
        best_urgency = float("inf")
        for lane in self._lanes.values():
            anchor = lane.queue.most_urgent()
            if anchor is not None and anchor.urgency < best_urgency and worker.holds(lane.key):
                best, best_urgency = lane, anchor.urgency
        return best

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
                lane.queue.add(entry)
            else:
                self._fail(entry, error)
        self._ran(batch)
        self.wake()

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
        for entry in list(lane.queue):
            lane.queue.remove(entry)
            self._fail(entry, error)

    def close(self) -> None:
        """Answer whatever still waits; nothing does after a proper drain."""
        for lane in self._lanes.values():
            self.refuse_all(lane, WorkerLost("the server stopped before this request could be computed"))


def _alive(lane: Lane, idle_workers: int) -> list[Entry]:
    """The policy's choice among entries somebody still waits for: one that was cancelled or expired in this very turn
    of the event loop still stands in the queue, but must not reach a worker."""
    while True:
        entries = policy.choose(lane.queue, lane.limits, idle_workers)
        dead = [entry for entry in entries if entry.reply.done()]
        if not dead:
            return entries
        for entry in dead:
            lane.queue.remove(entry)


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("Deadline Exceeded")
