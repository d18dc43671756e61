"""Workers lent to whoever wants one to itself, outside of any queue: warm-up, profiling, a tiny batch in doubt. Turns
alternate with live batches, so that neither keeps the other waiting for long."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class Turns:
    """Who waits for which worker, and who has it."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._lent: set[Hashable] = set()
        self._had_one: set[Hashable] = set()  # a live batch goes first next time

    def ask(self, worker: Hashable) -> asyncio.Future[None]:
        """Done when it is the asker's turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(worker, deque()).append(turn)
        return turn

    def end(self, worker: Hashable, turn: asyncio.Future[None]) -> None:
        """The asker is done with it, or went away before it was its turn."""
        if turn.done() and not turn.cancelled():
            self._lent.discard(worker)
            self._had_one.add(worker)

    def lent(self, worker: Hashable) -> bool:
        return worker in self._lent

    def wanted(self, worker: Hashable) -> bool:
        return bool(self._waiting.get(worker))

    def batch_first(self, worker: Hashable) -> bool:
        """Whether a live batch's time has come, after a turn; asked once for each."""
        first = worker in self._had_one
        self._had_one.discard(worker)
        return first

    def give(self, worker: Hashable) -> bool:
        """Lend it to who waits longest, if anybody does still."""
        waiting = self._waiting.get(worker)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                self._lent.add(worker)
                turn.set_result(None)
                return True
        return False
