"""Circuits, fallbacks and readiness of versions, with real workers and without front ends."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import graphs
import numpy as np
import pytest
from apps import running
from breakable import breakable

from sluice.admission.breaker import Phase, Rule
from sluice.app import App
from sluice.config.settings import Models, Settings, Workers
from sluice.errors import CircuitOpen, InvalidRequest, ModelFailed, NotReady, SluiceError
from sluice.health import Condition, Part
from sluice.request import InferRequest, InferResponse, Tensor
from sluice.workers.worker import State

Opened = Callable[..., AbstractAsyncContextManager[App]]

FAILURES = Rule().least


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """The inner parts of a server on the test's repository, its models loaded."""

    def open_app(workers: int = 1, **models: object) -> AbstractAsyncContextManager[App]:
        section = Models.model_validate({"repository": tmp_path, "python_directories": [tmp_path], **models})
        return running(Settings(models=section, workers=Workers(device="cpu", count=workers, hang_timeout=60)))

    return open_app


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The file that breaks the model `main` while it exists."""
    return tmp_path / ".broken"


async def ask(app: App, value: int = 3, name: str = "main", version: str = "") -> InferResponse:
    tensor = Tensor("x", "INT64", (1, 1), np.array([value], "<i8").tobytes())
    return await app.engine.infer(InferRequest(name, version, (tensor,)))


def answer(response: InferResponse) -> int:
    return int(response.outputs[0].array()[0, 0])


async def fail_often(app: App, name: str = "main") -> None:
    """Until the circuit opens."""
    circuit = app.catalog.live(name).circuit
    while circuit.closed:
        with contextlib.suppress(ModelFailed, CircuitOpen):
            await ask(app, name=name)


async def closed(app: App, name: str = "main") -> None:
    circuit = app.catalog.live(name).circuit
    while not circuit.closed:
        await app.health.changed()


def part(app: App, name: str) -> Part:
    return next(part for part in app.catalog.parts() if part.name == name)


async def test_a_version_that_fails_is_refused_until_a_probe_of_its_own_passes(
    opened: Opened, tmp_path: Path, broken: Path
) -> None:
    breakable(tmp_path, "main", broken)
    async with opened() as app:
        version = app.catalog.live("main")
        assert part(app, "main/1") == Part("model", "main/1", Condition.OK)
        broken.touch()
        await fail_often(app)
        executed = version.record.statistics.execution_count
        with pytest.raises(CircuitOpen, match=r"'main' version 1 failed too often .*it is broken") as refused:
            await ask(app)
        assert 0 < (refused.value.retry_after or 0) <= 1
        assert not app.catalog.capable()
        assert not app.catalog.version_ready("main")
        found = part(app, "main/1")
        assert found.condition is Condition.FAILED
        assert found.reason.startswith("its circuit is open: 20 of 20 failed")
        assert app.catalog.index()[0].state == "READY"
        assert "circuit is open" in app.catalog.index()[0].reason
        assert app.catalog.metadata("main").properties["circuit"] == "open"
        phases = set()
        while Phase.HALF_OPEN not in phases:
            await app.health.changed()
            phases.add(version.circuit.phase)
        broken.unlink()
        await closed(app)
        assert version.record.statistics.execution_count == executed, "no client's request was a guinea pig"
        assert answer(await ask(app)) == 3
        assert app.catalog.capable()
        assert part(app, "main/1").condition is Condition.OK
        assert app.catalog.metadata("main").properties["circuit"] == "closed"


async def test_what_clients_do_wrong_opens_no_circuit(opened: Opened, tmp_path: Path, broken: Path) -> None:
    breakable(tmp_path, "main", broken)
    async with opened() as app:
        for _ in range(2 * FAILURES):
            with pytest.raises(InvalidRequest):
                await app.engine.infer(InferRequest("main", "", ()))
            cancelled = asyncio.create_task(ask(app))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
        assert app.catalog.live("main").circuit.closed


async def test_an_open_circuit_is_gone_with_its_version(opened: Opened, tmp_path: Path, broken: Path) -> None:
    breakable(tmp_path, "main", broken)
    async with opened() as app:
        broken.touch()
        await fail_often(app)
        old = app.catalog.live("main")
        await app.catalog.unload("main")
        assert "main/1" not in {part.name for part in app.catalog.parts()}
        assert app.catalog.capable()
        broken.unlink()
        await app.catalog.load("main")
        assert app.catalog.live("main").circuit is not old.circuit
        assert answer(await ask(app)) == 3


async def test_a_version_whose_warm_up_failed_is_tried_again_by_requests(
    opened: Opened, tmp_path: Path, broken: Path
) -> None:
    """Made-up input never worked, so only requests can tell whether it works again."""
    breakable(tmp_path, "main", broken)
    broken.touch()
    async with opened() as app:
        await fail_often(app)
        with pytest.raises(CircuitOpen):
            await ask(app)
        await closed(app)
        with pytest.raises(ModelFailed):
            await ask(app)


async def test_a_fallback_answers_while_the_circuit_is_open(opened: Opened, tmp_path: Path, broken: Path) -> None:
    breakable(tmp_path, "main", broken, factor=1, more='fallback = "spare"')
    breakable(tmp_path, "spare", tmp_path / ".never", factor=10)
    async with opened() as app:
        first = await ask(app)
        assert (answer(first), dict(first.parameters)) == (3, {})
        broken.touch()
        await fail_often(app)
        for version in ("", "1"):
            instead = await ask(app, version=version)
            assert answer(instead) == 30
            assert (instead.model, instead.version) == ("main", "1")
            assert dict(instead.parameters) == {"sluice_fallback": "spare/1"}
        assert app.catalog.capable()
        assert app.catalog.version_ready("main")
        found = part(app, "main/1")
        assert found.condition is Condition.DEGRADED
        assert "'spare/1' answers instead" in found.reason
        broken.unlink()
        await closed(app)
        assert dict((await ask(app)).parameters) == {}


async def test_what_waits_when_the_circuit_opens_goes_to_the_fallback(
    opened: Opened, tmp_path: Path, broken: Path
) -> None:
    one_by_one = 'fallback = "spare"\npadding = "never"\n'
    breakable(tmp_path, "main", broken, factor=1, more=one_by_one)
    breakable(tmp_path, "spare", tmp_path / ".never", factor=10)
    async with opened() as app:
        broken.touch()
        outcomes = await asyncio.gather(*(ask(app) for _ in range(3 * FAILURES)), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, ModelFailed)]
        answers = [outcome for outcome in outcomes if isinstance(outcome, InferResponse)]
        assert len(failures) + len(answers) == 3 * FAILURES
        assert FAILURES <= len(failures) < 2 * FAILURES
        assert {answer(one) for one in answers} == {30}


async def test_the_previous_version_can_be_the_fallback(opened: Opened, tmp_path: Path, broken: Path) -> None:
    """The settings are all versions' own: the first is the fallback of the second, and has none itself."""
    more = 'fallback = "main/1"\n[versions]\npolicy = "all"\n'
    for number in ("1", "2"):
        breakable(tmp_path, "main", broken, more=more, version=number)
    source = tmp_path / "main" / "1" / "model.py"
    source.write_text(source.read_text().replace("if self.broken.exists()", "if False"))
    async with opened() as app:
        assert {row.reason for row in app.catalog.index()} == {""}
        broken.touch()
        await fail_often(app)
        instead = await ask(app)
        assert (answer(instead), instead.version) == (3, "2")
        assert dict(instead.parameters) == {"sluice_fallback": "main/1"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("tagger", "its fallback 'tagger' is of another kind: it has no input 'x'"),
        ("missing", "its fallback 'missing' cannot answer: Request for unknown model: 'missing' is not found"),
        ("spare/9", "its fallback 'spare/9' cannot answer: Request for unknown model: 'spare' version 9 is not found"),
        ("main", "its fallback 'main' is itself"),
    ],
)
async def test_a_fallback_that_cannot_answer_is_said_and_not_used(
    opened: Opened, tmp_path: Path, broken: Path, caplog: pytest.LogCaptureFixture, wanted: str, said: str
) -> None:
    breakable(tmp_path, "main", broken, more=f'fallback = "{wanted}"')
    breakable(tmp_path, "spare", tmp_path / ".never")
    graphs.tagger(tmp_path)
    async with opened() as app:
        row = next(row for row in app.catalog.index() if row.name == "main")
        assert (row.state, row.reason) == ("READY", said)
        assert f"model 'main/1': {said}" in caplog.messages
        assert part(app, "main/1") == Part("model", "main/1", Condition.DEGRADED, said)
        assert app.catalog.capable()
        broken.touch()
        await fail_often(app)
        with pytest.raises(CircuitOpen):
            await ask(app)


