"""Exactly one answer: workers die, hang, run out of memory and fail at random, clients go away, and still each request
ends once, the innocent with their own answers and the guilty with what they did."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.errors import (
    DeviceFault,
    Hung,
    InvalidRequest,
    ModelFailed,
    OutOfDeviceMemory,
    Quarantined,
    SluiceError,
    WorkerLost,
)
from sluice.request import InferRequest, Tensor
from sluice.scheduler.blame import DEATHS_ALONE, MOST_DEATHS
from sluice.scheduler.cost import Cost
from sluice.scheduler.entry import Batch, Entry, Limits, Work
from sluice.scheduler.loop import Lane, Scheduler
from sluice.scheduler.policy import Bounds, Policy
from sluice.spec import ModelSpec
from sluice.telemetry.metrics import Metrics
from sluice.telemetry.record import BatchFigures, Record

Outputs = tuple[Tensor, ...]

# What a batch comes to if one of these is in it; of several the first that is listed.
GUILT: dict[str, type[SluiceError]] = {
    "kills": WorkerLost,
    "hangs": Hung,
    "breaks": DeviceFault,
    "refused": InvalidRequest,
    "raises": ModelFailed,
    "hog": OutOfDeviceMemory,
}
KINDS = ["fine", *GUILT]
FIGURES = BatchFigures(1, 1, 1, 0.0, 0.0, 0.0)
TARGET = 1000.0  # seconds: nothing is late, refused or given up, so that nothing but its own doing may fail a request


@dataclass(frozen=True)
class Sent:
    """One request."""

    name: str
    kind: str
    rows: int = 1
    length: int = 1


class Ledger:
    """What happened, told from outside of the scheduler."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.deaths: Counter[str] = Counter()  # workers that died computing it
        self.lone_deaths: Counter[str] = Counter()  # of these, those that computed nothing else


class Device:
    """A worker that does what is in the batch, with memory for so many padded tokens."""

    def __init__(self, scheduler: Scheduler, ledger: Ledger, memory: int) -> None:
        self.scheduler, self.ledger, self.memory = scheduler, ledger, memory
        self.running: Batch | None = None
        self.staged: Batch | None = None
        self.ending = False
        self.up = True

    @property
    def idle(self) -> bool:
        return self.up and self.running is None

    @property
    def open(self) -> bool:
        return self.up and (self.running is None or (self.ending and self.staged is None))

    @property
    def serving(self) -> tuple[str, ...]:
        return ("m",)

    def free_at(self, now: float) -> float:
        return now

    def run(self, batch: Batch) -> None:
        assert self.open
        assert not any(entry.reply.done() for entry in batch.entries), "nothing dead is sent to a device"
        if self.running is None:
            self.running = batch
        else:
            self.staged = batch

    def near(self) -> None:
        self.ending = self.running is not None
        self.scheduler.wake()

    def end(self) -> None:
        """The running batch comes to what is in it."""
        if self.running is None:
            return
        names = [entry.work.request.id for entry in self.running.entries]
        kinds = {self.ledger.sent[name].kind for name in names}
        error = next((error for kind, error in GUILT.items() if kind in kinds), None)
        if error is None and len(names) > 1 and self.running.padded_tokens > self.memory:
            error = OutOfDeviceMemory
        if error is not None and issubclass(error, WorkerLost):
            self.die(error)
            return
        batch, self.running, self.staged, self.ending = self.running, self.staged, None, False
        self.scheduler.freed(batch, self, 0.01 if error is None else None)
        if self.running is not None:
            self.scheduler.began(self.running, self)
        if error is None:
            self.scheduler.finished(batch, [answer(name) for name in names], FIGURES)
        else:
            self.scheduler.failed(batch, error("as told"))
        self.scheduler.wake()

    def die(self, error: type[WorkerLost] = WorkerLost) -> None:
        batch, staged = self.running, self.staged
        self.running, self.staged, self.ending, self.up = None, None, False, False
        for ended in (batch, staged):
            if ended is not None:
                self.scheduler.freed(ended, self, None)
        if batch is not None:
            names = [entry.work.request.id for entry in batch.entries]
            self.ledger.deaths.update(names)
            self.ledger.lone_deaths.update(names if len(names) == 1 else ())
            self.scheduler.failed(batch, error("as told"))
        if staged is not None:
            self.scheduler.returned(staged)

    def come_back(self) -> None:
        self.up = True
        self.scheduler.wake()


def answer(name: str) -> Outputs:
    return (Tensor("y", "BYTES", (1,), name.encode()),)


def learned() -> Cost:
    cost = Cost()
    for rows in (1, 4, 16, 64) * 10:
        cost.profile(rows, 10, 0.01 + 1e-5 * rows)
    cost.fit()
    return cost


