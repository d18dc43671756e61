"""The scheduler with a stand-in for a worker: what waits, what runs, and that each request gets exactly one answer."""

import asyncio
import time

import pytest

from sluice.errors import (
    DeadlineExceeded,
    DeviceFault,
    Hung,
    InternalError,
    InvalidRequest,
    ModelFailed,
    OutOfDeviceMemory,
    Overloaded,
    Quarantined,
    QueueFull,
    QueueTimeout,
    SluiceError,
    WorkerLost,
)
from sluice.request import InferRequest, Tensor
from sluice.scheduler.blame import DEATHS_ALONE, MOST_DEATHS
from sluice.scheduler.cost import Cost
from sluice.scheduler.entry import Batch, Entry, Limits, Work
from sluice.scheduler.loop import Lane, Scheduler
from sluice.scheduler.policy import Bounds, Policy
from sluice.spec import ModelSpec, Padding
from sluice.telemetry.metrics import Metrics
from sluice.telemetry.record import BatchFigures, Record

Outputs = tuple[Tensor, ...]
TARGET = 1000.0  # seconds: what is tested here is not what the policy thinks of deadlines
FIGURES = BatchFigures(1, 1, 1, 0.0, 0.0, 0.0)


class Device:
    """Runs a batch for as long as the test wants; answers each entry with the id of its request."""

    def __init__(self, scheduler: Scheduler, *keys: str) -> None:
        self.scheduler = scheduler
        self.keys = keys or ("m",)
        self.batch: Batch | None = None
        self.ran: list[list[str]] = []

        self.staged: Batch | None = None
        self.ending = False

    @property
    def idle(self) -> bool:
        return self.batch is None

    @property
    def open(self) -> bool:
        return self.batch is None or (self.ending and self.staged is None)

    @property
    def serving(self) -> tuple[str, ...]:
        return self.keys

    def free_at(self, now: float) -> float:
        return now

    def run(self, batch: Batch) -> None:
        if self.batch is None:
            self.batch = batch
        else:
            assert self.open
            self.staged = batch
        self.ran.append([entry.work.request.id for entry in batch.entries])

    @property
    def running(self) -> list[str]:
        return [] if self.batch is None else [entry.work.request.id for entry in self.batch.entries]

    def near_its_end(self) -> None:
        self.ending = True
        self.scheduler.wake()

    def _freed(self, seconds: float | None) -> Batch:
        batch, self.batch, self.staged, self.ending = self.batch, self.staged, None, False
        assert batch is not None
        self.scheduler.freed(batch, self, seconds)
        if self.batch is not None:
            self.scheduler.began(self.batch, self)
        return batch

    def finish(self) -> None:
        batch = self._freed(0.01)
        self.scheduler.dispatch()
        self.scheduler.finished(batch, [answer(entry.work.request.id) for entry in batch.entries], FIGURES)

    def fail(self, error: SluiceError) -> None:
        staged, self.staged = self.staged, None
        batch = self._freed(None)
        if staged is not None:
            self.scheduler.freed(staged, self, None)
        self.scheduler.failed(batch, error)
        if staged is not None:
            self.scheduler.returned(staged)


def cost(seconds_per_row: float) -> Cost:
    """A device on which a batch takes a second, and more by its rows if so asked."""
    learned = Cost()
    for rows in (1, 4, 16, 64) * 10:
        learned.profile(rows, 10, max(1.0, rows * seconds_per_row))
    learned.fit()
    return learned


