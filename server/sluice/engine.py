"""The one function: what happens to a request, a line each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TypeVar

from sluice import classification
from sluice.admission import validation
from sluice.catalog import Catalog
from sluice.errors import (
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelFailed,
    Moved,
    Overloaded,
    Quarantined,
    QueueFull,
    ShortOfMemory,
    SluiceError,
    Stopping,
    WorkerLost,
)
from sluice.loading import Version
from sluice.request import InferRequest, InferResponse, Tensor
from sluice.reuse.answers import How, Reuse, marks
from sluice.scheduler.entry import Work
from sluice.telemetry.record import Record
from sluice.text.inputs import TextInput, TextRequest, TextResponse
from sluice.text.joining import Breath, Turnstile, Wave, joined, together
from sluice.text.tokenizing import Options, Text, Tokenizing
from sluice.text.tokens import Encoded
from sluice.versions import Route

_T = TypeVar("_T")
_R = TypeVar("_R", bound=InferRequest)

# Seconds before one that was held up asks again for room.
_LEAST_PAUSE = 0.01


class _Watched:
    """Which version a request turned out to be for, and how many rows; empty until known."""

    __slots__ = ("reused", "rows", "version")

    def __init__(self) -> None:
        self.version: Version | None = None
        self.rows = 0
        self.reused: list[How] = []


class Reading:
    """Counts the requests that a front end cannot even read; what it can read is counted by `infer`."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SluiceError):
            self._record.refused(InferRequest("", "", ()), error)


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[None]:
    """Give up what is done in the block when nobody wants it any more."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise DeadlineExceeded("Deadline Exceeded") from None


class Engine:
    """Everything a front end needs to have a request answered."""

    def __init__(self, catalog: Catalog, record: Record, tokenizing: Tokenizing, reuse: Reuse | None = None) -> None:
        self._catalog = catalog
        self._record = record
        self._tokenizing = tokenizing
        self._turnstile = Turnstile()
        self._reuse = reuse
        self.reading = Reading(record)
        self._accepted = 0
        self._closed = False
        self.short_of_memory = ""  # why nothing new is accepted for a while
        self._finished = asyncio.Event()

    async def infer(self, request: InferRequest) -> InferResponse:
        """One request from start to end: counted, timed, logged, whatever happens."""
        with self._watch(request) as watched:
            return await self._routed(request, watched, self._answer)

    async def read(self, request: TextRequest) -> TextResponse:
        """Texts from start to end: each becomes an entry of its own, and they are answered together."""
        with self._watch(request) as watched:
            response = await self._routed(request, watched, self._answer_texts)
            await self._turnstile.through()  # one batch answers many, and what a front end makes of each takes a while
            return response

    async def _routed(
        self, request: _R, watched: _Watched, answer: Callable[[_R, Route, _Watched], Awaitable[_T]]
    ) -> _T:  # fmt: skip
        route = self._catalog.route(request.model, request.version)  # who answers
        try:
            return await answer(request, self._seen(request, route, watched), watched)
        except Moved:  # it waited while workers changed over to another version
            return await self._answer_after_all(request, watched, answer)
        except CircuitOpen:  # perhaps only while it waited: then a fallback can still answer
            route = self._catalog.route(request.model, request.version)
            if route.version is watched.version:
                raise
            return await answer(request, self._seen(request, route, watched), watched)

    def _seen(self, request: InferRequest, route: Route, watched: _Watched) -> Route:
        watched.version = route.version
        watched.reused.clear()
        if route.fallback:
            self._record.stood_in(request.model, route.number, route.fallback)
        return route

    async def _answer(self, request: InferRequest, route: Route, watched: _Watched) -> InferResponse:
        """The way to an answer. Every other file explains one line of this one."""
        version = route.version
        if version.text is not None and version.text.is_meant(request):
            texts = await self._answer_texts(version.text.request(request), route, watched)
            outputs = await joined(texts.parts, version.spec)  # the rows of all texts
        else:
            work = validation.check(request, version.spec, version.rules)  # does it fit this version
            watched.rows = work.rows
            outputs = await self._compute(version, watched, work)  # queue, batch, worker
        outputs = classification.apply(request, version.spec, outputs)  # scores to classes, where asked for
        return InferResponse(request.model, route.number, request.id, outputs, route.marks | marks(watched.reused))

    async def _answer_texts(self, request: TextRequest, route: Route, watched: _Watched) -> TextResponse:
        version = route.version
        text = version.text
        if text is None:
            why = "it has no tokenizer.json, or other inputs than tokens"
            raise InvalidRequest(f"'{request.model}' version {route.number} takes no texts: {why}")
        watched.rows = len(request.texts)
        async with _until(request.deadline):
            encoded = await text.encode(self._tokenizing, request)  # in threads, with those of other requests
        breath, works = Breath(), []
        for index, one in enumerate(encoded):
            for each in text.each(request, (one,)):
                works.append((index, text.patient(request, validation.check(each, version.spec, version.rules))))
                await breath.take()
        timelines, tokens = [work.request.timeline for _, work in works], sum(work.length for _, work in works)
        compute = partial(self._compute_text, version, watched, request.at)
        parts = await Wave(compute, request.deadline).run(works, breath)
        together(timelines, request.timeline)
        return TextResponse(
            request.model,
            route.number,
            tuple(parts),
            request.texts,
            tuple(encoded),
            text,
            tokens,
            route.marks | marks(watched.reused),
        )

    async def _compute(self, version: Version, watched: _Watched, work: Work) -> tuple[Tensor, ...]:
        reuse = self._reuse
        if reuse is None:
            return await version.submit(work)
        outputs, how = await reuse.outputs(version.identity, work, version.submit)
        watched.reused.append(how)
        version.record.reused(how.value, time.monotonic() - work.request.timeline.received)
        return outputs

    async def _compute_text(
        self, version: Version, watched: _Watched, at: str, numbered: tuple[int, Work]
    ) -> tuple[Tensor, ...]:  # fmt: skip
        index, work = numbered
        try:
            return await self._compute(version, watched, work)
        except (ModelFailed, WorkerLost, Quarantined) as error:  # the text may be why
            raise error.about(f"{at}[{index}]") from error

    async def tokens(
        self, text: TextInput, texts: Sequence[Text], options: Options, at: str, deadline: float | None = None
    ) -> list[Encoded]:  # fmt: skip
        """Texts as tokens only; nothing is computed."""
        async with self._accepted_until(deadline):
            return await text.tokens(self._tokenizing, texts, options, at)

    async def decoded(
        self, text: TextInput, lists: Sequence[Sequence[int]], skip_special: bool, deadline: float | None = None
    ) -> list[str]:  # fmt: skip
        """Tokens as texts again."""
        decode = partial(text.tokenizer.decode, skip_special=skip_special)
        async with self._accepted_until(deadline):
            return await asyncio.to_thread(lambda: [decode(ids) for ids in lists])

    @asynccontextmanager
    async def _accepted_until(self, deadline: float | None) -> AsyncIterator[None]:
        """What no version answers, but a drain waits for."""
        self._accepted += 1
        try:
            self._let_in(deadline)
            async with _until(deadline):
                yield
        finally:
            self._leave()

    async def _answer_after_all(
        self, request: _R, watched: _Watched, answer: Callable[[_R, Route, _Watched], Awaitable[_T]]
    ) -> _T:  # fmt: skip
        """It was let in before workers changed over, so it is not refused because many others waited as well: it comes
        again when there may be room."""
        while True:
            route = self._catalog.route(request.model, request.version)
            try:
                return await answer(request, self._seen(request, route, watched), watched)
            except Moved:
                continue
            except (Overloaded, QueueFull) as error:
                pause = max(_LEAST_PAUSE, error.retry_after or 0.0)
                if request.deadline is not None and request.deadline <= time.monotonic() + pause:
                    raise
                await asyncio.sleep(pause)

    @contextmanager
    def _watch(self, request: InferRequest) -> Iterator[_Watched]:
        watched = _Watched()
        error: SluiceError | None = None
        self._accepted += 1
        try:
            self._let_in(request.deadline)
            yield watched
        except SluiceError as failure:
            error = failure
            raise
        except asyncio.CancelledError:
            error = Cancelled("the client went away")
            raise
        except BaseException:
            error = InternalError("internal error")
            raise
        finally:
            request.timeline.answered = time.monotonic()
            if watched.version is not None:
                watched.version.record.answered(request, watched.rows, error)
                watched.version.circuit.count(error)
            elif error is not None:
                self._record.refused(request, error)
            self._leave()

    def _let_in(self, deadline: float | None) -> None:
        if self._closed:
            raise Stopping("the server is shutting down")
        self.check_memory()
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceeded("Deadline Exceeded")

    def _leave(self) -> None:
        self._accepted -= 1
        if not self._accepted:
            self._finished.set()

    def check_memory(self) -> None:
        """Raise while nothing more is let in. Who is about to read something large may ask first."""
        if self.short_of_memory:
            raise ShortOfMemory(self.short_of_memory, retry_after=1.0)

    @property
    def in_flight(self) -> int:
        return self._accepted

    def close(self) -> None:
        """Accept nothing more."""
        self._closed = True

    async def drained(self) -> None:
        """Until everything accepted is answered."""
        while self._accepted:
            self._finished.clear()
            await self._finished.wait()
