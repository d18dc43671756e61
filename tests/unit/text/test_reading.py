"""Texts through the engine: who gives up while a text is tokenized does so at once."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import texts

from sluice.app import App
from sluice.config.settings import Models, Settings, Workers
from sluice.errors import DeadlineExceeded, InvalidRequest
from sluice.text.inputs import TextInput, TextRequest
from sluice.text.tokenizing import Options

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    repository = tmp_path_factory.mktemp("models")
    texts.embedder(repository)
    app = App(Settings(models=Models(repository=repository), workers=Workers(device="cpu", count=1)))
    await app.pool.start()
    await app.catalog.load_all()
    yield app
    await app.close()


class Held:
    """A tokenizer that is at its first text until released."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def encode(self, given: Sequence[Any], options: Options) -> list[InvalidRequest]:
        self.begun.set()
        self.released.wait(60)
        return [InvalidRequest("cannot be tokenized") for _ in given]


@contextmanager
def releasing(held: Held) -> Iterator[None]:
    try:
        yield
    finally:
        held.released.set()


def embedder(app: App) -> TextInput:
    text = app.catalog.live("embedder").text
    assert text is not None
    return text


async def hold(app: App, held: Held) -> "asyncio.Task[Any]":
    """Have the tokenizing thread at work."""
    text = replace(embedder(app), tokenizer=held)  # type: ignore[arg-type]
    task = asyncio.create_task(app.engine.tokens(text, ["x"], Options(), "inputs"))
    await asyncio.to_thread(held.begun.wait, 60)
    return task


def asked(*given: str, deadline: float | None = None) -> TextRequest:
    return TextRequest("embedder", "", (), texts=given, deadline=deadline)


async def test_a_deadline_ends_it(app: App) -> None:
    held = Held()
    with releasing(held):
        first = await hold(app, held)
        request = asked("red", "green", deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await app.engine.read(request)
        assert not request.timeline.queued
        with pytest.raises(DeadlineExceeded):
            await app.engine.tokens(embedder(app), ["red"], Options(), "inputs", time.monotonic() + 0.05)
        assert app.engine.in_flight == 1
    with pytest.raises(InvalidRequest):
        await first


async def test_a_cancel_ends_it(app: App) -> None:
    held = Held()
    with releasing(held):
        first = await hold(app, held)
        task = asyncio.create_task(app.engine.read(asked("red", "green")))
        while app.engine.in_flight < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert app.engine.in_flight == 1
    with pytest.raises(InvalidRequest):
        await first
    assert len((await app.engine.read(asked("red", "green"))).parts) == 2


async def test_a_drain_waits_for_what_is_tokenized(app: App) -> None:
    held = Held()
    with releasing(held):
        first = await hold(app, held)
        drained = asyncio.create_task(app.engine.drained())
        await asyncio.sleep(0)
        assert not drained.done()
    with pytest.raises(InvalidRequest):
        await first
    await asyncio.wait_for(drained, 60)
    assert await app.engine.decoded(embedder(app), [[4, 5]], skip_special=True) == ["red green"]
    assert app.engine.in_flight == 0