class Stage:
    """A scheduler with one lane, and one device unless a test adds more."""

    def __init__(
        self,
        padding: Padding = Padding.ANY,
        queue: int = 100,
        queue_timeout: float | None = None,
        seconds_per_row: float = 0.0,
    ) -> None:
        self.scheduler = Scheduler()
        self.seconds_per_row = seconds_per_row
        self.lane = self.add_lane("m", padding, queue, queue_timeout)
        self.device = Device(self.scheduler)
        self.scheduler.add_worker(self.device)

    def add_lane(
        self, key: str, padding: Padding = Padding.ANY, queue: int = 100, queue_timeout: float | None = None
    ) -> Lane:
        spec = ModelSpec(key, "1", "", "", (), (), 64, padding)
        limits = Limits(queue=queue, queue_timeout=queue_timeout)
        policy: Policy[Entry] = Policy(cost(self.seconds_per_row), TARGET, Bounds(rows=64, tokens=1000, size=1 << 20))
        lane = Lane(key, spec, limits, Record(Metrics()).version(key, "1"), policy)
        self.scheduler.add_lane(lane)
        return lane

    def submit(
        self,
        name: str,
        lane: Lane | None = None,
        *,
        deadline: float | None = None,
        queue_timeout: float | None = None,
        priority: float = 0.0,
    ) -> "asyncio.Task[Outputs]":
        request = InferRequest("m", "", (), id=name, deadline=deadline)
        inputs = (Tensor("x", "UINT8", (1, len(name)), name.encode()),)
        work = Work(request, inputs, (), 1, 10, "g", len(name), priority=priority, queue_timeout=queue_timeout)
        return asyncio.create_task(self.scheduler.submit(lane or self.lane, work))

    async def occupied(self) -> "asyncio.Task[Outputs]":
        """A request that keeps the device busy."""
        task = self.submit("first")
        await turns()
        assert self.device.running == ["first"]
        return task


def answer(name: str) -> Outputs:
    return (Tensor(name, "UINT8", (0,), b""),)


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_arrives_together_runs_together() -> None:
    stage = Stage()
    tasks = [stage.submit(name) for name in "abc"]
    await turns()
    assert stage.device.ran == [["a", "b", "c"]]
    stage.device.finish()
    assert await asyncio.gather(*tasks) == [answer(name) for name in "abc"]


async def test_what_arrives_while_the_device_is_busy_waits_and_goes_next() -> None:
    stage = Stage()
    first = await stage.occupied()
    others = [stage.submit(name) for name in "ab"]
    await turns()
    assert len(stage.lane.policy) == 2
    stage.device.finish()
    assert stage.device.running == ["a", "b"]  # before the answers of the first went out
    stage.device.finish()
    await asyncio.gather(first, *others)


async def test_a_cancel_removes_queued_work_at_once() -> None:
    stage = Stage()
    first = await stage.occupied()
    gone, stays = stage.submit("gone"), stage.submit("stays")
    await turns()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert [entry.work.request.id for entry in stage.lane.policy] == ["stays"]
    stage.device.finish()
    assert stage.device.running == ["stays"]
    stage.device.finish()
    assert [await first, await stays] == [answer("first"), answer("stays")]


async def test_a_cancel_in_the_turn_of_the_dispatch_reaches_no_worker() -> None:
    stage = Stage()
    first = await stage.occupied()
    gone = stage.submit("gone")
    await turns()
    gone.cancel()  # its task has not run yet when the device asks for more
    stage.device.finish()
    assert stage.device.running == []
    await asyncio.gather(first, gone, return_exceptions=True)
    assert not len(stage.lane.policy)


async def test_a_cancel_of_running_work_leaves_the_rest_of_its_batch_alone() -> None:
    stage = Stage()
    gone, stays = stage.submit("gone"), stage.submit("stays")
    await turns()
    gone.cancel()
    await turns()
    stage.device.finish()
    assert await stays == answer("stays")
    assert gone.cancelled()
    assert stage.device.idle


async def test_a_deadline_fires_while_the_device_is_busy() -> None:
    stage = Stage()
    first = await stage.occupied()
    late = stage.submit("late", deadline=time.monotonic() + 0.01)
    with pytest.raises(DeadlineExceeded):
        await late
    assert not len(stage.lane.policy)
    stage.device.finish()
    await first
    assert stage.device.ran == [["first"]]


async def test_a_deadline_ends_the_wait_for_running_work() -> None:
    stage = Stage()
    late = stage.submit("late", deadline=time.monotonic() + 0.01)
    await turns()
    assert stage.device.running == ["late"]
    with pytest.raises(DeadlineExceeded):
        await late
    stage.device.finish()
    await stage.lane.drained()


