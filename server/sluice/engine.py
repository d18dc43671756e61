"""The one function: what happens to a request, a line each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sluice import classification
from sluice.admission import validation
from sluice.catalog import Catalog
from sluice.errors import (
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    InternalError,
    Moved,
    Overloaded,
    QueueFull,
    ShortOfMemory,
    SluiceError,
    Stopping,
)
from sluice.loading import Version
from sluice.request import InferRequest, InferResponse
from sluice.telemetry.record import Record
from sluice.versions import Route

# Seconds before one that was held up asks again for room.
_LEAST_PAUSE = 0.01


class _Watched:
    """Which version a request turned out to be for, and how many rows; empty until known."""

    __slots__ = ("rows", "version")

    def __init__(self) -> None:
        self.version: Version | None = None
        self.rows = 0


class Reading:
    """Counts the requests that a front end cannot even read; what it can read is counted by `infer`."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SluiceError):
            self._record.refused(InferRequest("", "", ()), error)


class Engine:
    """Everything a front end needs to have a request answered."""

    def __init__(self, catalog: Catalog, record: Record) -> None:
        self._catalog = catalog
        self._record = record
        self.reading = Reading(record)
        self._accepted = 0
        self._closed = False
        self.short_of_memory = ""  # why nothing new is accepted for a while
        self._finished = asyncio.Event()

    async def infer(self, request: InferRequest) -> InferResponse:
        """One request from start to end: counted, timed, logged, whatever happens."""
        with self._watch(request) as watched:
            route = self._catalog.route(request.model, request.version)  # who answers
            try:
                return await self._answer(request, route, watched)
            except Moved:  # it waited while workers changed over to another version
                return await self._answer_after_all(request, watched)
            except CircuitOpen:  # perhaps only while it waited: then a fallback can still answer
                route = self._catalog.route(request.model, request.version)
                if route.version is watched.version:
                    raise
                return await self._answer(request, route, watched)

    async def _answer(self, request: InferRequest, route: Route, watched: _Watched) -> InferResponse:
        """The way to an answer. Every other file explains one line of this one."""
        version = watched.version = route.version
        if route.fallback:
            self._record.stood_in(request.model, route.number, route.fallback)
        work = validation.check(request, version.spec, version.rules)  # does it fit this version
        watched.rows = work.rows
        outputs = await version.submit(work)  # queue, batch, worker
        outputs = classification.apply(request, version.spec, outputs)  # scores to classes, where asked for
        return InferResponse(request.model, route.number, request.id, outputs, route.marks)

    async def _answer_after_all(self, request: InferRequest, watched: _Watched) -> InferResponse:
        """It was let in before workers changed over, so it is not refused because many others waited as well: it comes
        again when there may be room."""
        while True:
            route = self._catalog.route(request.model, request.version)
            try:
                return await self._answer(request, route, watched)
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
            if self._closed:
                raise Stopping("the server is shutting down")
            self.check_memory()
            if request.deadline is not None and request.deadline <= time.monotonic():
                raise DeadlineExceeded("Deadline Exceeded")
            yield watched
        except SluiceError as failure:
            error = failure
            raise
        except asyncio.CancelledError:
            error = Cancelled("the client went away")
            raise
        except Exception:
            error = InternalError("internal error")
            raise
        finally:
            request.timeline.answered = time.monotonic()
            if watched.version is not None:
                watched.version.record.answered(request, watched.rows, error)
                watched.version.circuit.count(error)
            elif error is not None:
                self._record.refused(request, error)
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
