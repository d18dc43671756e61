"""Large replies on their way, of which only so much is held at once.

HTTP/2 leaves it to the reader how much may be sent. A client that keeps its window shut leaves its replies here, and
grpc offers no way to end such a call: not even its cancellation reaches the wire before the reply has left. So what
is large is counted, and what comes on top of too much is an error instead of a reply, which takes no room.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sluice.errors import ShortOfMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

# What may be held for all clients, in messages of the largest size.
MOST_HELD = 8

# Replies up to this size are bounded by their number.
SMALL = 16 << 10


class Sending:
    """Counts the bytes of large replies from when they are ready until grpc has handed them to the network."""

    def __init__(self, largest: int) -> None:
        self.held = 0
        self._most = MOST_HELD * largest

    def last(self, size: int) -> None:
        """The current task, which runs one call, ends with sending this many bytes."""
        if size <= SMALL:
            return
        self._take(size)
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._give_back(size))

    @contextmanager
    def part(self, size: int) -> Iterator[None]:
        """While in the block, this many bytes wait to be sent, or are."""
        if size <= SMALL:
            yield
            return
        self._take(size)
        try:
            yield
        finally:
            self._give_back(size)

    def _take(self, size: int) -> None:
        if self.held + size > self._most and self.held:  # one reply alone may be as large as it likes
            raise ShortOfMemory("too much is held for clients that do not read their replies", retry_after=1.0)
        self.held += size

    def _give_back(self, size: int) -> None:
        self.held -= size
