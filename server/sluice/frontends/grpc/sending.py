"""Large replies on their way, of which only so much is held at once.

HTTP/2 leaves it to the reader how much may be sent. A client that keeps its window shut leaves its replies here, and
grpc offers no way to end such a call: not even its cancellation reaches the wire before the reply has left. So what
is large is counted, and what comes on top of too much is an error instead of a reply, which takes no room. Then whoever
has let a reply lie here for longest, and for too long, loses its connection: one client must not take the room of all
others for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluice.errors import ShortOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What may be held for all clients, in messages of the largest size.
MOST_HELD = 8

# Replies up to this size are bounded by their number.
SMALL = 16 << 10

_log = logging.getLogger(__name__)


class Sending:
    """Counts the bytes of large replies from when they are ready until grpc has handed them to the network."""

    def __init__(
        self,
        largest: int,
        patience: float,
        cut: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.held = 0
        self._most = MOST_HELD * largest
        self._patience = patience  # seconds a client may take for a reply while others need the room
        self._cut = cut  # shuts a peer's connection; called in a thread
        self._clock = clock
        self._replies: OrderedDict[object, _Reply] = OrderedDict()  # the oldest first
        self._cutting: dict[str, asyncio.Future[None]] = {}

    def last(self, size: int, peer: Callable[[], str]) -> None:
        """The current task, which runs one call, ends with sending this many bytes."""
        if size <= SMALL:
            return
        token = self._take(size, peer())
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._give_back(token))

    @contextmanager
    def part(self, size: int, peer: Callable[[], str]) -> Iterator[None]:
        """While in the block, this many bytes wait to be sent, or are."""
        if size <= SMALL:
            yield
            return
        token = self._take(size, peer())
        try:
            yield
        finally:
            self._give_back(token)

    def _take(self, size: int, peer: str) -> object:
        if self.held + size > self._most and self.held:  # one reply alone may be as large as it likes
            self._make_room()
            raise ShortOfMemory("too much is held for clients that do not read their replies", retry_after=1.0)
        token = object()
        self._replies[token] = _Reply(self._clock(), size, peer)
        self.held += size
        return token

    def _give_back(self, token: object) -> None:
        self.held -= self._replies.pop(token).size

    def _make_room(self) -> None:
        """Have the peer with the oldest reply cut off, if that is too old. The room is there once grpc has noticed."""
        oldest = next(iter(self._replies.values()))
        if self._clock() - oldest.since < self._patience or oldest.peer in self._cutting:
            return
        _log.info("%s does not read its replies, and others need the room: its connection is cut", oldest.peer)
        cutting = asyncio.get_running_loop().run_in_executor(None, self._cut, oldest.peer)
        self._cutting[oldest.peer] = cutting
        cutting.add_done_callback(lambda _: self._cutting.pop(oldest.peer))


@dataclass(frozen=True, slots=True)
class _Reply:
    since: float
    size: int
    peer: str