async def test_a_fallback_that_fails_as_well_is_not_asked(opened: Opened, tmp_path: Path, broken: Path) -> None:
    breakable(tmp_path, "main", broken, more='fallback = "spare"')
    breakable(tmp_path, "spare", broken)
    async with opened() as app:
        broken.touch()
        await fail_often(app)
        await fail_often(app, "spare")
        with pytest.raises(CircuitOpen, match="'main' version 1"):
            await ask(app)
        assert not app.catalog.capable()


async def test_a_fallback_answers_for_a_version_that_no_worker_can_hold(
    opened: Opened, tmp_path: Path, broken: Path
) -> None:
    directory = breakable(tmp_path, "main", broken, more='fallback = "spare"')
    breakable(tmp_path, "spare", tmp_path / ".never", factor=10)
    async with opened() as app:
        moved = (directory / "1").rename(tmp_path / ".moved")
        os.kill(app.pool.workers[0].pid, signal.SIGKILL)
        while app.catalog.index()[0].state == "READY":
            await app.health.changed()
        await app.pool.workers[0].back()
        instead = await ask(app)
        assert (answer(instead), instead.version) == (30, "1")
        assert dict(instead.parameters) == {"sluice_fallback": "spare/1"}
        assert app.catalog.capable()
        assert part(app, "main/1").condition is Condition.DEGRADED
        await app.catalog.unload("spare")
        with pytest.raises(NotReady):
            await ask(app)
        assert not app.catalog.capable(), "it was live, and nobody unloaded it"
        moved.rename(directory / "1")
        await app.catalog.load("main")
        assert answer(await ask(app)) == 3
        assert app.catalog.capable()


