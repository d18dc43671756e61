"""Downloads objects of a store in parts, several of them and of each at a time, and goes on where it was broken off.

What comes is of one state of the object: its validator is the same before the first part and after the last, and what
was begun is continued only if it still is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sluice.errors import ModelError, system_reason
from sluice.store import segments
from sluice.store.download import Downloaded, Rules
from sluice.store.fetching import Bring
from sluice.store.objects import Address, Object, Store
from sluice.store.package import Progress, silent
from sluice.store.segments import Changed, Failed, Segment, State, Stopped

_MOST = 2000  # parts of an object, which are noted one by one
_Answer = TypeVar("_Answer")


class Parts:
    """Reads one store over a bounded number of connections, from any number of threads."""

    def __init__(self, store: Store, rules: Rules | None = None, progress: Progress = silent) -> None:
        self._store = store
        self._rules = rules or Rules()
        self._progress = progress
        self._pool = ThreadPoolExecutor(self._rules.connections, thread_name_prefix="sluice-parts")
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._total = 0
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self._pool.shutdown()

    def stop(self) -> None:
        """End everything that is under way, also what waits."""
        self._stopped.set()
        self._store.stop()

    def expect(self, size: int) -> None:
        """So many bytes more are part of the whole that the progress is of."""
        with self._lock:
            self._total += size

    def have(self, size: int) -> None:
        """So many of them are there."""
        with self._lock:
            self._done += size
            self._progress("download", self._done, self._total)

    def look(self, address: Address) -> Object | None:
        return self._patiently(address, lambda: self._store.look(address.path))

    def below(self, address: Address) -> dict[str, Object]:
        return self._patiently(address, lambda: self._store.below(address.path))

    def bringing(self, address: Address, known: Object | None = None) -> Bring:
        """How the cache gets the object, unless it is in the state that the cache has; `known` if it was just found."""

        def bring(place: Path, validator: str) -> Downloaded | None:
            found = known or self.look(address)
            if found is None:
                raise ModelError(f"{address}: is a directory, not a file")
            if validator and found.validator == validator:
                return None
            self.expect(found.size)
            return self.download(address, found, place)

        return bring

    def download(self, address: Address, found: Object, place: Path) -> Downloaded:
        """The object, which was just found, in the directory `place`."""
        for _ in range(segments.STARTS):
            state = self._state(found, place)
            with suppress(Changed):
                self._whole(address, state, place)
            now = self.look(address)
            if now is None:
                raise ModelError(f"{address}: it is a directory now")
            if now == found and all(segment.is_done for segment in state.segments):
                return Downloaded(place / segments.DATA, found.validator)
            self.expect(now.size - found.size)
            self.have(-sum(segment.done for segment in state.segments))
            found = now
        raise ModelError(f"{address}: it changes while it is downloaded; try again later")

    def _state(self, found: Object, place: Path) -> State:
        """Of the download that was begun, or of a new one."""
        state = segments.load(place)
        if state.validator != found.validator or state.size != found.size:
            part = max(self._rules.part, -(-found.size // _MOST))
            starts = range(0, found.size, part)
            state = State(found.validator, [Segment(start, min(start + part, found.size)) for start in starts])
            segments.begin(place, state)
        self.have(sum(segment.done for segment in state.segments))
        return state

    def _whole(self, address: Address, state: State, place: Path) -> None:
        saving = threading.Lock()
        with (place / segments.DATA).open("r+b") as file:

            def bring(segment: Segment) -> None:
                self._bring(address, segment, file.fileno())
                os.fdatasync(file.fileno())
                with saving:
                    segments.save(place, state)

            tasks = [self._pool.submit(bring, each) for each in state.segments if not each.is_done]
            try:
                settle(tasks)
            except Changed:
                raise
            except BaseException:
                self.stop()
                raise
            finally:
                for task in tasks:
                    task.cancel()
                wait(tasks)  # the file is theirs until then

    def _bring(self, address: Address, segment: Segment, file: int) -> None:
        content = self._patiently(address, lambda: self._store.read(address.path, segment.start, segment.end))
        try:
            segments.write(file, content, segment.start)
        except OSError as error:
            raise ModelError(f"{address}: cannot be written to the cache: {system_reason(error)}") from error
        segment.done = len(content)
        self.have(len(content))

    def _patiently(self, address: Address, ask: Callable[[], _Answer]) -> _Answer:
        for failures in range(1, self._rules.attempts + 1):
            try:
                return ask()
            except Failed as error:
                if self._stopped.is_set():
                    raise Stopped from error
                if failures == self._rules.attempts:
                    why = f"{error.strerror}; gave up after {failures} attempts"
                    raise ModelError(f"{address}: {why}") from error
            self._stopped.wait(segments.pause(failures, self._rules.pause, 0.0))
        raise AssertionError("the last attempt returns or raises")


def settle(tasks: Collection[Future[Any]]) -> None:
    """Wait until all are done or one failed, and raise why it did: not what it ended, which may be heard of first."""
    done = wait(tasks, return_when=FIRST_EXCEPTION).done
    if any(isinstance(task.exception(), Stopped) for task in done):
        done = wait(tasks).done
    errors = [error for task in done if (error := task.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
