"""The one function, with a real catalog and one real worker beneath it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import graphs
import numpy as np
import pytest
import pytest_asyncio

from sluice.app import App
from sluice.config.settings import Models, Settings, Workers
from sluice.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    NotReady,
    SluiceError,
    Stopping,
    UnknownModel,
)
from sluice.request import InferRequest, RequestedOutput, Tensor, decode_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "gate"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> AsyncIterator[App]:
    repository = tmp_path_factory.mktemp("models")
    graphs.tagger(repository)
    graphs.python_echo(repository, gate=gate)
    (repository / "broken" / "1").mkdir(parents=True)
    app = App(
        Settings(
            models=Models(repository=repository, python_directories=[repository]),
            workers=Workers(device="cpu", count=1),
        )
    )
    await app.pool.start()
    await app.catalog.load_all()
    yield app
    await app.close()


def ids(*rows: list[int]) -> Tensor:
    array = np.array(rows, "<i8")
    return Tensor("input_ids", "INT64", array.shape, array.tobytes())


def tagger(*rows: list[int], deadline: float | None = None, outputs: tuple[RequestedOutput, ...] = ()) -> InferRequest:
    return InferRequest("tagger", "", (ids(*rows),), outputs, id="mine", deadline=deadline)


def echo(value: int) -> InferRequest:
    return InferRequest("echo", "", (Tensor("x", "INT64", (1, 1), np.array([value], "<i8").tobytes()),))


async def test_a_request_is_answered_with_its_own_outputs(app: App) -> None:
    request = tagger([1, 2, 3], [4, 5, 6])
    response = await app.engine.infer(request)
    assert (response.model, response.version, response.id) == ("tagger", "1", "mine")
    tokens, total = response.outputs
    assert tokens.array().tolist() == [[2, 4, 6], [8, 10, 12]]
    assert total.array().tolist() == [[12], [30]]
    stamps = request.timeline
    assert stamps.received <= stamps.queued <= stamps.assembled <= stamps.started <= stamps.computed <= stamps.answered
    assert stamps.compute_seconds > 0


async def test_classes_instead_of_values(app: App) -> None:
    response = await app.engine.infer(tagger([5, 9, 7], outputs=(RequestedOutput("tokens", 2),)))
    assert decode_bytes(response.outputs[0].data, "tokens") == [b"18:1", b"14:2"]


async def test_every_end_is_counted_once_and_leaves_nothing_in_flight(app: App) -> None:
    statistics = app.catalog.statistics("tagger")[0]
    before = statistics.success.count, statistics.fail.count
    await app.engine.infer(tagger([1]))
    with pytest.raises(InvalidRequest):
        await app.engine.infer(InferRequest("tagger", "", ()))
    assert (statistics.success.count, statistics.fail.count) == (before[0] + 1, before[1] + 1)
    assert app.engine.in_flight == 0


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (InferRequest("nothing", "", ()), UnknownModel, "unknown model: 'nothing'"),
        (InferRequest("tagger", "9", ()), UnknownModel, "'tagger' version 9"),
        (InferRequest("../x", "", ()), UnknownModel, "unknown model"),
        (InferRequest("broken", "", ()), NotReady, "'broken' version 1 is not at ready state: "),
        (InferRequest("tagger", "", ()), InvalidRequest, "missing: 'input_ids'"),
    ],
)
async def test_each_line_of_the_story_can_refuse(
    app: App, request_: InferRequest, error: type[SluiceError], text: str
) -> None:
    with pytest.raises(error, match=text):
        await app.engine.infer(request_)


async def test_what_the_model_raises(app: App) -> None:
    with pytest.raises(ModelFailed, match="the number of the beast"):
        await app.engine.infer(echo(666))


async def test_a_deadline_that_has_passed_is_not_even_queued(app: App) -> None:
    request = tagger([1], deadline=time.monotonic())
    with pytest.raises(DeadlineExceeded):
        await app.engine.infer(request)
    assert request.timeline.queued == 0


async def test_a_cancelled_request_is_counted_as_such(app: App, gate: Path) -> None:
    statistics = app.catalog.statistics("tagger")[0]
    failures = statistics.fail.count
    gate.touch()
    holding = asyncio.create_task(app.engine.infer(echo(1)))
    cancelled = asyncio.create_task(app.engine.infer(tagger([1])))
    await asyncio.sleep(0)
    assert app.engine.in_flight == 2
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    gate.unlink()
    await holding
    assert statistics.fail.count == failures + 1
    assert app.engine.in_flight == 0


async def test_closing_refuses_the_new_and_waits_for_the_old(app: App, gate: Path) -> None:
    gate.touch()
    accepted = asyncio.create_task(app.engine.infer(echo(1)))
    await asyncio.sleep(0)
    app.engine.close()
    with pytest.raises(Stopping):
        await app.engine.infer(tagger([1]))
    drained = asyncio.create_task(app.engine.drained())
    await asyncio.sleep(0)
    assert not drained.done()
    gate.unlink()
    assert (await accepted).outputs[0].array().tolist() == [[1]]
    await drained
    await app.engine.drained()