async def test_the_queue_timeout_counts_only_in_the_queue() -> None:
    stage = Stage()
    running = stage.submit("running", queue_timeout=0.01)
    await turns()
    waiting = stage.submit("waiting", queue_timeout=0.02)
    with pytest.raises(QueueTimeout, match="Request timeout expired"):
        await waiting
    assert not running.done()
    assert not len(stage.lane.policy)
    stage.device.finish()
    assert await running == answer("running")


async def test_the_lanes_own_queue_timeout() -> None:
    stage = Stage(queue_timeout=0.01)
    first = await stage.occupied()
    with pytest.raises(QueueTimeout):
        await stage.submit("waiting")
    stage.device.finish()
    await first


async def test_a_full_queue_refuses() -> None:
    stage = Stage(queue=2)
    first = await stage.occupied()
    waiting = [stage.submit(name) for name in "ab"]
    await turns()
    with pytest.raises(QueueFull, match=r"Exceeds maximum queue size: 2 .*'m'"):
        await stage.submit("c")
    stage.device.finish()
    stage.device.finish()
    assert await asyncio.gather(first, *waiting) == [answer(name) for name in ("first", "a", "b")]


async def test_the_urgent_go_first() -> None:
    stage = Stage(Padding.NEVER)
    first = await stage.occupied()
    priorities = {"low": 1.0, "usual": 0.0, "high": -1.0}
    tasks = [stage.submit(name, priority=priority) for name, priority in priorities.items()]
    await turns()
    for _ in range(4):
        stage.device.finish()
    await asyncio.gather(first, *tasks)
    assert stage.device.ran == [["first"], ["high"], ["usual"], ["low"]]


async def test_a_model_that_must_not_batch_runs_one_by_one() -> None:
    stage = Stage(Padding.NEVER)
    tasks = [stage.submit(name) for name in "abc"]
    await turns()
    for _ in range(3):
        stage.device.finish()
    await asyncio.gather(*tasks)
    assert stage.device.ran == [["a"], ["b"], ["c"]]


async def test_lost_work_is_computed_again_in_halves() -> None:
    stage = Stage()
    tasks = [stage.submit(name) for name in "abcd"]
    await turns()
    stage.device.fail(WorkerLost("died"))
    await turns()
    while not stage.device.idle:
        stage.device.finish()
        await turns()
    assert stage.device.ran == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"]]
    assert await asyncio.gather(*tasks) == [answer(name) for name in "abcd"]


async def test_nobody_joins_suspects() -> None:
    stage = Stage()
    tasks = [stage.submit(name) for name in "abcd"]
    await turns()
    tasks.append(stage.submit("late"))
    await turns()
    stage.device.fail(ModelFailed("no"))
    await turns()
    while not stage.device.idle:
        stage.device.finish()
        await turns()
    assert [ran for ran in stage.device.ran if "late" in ran] == [["late"]]
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("error", [WorkerLost("died"), Hung("hung"), DeviceFault("broke")])
async def test_a_request_alone_costs_two_workers(error: SluiceError) -> None:
    stage = Stage()
    killer = stage.submit("killer")
    for _ in range(DEATHS_ALONE):
        await turns()
        stage.device.fail(error)
    with pytest.raises(type(error), match=rf"given up after 2 workers died under it, 2 of them .*: {error}"):
        await killer
    await turns()
    assert stage.device.ran == [["killer"]] * DEATHS_ALONE
    assert stage.device.idle
    assert not len(stage.lane.policy)


async def test_one_death_alone_blames_nobody() -> None:
    stage = Stage()
    task = stage.submit("a")
    await turns()
    stage.device.fail(WorkerLost("killed from outside"))
    await turns()
    stage.device.finish()
    assert await task == answer("a")


