"""Where queues, workers and the clock meet: entries come in, batches go to workers, answers go out.

The law of this file: it is the only place of the package with a clock and an `await`, and the only owner of entries.
It runs on one event loop and is never entered from a thread. What wakes it: a submitted entry, a worker that can take
a batch, the time at which the policy wants to be asked again, an entry's timer. Each entry gets exactly one answer,
because `_answer` and `_fail` are the only ends and both check that the reply is still open. Each batch ends exactly
once, in `_end`, after which each of its entries waits again or is answered, whatever goes wrong on the way. A bug in
what is called from here is loud: it is logged, `broken` says it, and whom it concerns is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from sluice.errors import (
    DeadlineExceeded,
    InternalError,
    NotReady,
    OutOfDeviceMemory,
    Overloaded,
    QueueFull,
    QueueTimeout,
    SluiceError,
    WorkerLost,
)
from sluice.request import Tensor
from sluice.scheduler import blame
from sluice.scheduler.decision import Decision
from sluice.scheduler.entry import Batch, Entry, Work
from sluice.scheduler.executor import Executor
from sluice.scheduler.lane import Lane
from sluice.scheduler.quarantine import Quarantine
from sluice.scheduler.roster import Roster
from sluice.scheduler.turns import Turns
from sluice.spec import Padding
from sluice.telemetry.record import BatchFigures

__all__ = ["Lane", "Scheduler"]

log = logging.getLogger("sluice.scheduler")

# The event loop counts in milliseconds: a shorter wait would turn without pause.
_SHORTEST_WAIT = 0.001

# Seconds after a bug in which health says so, and after which workers are looked at again.
_BROKEN_FOR = 10.0
_AFTER_A_BUG = 1.0
_BUG = "internal error in the scheduler"


class Scheduler:
    """Pairs workers with waiting entries."""

    def __init__(self, quarantine: Quarantine | None = None) -> None:
        self._quarantine = Quarantine() if quarantine is None else quarantine
        self._lanes: dict[str, Lane] = {}
        self._roster: Roster[Entry] = Roster()
        self._workers: list[Executor] = []
        self._turns = Turns()
        self._arrivals = itertools.count()
        self._batches = itertools.count(1)
        self._woken = False
        self._alarm: asyncio.TimerHandle | None = None
        self._staged: dict[Executor, Batch] = {}
        self._given: set[int] = set()  # batches that workers have
        self._squeezed = 1.0
        self._bug = ""
        self._bug_at = 0.0

    @property
    def broken(self) -> str:
        """The bug of ours that showed within the last seconds; empty when none did."""
        return self._bug if self._bug and time.monotonic() < self._bug_at + _BROKEN_FOR else ""

    def squeeze(self, share: float) -> None:
        """Memory is short: keep every version's batches to this share of their bounds; 1 = it is not any more."""
        self._squeezed = share
        for lane in self._lanes.values():
            lane.policy.squeeze(share)

    def add_lane(self, lane: Lane) -> None:
        self._quarantine.clear(lane.model)
        if self._squeezed < 1.0:
            lane.policy.squeeze(self._squeezed)
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
        if self._lanes.get(lane.key) is not lane:  # nobody would ever look at it
            raise NotReady(f"'{lane.spec.name}' version {lane.spec.version} is not at ready state: it was unloaded")
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        entry = self._entry(lane, work, loop.create_future(), now)
        self._check_quarantine(lane, entry, now)
        if len(lane.policy) >= lane.limits.queue:
            raise QueueFull(f"Exceeds maximum queue size: {lane.limits.queue} requests wait for '{lane.spec.name}'")
        self._admit(lane, entry, now)
        work.request.timeline.queued = now
        lane.entries[entry.sequence] = entry
        self._set_timers(loop, lane, entry)
        self.wake()
        try:
            outputs = await entry.reply
        except BaseException:
            self._note_losses(lane, entry)
            raise
        else:
            if entry.losses:
                self._quarantine.acquit(lane.model, work)
            return outputs
        finally:
            for timer in entry.timers:
                timer.cancel()
            del lane.entries[entry.sequence]
            if entry.waiting:
                self._withdraw(lane, entry)
            lane.settle()

    def _check_quarantine(self, lane: Lane, entry: Entry, now: float) -> None:
        """Refuse what was found guilty before; what is suspected takes up where it left, and computes alone."""
        mark = self._quarantine.find(lane.model, entry.work, now)
        if mark is None:
            return
        if mark.guilty:
            raise mark.refusal(now)
        entry.losses, entry.lone_losses = mark.losses, mark.lone_losses
        blame.isolate(entry)

    def _admit(self, lane: Lane, entry: Entry, now: float) -> None:
        try:
            refusal = lane.policy.submit(entry, now)
        except Exception as error:
            self._broke("a policy could not take a request")
            self._withdraw(lane, entry)
            raise InternalError(_BUG) from error
        if refusal is not None:
            raise Overloaded(f"'{lane.spec.name}' is overloaded: {refusal.reason}", retry_after=refusal.retry_after)

    def _withdraw(self, lane: Lane, entry: Entry) -> None:
        """Take it out of the queue."""
        entry.waiting = False
        try:
            lane.policy.remove(entry)
        except Exception:
            self._broke("a policy could not let go of a request", lane)

    def _note_losses(self, lane: Lane, entry: Entry) -> None:
        """Nobody waits for it any more: what it may have done is remembered, should it be sent again."""
        if entry.losses:
            self._quarantine.mark(lane.model, entry.work, entry.losses, entry.lone_losses, time.monotonic())

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
        turn = self._turns.ask(worker)
        self.wake()
        try:
            await turn
            yield
        finally:
            self._turns.end(worker, turn)
            self.wake()

    def dispatch(self) -> None:
        """Give every worker that can take one a batch, the idle ones first."""
        self._woken = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        asked_again: list[float] = []
        try:
            self._dispatch(asked_again)
        except Exception:
            # Loud and answered, never a queue that nobody looks at again.
            self._broke("workers could not be given batches", *self._lanes.values())
            asked_again.append(time.monotonic() + _AFTER_A_BUG)
        if asked_again:
            delay = max(_SHORTEST_WAIT, min(asked_again) - time.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(delay, self.dispatch)

    def _dispatch(self, asked_again: list[float]) -> None:
        now = time.monotonic()
        able = [worker for worker in self._workers if worker.open and not self._turns.lent(worker)]
        able.sort(key=lambda worker: (not worker.idle, worker.free_at(now)))
        for position, worker in enumerate(able):
            if not self._turns.wanted(worker):
                self._run_batch(worker, len(able) - position, asked_again)
            elif not worker.idle:
                continue  # a turn is to have the worker to itself: nothing is staged before it
            elif self._turns.batch_first(worker):
                if not self._run_batch(worker, len(able) - position, asked_again):
                    self._turns.give(worker)
            elif not self._turns.give(worker):
                self._run_batch(worker, len(able) - position, asked_again)

    def _run_batch(self, worker: Executor, able: int, asked_again: list[float]) -> bool:
        """Give the worker the next batch of its most urgent lane, if any lane has one."""
        while True:
            now = time.monotonic()
            choice = self._roster.choose(worker, worker.free_at(now), worker.serving, able)
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
                self._hand_over(lane, entries, decision, worker)
                return True
            if decision.until is not None:
                asked_again.append(decision.until)
            if not decision.given_up:
                return False

    def _hand_over(self, lane: Lane, entries: tuple[Entry, ...], decision: Decision[Entry], worker: Executor) -> None:
        batch = Batch(next(self._batches), lane.key, lane.spec, entries, decision.length, decision.seconds)
        lane.running += len(entries)
        self._given.add(batch.number)
        if not worker.idle:
            self._staged[worker] = batch
        try:
            worker.run(batch)
        except Exception:
            self._broke("a worker could not take a batch")
            self.freed(batch, worker, None)
            self._end(batch, lambda lane: None)

    def _give_up(self, lane: Lane, entry: Entry) -> None:
        entry.waiting = False
        text = f"'{lane.spec.name}' is overloaded: this request could no longer be answered in time"
        self._fail(entry, Overloaded(text, retry_after=lane.policy.target))

    def began(self, batch: Batch, worker: Executor) -> None:
        """A batch that was staged computes from now on."""
        self._staged.pop(worker, None)
        try:
            self._roster.started(batch.key, worker, time.monotonic() + batch.seconds)
        except Exception:
            self._broke("a policy could not note that a batch began")

    def freed(self, batch: Batch, worker: Executor, seconds: float | None) -> None:
        """A batch ended on the worker, after so many seconds if it was computed."""
        now = time.monotonic()
        if self._staged.get(worker) is batch:
            del self._staged[worker]
        try:
            if seconds is None:
                self._roster.failed(batch.key, worker, now)
            else:
                self._roster.finished(batch.key, worker, batch.rows, batch.length, seconds, now)
        except Exception:
            self._broke("a policy could not learn from a batch")

    def finished(self, batch: Batch, outputs: Sequence[tuple[Tensor, ...]], figures: BatchFigures) -> None:
        """A worker computed the batch; one tuple of outputs for each entry."""
        self._end(batch, lambda lane: self._answer(batch, outputs, figures, lane))

    def failed(self, batch: Batch, error: SluiceError) -> None:
        """A worker could not compute the batch, or died of it. Its entries are tried again in ever smaller company, so
        that only a guilty one fails."""
        self._end(batch, lambda lane: self._retry(batch, error, lane))
        self.wake()

    def returned(self, batch: Batch) -> None:
        """The worker died before it began the batch: it goes back as it was."""
        self._end(batch, lambda lane: self._put_back(batch.entries, lane))
        self.wake()

    def _end(self, batch: Batch, outcome: Callable[[Lane | None], None]) -> None:
        """What came of a batch. Each of its entries waits again after this, or is answered."""
        if batch.number not in self._given:
            log.error("batch %d of %s ended twice; only the first time counts", batch.number, batch.key)
            return
        self._given.discard(batch.number)
        lane = self._lanes.get(batch.key)
        try:
            outcome(lane)
        except Exception:
            self._broke("a batch could not be ended")
        for entry in batch.entries:
            if not entry.waiting and not entry.reply.done():
                self._fail(entry, InternalError(_BUG))
        if lane is not None:
            lane.running -= len(batch.entries)
            lane.settle()

    def _answer(
        self, batch: Batch, outputs: Sequence[tuple[Tensor, ...]], figures: BatchFigures, lane: Lane | None
    ) -> None:
        if len(outputs) != len(batch.entries):
            raise ValueError(f"{len(outputs)} answers to {len(batch.entries)} requests")
        for entry, tensors in zip(batch.entries, outputs, strict=True):
            if not entry.reply.done():
                entry.reply.set_result(tensors)
        if lane is not None:
            lane.record.batch(figures)

    def _retry(self, batch: Batch, error: SluiceError, lane: Lane | None) -> None:
        death = error if isinstance(error, WorkerLost) else None
        if death is not None:
            blame.died(batch.entries)
        if lane is not None and isinstance(error, OutOfDeviceMemory):
            alone, again = len(batch.entries) == 1, any(entry.overflowed for entry in batch.entries)
            lane.policy.overflowed(batch.padded_tokens, time.monotonic(), alone=alone, again=again)
            for entry in batch.entries:
                entry.overflowed = True
        suspects = [entry for entry in batch.entries if not entry.reply.done()]
        if lane is None:
            for entry in suspects:
                self._fail(entry, error)
        elif blame.guilty(batch.entries, death=death is not None):
            self._condemn(lane, batch.entries[0], error)
        else:
            blame.regroup(suspects, batch.number)
            self._put_back(suspects, lane)
        if death is not None and lane is not None:
            for entry in batch.entries:
                if entry.sequence not in lane.entries:  # its client went away while it computed
                    self._note_losses(lane, entry)

    def _condemn(self, lane: Lane, entry: Entry, error: SluiceError) -> None:
        """It fails; if workers died of it, so does what waits and is the very same."""
        if not isinstance(error, WorkerLost):
            self._fail(entry, error)
            return
        verdict = blame.verdict(entry, error)
        self._fail(entry, verdict)
        self._note_losses(lane, entry)
        log.error("'%s': %s", lane.spec.name, verdict.message)
        now = time.monotonic()
        for other in list(lane.entries.values()):
            if other.waiting:
                self._fail_if_quarantined(lane, other, now)

    def _fail_if_quarantined(self, lane: Lane, entry: Entry, now: float) -> bool:
        mark = self._quarantine.find(lane.model, entry.work, now)
        if mark is None or not mark.guilty:
            return False
        if entry.waiting:
            self._withdraw(lane, entry)
        self._fail(entry, mark.refusal(now))
        return True

    def _put_back(self, entries: Sequence[Entry], lane: Lane | None) -> None:
        now = time.monotonic()
        for entry in entries:
            if entry.reply.done():
                continue
            if lane is None:
                self._fail(entry, WorkerLost("the worker died and its version is gone"))
            elif not self._fail_if_quarantined(lane, entry, now):
                try:
                    lane.policy.restore(entry, now)
                except Exception:
                    self._broke("a policy could not take a request back", lane)
                else:
                    entry.waiting = True

    def _fail(self, entry: Entry, error: SluiceError) -> None:
        if not entry.reply.done():
            entry.reply.set_exception(error)

    def _broke(self, what: str, *lanes: Lane) -> None:
        """A bug of ours was caught: say so, and answer everything in queues that may not be in order any more."""
        log.exception("%s: %s", _BUG, what)
        self._bug, self._bug_at = f"{_BUG}: {what}", time.monotonic()
        for lane in lanes:
            self.refuse_all(lane, InternalError(_BUG))

    def refuse_all(self, lane: Lane, error: SluiceError) -> None:
        """Answer everything that waits in a lane."""
        lane.policy.clear()
        for entry in lane.entries.values():
            if entry.waiting:
                entry.waiting = False
                self._fail(entry, error)
        lane.settle()

    def close(self) -> None:
        """Answer whatever still waits; nothing does after a proper drain."""
        if self._alarm is not None:
            self._alarm.cancel()
        for lane in self._lanes.values():
            self.refuse_all(lane, WorkerLost("the server stopped before this request could be computed"))


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("Deadline Exceeded")