async def test_only_models_named_are_required(opened: Opened, tmp_path: Path, broken: Path) -> None:
    breakable(tmp_path, "main", broken)
    breakable(tmp_path, "spare", tmp_path / ".never")
    async with opened(load=["spare"]) as app:
        await app.catalog.load("main")
        broken.touch()
        await fail_often(app)
        assert not app.catalog.version_ready("main")
        assert app.catalog.capable()
        await app.catalog.unload("spare")
        assert not app.catalog.capable()


async def test_readiness_needs_its_share_of_the_workers(opened: Opened, tmp_path: Path) -> None:
    graphs.tagger(tmp_path)
    async with opened(workers=2) as app:
        first, second = app.pool.workers
        for worker in (first, second):
            os.kill(worker.pid, signal.SIGKILL)
        while any(worker.state is State.RUNNING for worker in (first, second)):
            await app.health.changed()
        assert not app.catalog.capable()
        assert part(app, "tagger/1") == Part("model", "tagger/1", Condition.FAILED, "held by 0 of its 2 workers")
        while app.catalog.live("tagger").lane.key not in first.serving | second.serving:
            await app.health.changed()
        assert app.catalog.capable(), "one of two is half of them"
        await asyncio.gather(first.back(), second.back())
        assert part(app, "tagger/1").condition is Condition.OK


async def test_unknown_models_stay_unknown(opened: Opened, tmp_path: Path) -> None:
    async with opened() as app:
        for call in (app.catalog.route, app.catalog.version_ready):
            with pytest.raises(SluiceError, match="unknown model"):
                call("nothing")