async def test_of_a_batch_that_kills_its_worker_only_the_guilty_fails() -> None:
    stage = Stage()
    names = [*"abcdefg", "killer", *"hijklmno"]
    tasks = {name: stage.submit(name) for name in names}
    deaths = 0
    await turns()
    while not stage.device.idle:
        if "killer" in stage.device.running:
            deaths += 1
            stage.device.fail(WorkerLost("died"))
        else:
            stage.device.finish()
        await turns()
    with pytest.raises(WorkerLost, match="given up after 4 workers"):
        await tasks.pop("killer")
    assert deaths == MOST_DEATHS
    assert await asyncio.gather(*tasks.values()) == [answer(name) for name in tasks]


@pytest.mark.parametrize("error", [ModelFailed("no"), InvalidRequest("no"), InternalError("no")])
async def test_of_a_failing_batch_only_the_guilty_fails(error: SluiceError) -> None:
    stage = Stage()
    tasks = {name: stage.submit(name) for name in ("a", "guilty", "b")}
    await turns()
    while not stage.device.idle:
        if "guilty" in stage.device.running:
            stage.device.fail(error)
        else:
            stage.device.finish()
        await turns()
    with pytest.raises(type(error)):
        await tasks["guilty"]
    assert await tasks["a"] == answer("a")
    assert await tasks["b"] == answer("b")
    assert stage.device.ran == [["a", "guilty", "b"], ["a", "guilty"], ["a"], ["guilty"], ["b"]]


async def test_a_lone_failure_is_not_tried_again() -> None:
    stage = Stage()
    task = stage.submit("a")
    await turns()
    stage.device.fail(ModelFailed("no"))
    with pytest.raises(ModelFailed):
        await task
    await turns()
    assert stage.device.ran == [["a"]]


async def test_a_request_that_died_waiting_for_its_retry_is_not_retried() -> None:
    stage = Stage()
    gone, stays = stage.submit("gone"), stage.submit("stays")
    await turns()
    gone.cancel()
    await turns()
    stage.device.fail(ModelFailed("no"))
    await turns()
    stage.device.finish()
    assert await stays == answer("stays")
    assert stage.device.ran == [["gone", "stays"], ["stays"]]


async def test_the_next_batch_is_staged_when_the_running_one_is_about_to_end() -> None:
    stage = Stage(Padding.NEVER)
    first = await stage.occupied()
    tasks = [stage.submit(name) for name in "ab"]
    await turns()
    assert stage.device.ran == [["first"]]
    stage.device.near_its_end()
    await turns()
    assert stage.device.ran == [["first"], ["a"]]  # and no more than one
    assert stage.device.running == ["first"]
    stage.device.finish()
    assert stage.device.running == ["a"]
    stage.device.finish()
    stage.device.finish()
    assert await asyncio.gather(first, *tasks) == [answer(name) for name in ("first", "a", "b")]


async def test_staged_work_loses_nothing_with_the_worker() -> None:
    stage = Stage()
    first = await stage.occupied()
    tasks = [stage.submit(name) for name in "ab"]
    await turns()
    for _ in range(DEATHS_ALONE - 1):
        stage.device.near_its_end()
        await turns()
        assert stage.device.ran[-1] == ["a", "b"]
        stage.device.fail(WorkerLost("died"))
        await turns()
        assert stage.device.running == ["first"]
    stage.device.near_its_end()
    await turns()
    stage.device.fail(WorkerLost("died"))
    with pytest.raises(WorkerLost):
        await first
    await turns()
    assert stage.device.running == ["a", "b"]  # together still: nothing is known against them
    stage.device.finish()
    assert await asyncio.gather(*tasks) == [answer("a"), answer("b")]


