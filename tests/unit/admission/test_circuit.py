"""A circuit with workers that do what a real one cannot be made to do at will."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from sluice.admission.breaker import Phase, Rule
from sluice.admission.circuit import Circuit
from sluice.errors import (
    CircuitOpen,
    DeadlineExceeded,
    DeviceFault,
    Hung,
    InternalError,
    InvalidRequest,
    ModelFailed,
    Overloaded,
    Quarantined,
    QueueFull,
    SluiceError,
    WorkerLost,
)
from sluice.request import InferRequest
from sluice.scheduler.cost import Cost
from sluice.scheduler.entry import Entry, Limits, Work
from sluice.scheduler.loop import Lane
from sluice.scheduler.policy import Bounds, Policy
from sluice.spec import ModelSpec
from sluice.telemetry.metrics import Metrics
from sluice.telemetry.record import Record

RULE = Rule(window=10, least=4, share=0.5, pause=0.001, longest_pause=0.004, grave=3)
TINY = Work(InferRequest("m", "1", ()), (), (), 1, 1, None)


@dataclass
class Prober:
    """Answers each trial as the test says."""

    outcomes: list[Exception | None] = field(default_factory=list)
    holding: Callable[[], bool] = lambda: True
    trials: int = 0

    def holds(self, key: str) -> bool:
        return self.holding()

    async def trial(self, key: str, spec: ModelSpec, works: Sequence[Work]) -> None:
        assert works == [TINY]
        self.trials += 1
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome


@dataclass
class Bench:
    circuit: Circuit
    refused: list[SluiceError]
    changes: list[Phase]
    metrics: Metrics

    def fail(self, error: SluiceError, times: int = RULE.least) -> None:
        for _ in range(times):
            self.circuit.count(error)

    async def until(self, phase: Phase) -> None:
        while self.circuit.phase is not phase:
            await asyncio.sleep(0)


def bench(*workers: Prober, tiny: Work | None = TINY, rule: Rule = RULE) -> Bench:
    spec = ModelSpec("m", "1", "python", "python", (), (), max_batch_rows=8)
    policy: Policy[Entry] = Policy(Cost(), 1.0, Bounds(8, 8, 1 << 20))
    metrics = Metrics()
    lane = Lane("m/1#1", spec, Limits(queue=8, queue_timeout=None), Record(metrics).version("m", "1"), policy)
    refused: list[SluiceError] = []
    changes: list[Phase] = []
    circuit = Circuit(lane, workers, tiny, refused.append, lambda: changes.append(circuit.phase), rule)
    return Bench(circuit, refused, changes, metrics)


@pytest.mark.parametrize("error", [ModelFailed("x"), WorkerLost("x"), Hung("x"), DeviceFault("x"), InternalError("x")])
async def test_what_speaks_against_a_version(error: SluiceError) -> None:
    table = bench(Prober())
    table.fail(error)
    assert table.circuit.phase is Phase.OPEN
    with pytest.raises(CircuitOpen, match=r"'m' version 1 failed too often to be tried now: .* the last one: x"):
        table.circuit.check()
    assert [type(refusal) for refusal in table.refused] == [CircuitOpen]
    await table.until(Phase.CLOSED)
    table.circuit.check()
    assert table.changes == [Phase.OPEN, Phase.HALF_OPEN, Phase.CLOSED]


async def test_a_doubt_is_settled_by_a_probe_while_requests_pass() -> None:
    worker = Prober([None, ModelFailed("no")])
    table = bench(worker, rule=replace(RULE, doubt=True))
    table.fail(ModelFailed("x"))
    assert table.circuit.phase is Phase.IN_DOUBT
    table.circuit.check()
    await table.until(Phase.CLOSED)
    assert not table.refused
    table.fail(ModelFailed("x"))
    await table.until(Phase.OPEN)
    assert table.circuit.reason.endswith("the last one: x; the last probe failed: no")
    assert [type(refusal) for refusal in table.refused] == [CircuitOpen]
    await table.until(Phase.CLOSED)
    assert worker.trials == 3


async def test_where_nothing_made_up_computes_there_is_no_doubt() -> None:
    table = bench(Prober(), tiny=None, rule=replace(RULE, doubt=True))
    table.fail(ModelFailed("x"))
    assert table.circuit.phase is Phase.OPEN
    await table.until(Phase.CLOSED)


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("x"), DeadlineExceeded("x"), Overloaded("x"), QueueFull("x"), Quarantined("x"), CircuitOpen("x")],
)
async def test_what_does_not(error: SluiceError) -> None:
    table = bench(Prober())
    table.fail(error, 100)
    assert table.circuit.closed


async def test_a_few_that_hang_are_enough() -> None:
    table = bench(Prober())
    table.fail(Hung("x"), 3)
    assert table.circuit.phase is Phase.OPEN
    await table.until(Phase.CLOSED)


@pytest.mark.parametrize("error", [ModelFailed("no"), WorkerLost("no"), RuntimeError("a bug")])
async def test_probes_go_on_until_one_passes(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Prober([error, error]), Prober([error])
    table = bench(first, second)
    table.fail(ModelFailed("x"))
    await table.until(Phase.CLOSED)
    assert (first.trials, second.trials) == (2, 2), "the workers take turns"
    assert table.changes == [Phase.OPEN, *[Phase.HALF_OPEN, Phase.OPEN] * 3, Phase.HALF_OPEN, Phase.CLOSED]


async def test_a_model_that_refuses_made_up_input_computes() -> None:
    worker = Prober([InvalidRequest("an id beyond the table")])
    table = bench(worker)
    table.fail(ModelFailed("x"))
    await table.until(Phase.CLOSED)
    assert worker.trials == 1


async def test_without_anything_that_ever_worked_the_next_requests_are_the_test() -> None:
    worker = Prober()
    table = bench(worker, tiny=None)
    table.fail(ModelFailed("x"))
    await table.until(Phase.CLOSED)
    assert worker.trials == 0


async def test_workers_on_their_way_back_are_waited_for() -> None:
    asked = iter(range(1000))
    worker = Prober(holding=lambda: next(asked) >= 5)
    table = bench(worker)
    table.fail(ModelFailed("x"))
    await table.until(Phase.CLOSED)
    assert table.changes == [Phase.OPEN, Phase.HALF_OPEN, Phase.CLOSED]


async def test_a_stopped_circuit_counts_and_probes_no_more() -> None:
    worker = Prober()
    table = bench(worker)
    table.fail(ModelFailed("x"))
    table.circuit.stop()
    table.circuit.stop()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    assert worker.trials == 0
    late = bench(Prober())
    late.circuit.stop()
    late.fail(ModelFailed("x"))
    assert late.circuit.closed