Step = tuple[str, int, Sent]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "send", "end", "end", "near", "near", "back", "die", "cancel"]),
        st.integers(0, 99),
        st.builds(
            Sent,
            st.just(""),
            st.one_of(st.just("fine"), st.just("fine"), st.sampled_from(KINDS)),
            st.integers(1, 3),
            st.integers(1, 30),
        ),
    ),
    min_size=20,
    max_size=80,
)


@given(STEPS, st.integers(1, 3), st.integers(1, 400))
@settings(max_examples=100)
def test_each_request_has_one_answer_and_the_innocent_their_own(steps: list[Step], workers: int, memory: int) -> None:
    asyncio.run(play(steps, workers, memory))


class Scene:
    """A scheduler with one version, workers, and requests told apart by their names."""

    def __init__(self, workers: int, memory: int) -> None:
        self.scheduler, self.ledger = Scheduler(), Ledger()
        self.policy: Policy[Entry] = Policy(learned(), TARGET, Bounds(rows=32, tokens=400, size=1 << 20))
        spec = ModelSpec("m", "1", "", "", (), (), 64)
        self.lane = Lane("m", spec, Limits(queue=1000), Record(Metrics()).version("m", "1"), self.policy)
        self.scheduler.add_lane(self.lane)
        self.devices = [Device(self.scheduler, self.ledger, memory) for _ in range(workers)]
        for device in self.devices:
            self.scheduler.add_worker(device)

    def send(self, sent: Sent) -> asyncio.Task[Outputs]:
        self.ledger.sent[sent.name] = sent
        tensor = Tensor("x", "BYTES", (1,), sent.name.encode())
        request = InferRequest("m", "", (tensor,), id=sent.name)
        work = Work(request, (tensor,), ("y",), sent.rows, sent.length, "g", len(sent.name))
        return asyncio.create_task(self.scheduler.submit(self.lane, work))

    async def end(self, tasks: Collection[asyncio.Task[Outputs]]) -> None:
        """Nothing more is done to anybody: all there is comes to its end."""
        for _ in range(20 * len(tasks) + 20):
            await turns()
            if all(task.done() for task in tasks) and not any(device.running for device in self.devices):
                return
            for device in self.devices:
                device.come_back()
                device.end()
        raise AssertionError("it does not end")


async def play(steps: list[Step], workers: int, memory: int) -> None:
    scene = Scene(workers, memory)
    ledger, lane = scene.ledger, scene.lane
    tasks: dict[str, asyncio.Task[Outputs]] = {}
    cancelled: set[str] = set()
    for action, number, sent in steps:
        device = scene.devices[number % workers]
        match action:
            case "send":
                sent = replace(sent, name=str(len(tasks)))
                tasks[sent.name] = scene.send(sent)
            case "end":
                device.end()
            case "near":
                device.near()
            case "back":
                device.come_back()
            case "die":
                device.die()
            case "cancel" if tasks:
                name = str(number % len(tasks))
                cancelled |= {name} if not tasks[name].done() else set()
                tasks[name].cancel()
        if number % 3:  # now and then several things happen in one turn of the event loop
            await turns()
    await scene.end(tasks.values())
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 10)
    for sent, outcome in zip(ledger.sent.values(), outcomes, strict=True):
        check(sent, outcome, ledger, sent.name in cancelled)
    assert all(deaths <= MOST_DEATHS for deaths in ledger.deaths.values())
    assert not len(scene.policy)
    assert not lane.running
    assert not lane.entries
    assert scene.scheduler.waiting(lane) == 0
    assert scene.scheduler.broken == ""
    await asyncio.wait_for(lane.drained(), 10)


def check(sent: Sent, outcome: object, ledger: Ledger, cancelled: bool) -> None:
    if isinstance(outcome, asyncio.CancelledError):
        assert cancelled
    elif ledger.lone_deaths[sent.name] >= DEATHS_ALONE:
        assert isinstance(outcome, WorkerLost), (sent, outcome)
    elif sent.kind == "fine":
        assert outcome == answer(sent.name), (sent, outcome)
    else:
        assert type(outcome) is GUILT[sent.kind], (sent, outcome)


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(6):
        await asyncio.sleep(0)


@given(st.permutations(range(24)), st.integers(1, 3))
@settings(max_examples=30)
def test_one_killer_among_many_costs_no_more_than_is_stated(order: list[int], workers: int) -> None:
    asyncio.run(kill(order, workers))


async def kill(order: list[int], workers: int) -> None:
    scene = Scene(workers, memory=400)
    tasks = [scene.send(Sent(str(number), "fine" if number else "kills")) for number in order]
    await scene.end(tasks)
    for number, task in zip(order, tasks, strict=True):
        if number:
            assert await task == answer(str(number))
        else:
            assert isinstance(task.exception(), WorkerLost)
    assert DEATHS_ALONE <= scene.ledger.deaths["0"] <= MOST_DEATHS
    for _ in range(3):  # a client that does not give up
        again = scene.send(Sent("0", "kills"))
        await scene.end([again])
        assert isinstance(again.exception(), Quarantined)
    assert scene.ledger.deaths["0"] <= MOST_DEATHS