async def test_what_cannot_be_answered_in_time_is_refused_with_advice() -> None:
    stage = Stage(queue=1_000_000)
    tasks = [await stage.occupied()]
    while not tasks[-1].done():  # ever more that is due in ten seconds, on a device that is busy
        tasks.append(stage.submit("one more", deadline=time.monotonic() + 10))
        await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="'m' is overloaded") as refused:
        await tasks[-1]
    assert refused.value.retry_after is not None
    assert refused.value.retry_after > 0
    stage.scheduler.close()
    stage.device.finish()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_turns_alternate_with_batches() -> None:
    stage = Stage(Padding.NEVER)
    first = await stage.occupied()
    order: list[str] = []

    async def take_turn(name: str) -> None:
        async with stage.scheduler.turn(stage.device):
            assert stage.device.idle
            order.append(name)

    takers = [asyncio.create_task(take_turn(name)) for name in ("turn 1", "turn 2")]
    tasks = [stage.submit(name) for name in "ab"]
    await turns()
    while not all(task.done() for task in (first, *tasks, *takers)):
        if not stage.device.idle:
            order.extend(stage.device.running)
            stage.device.finish()
        await turns()
    assert order == ["first", "turn 1", "a", "turn 2", "b"]


async def test_a_turn_given_up_while_waiting_is_nobodys() -> None:
    stage = Stage()
    first = await stage.occupied()

    async def take_turn() -> None:
        async with stage.scheduler.turn(stage.device):
            raise AssertionError("never reached")

    taker = asyncio.create_task(take_turn())
    await turns()
    taker.cancel()
    waiting = stage.submit("a")
    await turns()
    stage.device.finish()
    await turns()
    stage.device.finish()
    assert [await first, await waiting] == [answer("first"), answer("a")]


async def test_a_worker_is_given_only_what_it_holds() -> None:
    stage = Stage()
    other = stage.add_lane("other")
    tasks = [stage.submit("a", other), stage.submit("b")]
    await turns()
    assert stage.device.running == ["b"]
    stage.device.finish()
    assert stage.device.idle
    second = Device(stage.scheduler, "other")
    stage.scheduler.add_worker(second)
    await turns()
    assert second.running == ["a"]
    second.finish()
    await asyncio.gather(*tasks)


async def test_idle_devices_share_what_waits() -> None:
    stage = Stage(seconds_per_row=1.0)
    second = Device(stage.scheduler)
    stage.scheduler.add_worker(second)
    tasks = [stage.submit(name) for name in "abcd"]
    await turns()
    assert [len(stage.device.running), len(second.running)] == [2, 2]
    stage.device.finish()
    second.finish()
    assert await asyncio.gather(*tasks) == [answer(name) for name in "abcd"]


async def test_drained_waits_for_what_waits_and_what_runs() -> None:
    stage = Stage(Padding.NEVER)
    tasks = [stage.submit(name) for name in "ab"]
    await turns()
    drained = asyncio.create_task(stage.lane.drained())
    stage.device.finish()
    await turns()
    assert not drained.done()
    stage.device.finish()
    await drained
    await asyncio.gather(*tasks)
    await stage.lane.drained()


async def test_closing_answers_what_waits() -> None:
    stage = Stage()
    first = await stage.occupied()
    waiting = stage.submit("a")
    await turns()
    stage.scheduler.close()
    with pytest.raises(WorkerLost):
        await waiting
    stage.device.finish()
    await first


async def test_a_turn_given_up_while_another_has_the_worker_takes_nothing_from_it() -> None:
    stage = Stage()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def take_turn() -> None:
        async with stage.scheduler.turn(stage.device):
            entered.set()
            await leave.wait()

    taker, impatient = asyncio.create_task(take_turn()), asyncio.create_task(take_turn())
    await entered.wait()
    impatient.cancel()
    waiting = stage.submit("a")
    await turns()
    assert stage.device.idle
    leave.set()
    await taker
    await turns()
    stage.device.finish()
    assert await waiting == answer("a")


# Requests that killed workers


async def killed_two(stage: Stage) -> None:
    killer = stage.submit("killer")
    for _ in range(DEATHS_ALONE):
        await turns()
        stage.device.fail(WorkerLost("died"))
    with pytest.raises(WorkerLost):
        await killer


async def test_a_killer_is_refused_when_it_is_sent_again() -> None:
    stage = Stage()
    await killed_two(stage)
    with pytest.raises(Quarantined, match=r"not computed again for \d+ seconds"):
        await stage.submit("killer")
    other = stage.submit("other")
    await turns()
    assert stage.device.running == ["other"]
    stage.device.finish()
    assert await other == answer("other")


