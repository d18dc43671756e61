"""Waits for clients that may stay silent for ever; a server that stops ends these waits instead of sitting them out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sluice.errors import Stopping


class Streams:
    """The open streams of one server. Ended by `close()`, or each by its own end or its caller's cancellation."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def open(self) -> bool:
        return bool(self._waiting)

    async def wait(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` to its end; raises Stopping if the server stops first."""
        if self._closed:
            work.close()
            raise Stopping("the server is stopping")
        task = asyncio.create_task(work)
        self._waiting.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if _cancelled() or not task.cancelled():
                raise
            raise Stopping("the server is stopping") from None
        finally:
            self._waiting.discard(task)

    def close(self) -> None:
        """Ends every wait, and any that would begin later."""
        self._closed = True
        for task in self._waiting:
            task.cancel()


def _cancelled() -> bool:
    """Whether it is the caller that was cancelled, not what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
