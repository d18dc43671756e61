"""Where a version's requests wait while every worker that could compute them changes over to another version.

Nobody is refused for that: who waited is routed again once it is open, to whichever version answers then. What opens it
is the end of the change, well or not.
"""

from __future__ import annotations

import asyncio

from sluice.errors import DeadlineExceeded, Moved, QueueFull, QueueTimeout


class Gate:
    """One version's."""

    def __init__(self, most: int) -> None:
        self._most = most  # who may wait
        self._waiting = 0
        self._opened: asyncio.Event | None = None

    @property
    def shut(self) -> bool:
        return self._opened is not None

    @property
    def waiting(self) -> int:
        return self._waiting

    def close(self) -> None:
        """From now on nobody passes."""
        if self._opened is None:
            self._opened = asyncio.Event()

    def open(self) -> None:
        """Let everybody go on who waits, and stop nobody any more."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def wait(self, name: str, deadline: float | None, patience: float | None) -> None:
        """Until it is opened. Raises Moved then, and what a queue would raise meanwhile."""
        opened = self._opened
        if opened is None:
            return
        if self._waiting >= self._most:
            raise QueueFull(f"Exceeds maximum queue size: {self._most} requests wait for '{name}'")
        now = asyncio.get_running_loop().time()
        ends = [(deadline, True)] if deadline is not None else []
        ends += [(now + patience, False)] if patience else []
        until, for_good = min(ends, default=(None, True))
        self._waiting += 1
        try:
            async with asyncio.timeout_at(until):
                await opened.wait()
        except TimeoutError as error:
            raise (
                DeadlineExceeded("Deadline Exceeded") if for_good else QueueTimeout("Request timeout expired")
            ) from error
        finally:
            self._waiting -= 1
        raise Moved(f"'{name}' has changed over to another version")