async def test_a_version_loaded_anew_takes_it_again() -> None:
    stage = Stage()
    await killed_two(stage)
    stage.scheduler.remove_lane(stage.lane)
    stage.lane = stage.add_lane("m")
    task = stage.submit("killer")
    await turns()
    stage.device.finish()
    assert await task == answer("killer")


async def test_copies_of_a_killer_that_wait_are_refused_with_it() -> None:
    stage = Stage(Padding.NEVER)
    tasks = [stage.submit("killer") for _ in range(5)]
    await turns()
    deaths = 0
    while not stage.device.idle:
        deaths += 1
        stage.device.fail(WorkerLost("died"))
        await turns()
    assert deaths == DEATHS_ALONE
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(type(error).__name__ for error in errors) == ["Quarantined"] * 4 + ["WorkerLost"]


async def test_a_killer_whose_client_goes_away_every_time_is_caught_all_the_same() -> None:
    """As with a deadline that is shorter than a hanging batch is given."""
    stage = Stage()
    deaths = 0
    while True:
        tasks = [stage.submit(name) for name in ("killer", "a", "b")]
        await turns()
        if tasks[0].done():
            break
        while "killer" not in stage.device.running:
            stage.device.finish()
            await turns()
        if deaths:
            assert stage.device.running == ["killer"]  # nobody suffers with it twice
        tasks[0].cancel()
        await turns()
        stage.device.fail(Hung("too long"))
        deaths += 1
        await turns()
        while not stage.device.idle:
            stage.device.finish()
            await turns()
        assert await asyncio.gather(*tasks[1:]) == [answer("a"), answer("b")]
    with pytest.raises(Quarantined):
        await tasks[0]
    assert deaths == 1 + DEATHS_ALONE
    stage.device.finish()
    await asyncio.gather(*tasks[1:])


async def test_a_suspect_that_is_computed_after_all_is_none_any_more() -> None:
    stage = Stage()
    for _ in range(3 * MOST_DEATHS):
        gone = stage.submit("unlucky")
        await turns()
        gone.cancel()
        await turns()
        stage.device.fail(WorkerLost("killed from outside"))
        again = stage.submit("unlucky")
        await turns()
        stage.device.finish()
        assert await again == answer("unlucky")


# Memory


async def test_a_batch_without_memory_on_its_device_is_halved_and_later_ones_are_smaller() -> None:
    stage = Stage()
    tasks = [stage.submit(str(number)) for number in range(40)]
    while not all(task.done() for task in tasks):
        await turns()
        if len(stage.device.running) > 15:
            stage.device.fail(OutOfDeviceMemory("no memory"))
        elif not stage.device.idle:
            stage.device.finish()
    assert await asyncio.gather(*tasks) == [answer(str(number)) for number in range(40)]
    assert len(stage.device.ran[0]) == 40
    assert stage.lane.policy.ceiling.tokens <= 200
    tasks = [stage.submit(str(number)) for number in range(40)]
    while not all(task.done() for task in tasks):
        await turns()
        assert len(stage.device.running) <= 20
        if not stage.device.idle:
            stage.device.finish()


async def test_a_request_without_memory_for_it_alone_fails_and_makes_no_batch_smaller() -> None:
    stage = Stage()
    tasks = {name: stage.submit(name) for name in ("a", "b", "hog", "c", "d")}
    while not all(task.done() for task in tasks.values()):
        await turns()
        if "hog" in stage.device.running:
            stage.device.fail(OutOfDeviceMemory("no memory"))
        elif not stage.device.idle:
            stage.device.finish()
    with pytest.raises(OutOfDeviceMemory, match=r"^no memory$"):
        await tasks.pop("hog")
    assert await asyncio.gather(*tasks.values()) == [answer(name) for name in tasks]
    assert stage.lane.policy.ceiling.tokens == 1000
    again = stage.submit("hog")  # what others left is not its fault
    await turns()
    stage.device.finish()
    assert await again == answer("hog")


async def test_under_pressure_batches_are_smaller_for_every_version() -> None:
    stage = Stage()
    stage.scheduler.squeeze(0.1)
    new = stage.add_lane("new")
    stage.device.keys = ("m", "new")
    for lane in (stage.lane, new):
        tasks = [stage.submit(str(number), lane) for number in range(40)]
        while not all(task.done() for task in tasks):
            await turns()
            assert len(stage.device.running) <= 6
            if not stage.device.idle:
                stage.device.finish()
    stage.scheduler.squeeze(1.0)
    for lane in (stage.lane, new):
        tasks = [stage.submit(str(number), lane) for number in range(40)]
        await turns()
        assert len(stage.device.running) == 40
        stage.device.finish()
        await asyncio.gather(*tasks)


# Bugs of ours: loud, and answered


def failing(*_: object, **__: object) -> None:
    raise RuntimeError("a bug")


POLICYS = ["submit", "choose", "restore", "finished", "failed", "started", "remove", "urgency", "overflowed"]


@pytest.mark.parametrize("method", POLICYS)
async def test_a_failing_policy_answers_instead_of_hanging(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it fails at: each request has an answer, the scheduler lives, and health is told."""
    stage = Stage()
    assert stage.scheduler.broken == ""
    with monkeypatch.context() as patch:
        patch.setattr(stage.lane.policy, method, failing)
        tasks = [stage.submit(name) for name in "ab"]
        await turns()
        tasks += [stage.submit(name) for name in ("c", "d", "gone")]
        await turns()
        tasks[-1].cancel()
        await turns()
        if not stage.device.idle:
            stage.device.near_its_end()  # the others are staged behind what runs
            await turns()
            stage.device.finish()
            await turns()
        if not stage.device.idle:
            stage.device.fail(OutOfDeviceMemory("no memory"))
            await turns()
        while not stage.device.idle:
            stage.device.finish()
            await turns()
        # The event loop's own timer looks at the workers again after a bug.
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert all(
            isinstance(outcome, InternalError | asyncio.CancelledError) or outcome == answer(name)
            for name, outcome in zip(("a", "b", "c", "d", "gone"), outcomes, strict=True)
        )
        assert "internal error in the scheduler" in stage.scheduler.broken
    later = stage.submit("later")
    await turns()
    stage.device.finish()
    assert await later == answer("later")
    await stage.lane.drained()


async def test_a_failing_policy_is_loud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.lane.policy, "choose", failing)
    with pytest.raises(InternalError):
        await stage.submit("a")
    assert "a bug" in caplog.text


async def test_a_failing_record_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.lane.record, "batch", failing)
    task = stage.submit("a")
    await turns()
    stage.device.finish()
    assert await task == answer("a")
    await stage.lane.drained()
    assert stage.scheduler.broken


async def test_a_worker_that_cannot_take_a_batch_costs_only_that_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    with monkeypatch.context() as patch:
        patch.setattr(stage.device, "run", failing)
        with pytest.raises(InternalError):
            await stage.submit("a")
    task = stage.submit("b")
    await turns()
    stage.device.finish()
    assert await task == answer("b")
    await stage.lane.drained()


async def test_too_few_answers_are_no_answers() -> None:
    """Whose they are nobody could tell."""
    stage = Stage()
    tasks = [stage.submit(name) for name in "ab"]
    await turns()
    batch, stage.device.batch = stage.device.batch, None
    assert batch is not None
    stage.scheduler.freed(batch, stage.device, 0.01)
    stage.scheduler.finished(batch, [answer("b")], FIGURES)
    for task in tasks:
        with pytest.raises(InternalError):
            await task


async def test_only_the_first_end_of_a_batch_counts() -> None:
    stage = Stage()
    tasks = [stage.submit(name) for name in "ab"]
    await turns()
    batch = stage.device.batch
    assert batch is not None
    stage.device.finish()
    stage.scheduler.failed(batch, WorkerLost("died"))
    stage.scheduler.returned(batch)
    await turns()
    assert stage.device.idle
    assert await asyncio.gather(*tasks) == [answer("a"), answer("b")]
    await stage.lane.drained()
