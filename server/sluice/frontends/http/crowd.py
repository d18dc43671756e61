"""Everyone on one server's connections: how many they may be, how much is kept for them, and who makes room.

Two things are short when many clients want to do harm: places, and memory for what they neither finish sending nor
read. Neither is handed out for ever. A newcomer without a place takes that of the connection that has been silent for
longest; when too much is kept, whoever has let us keep something for longest gives way. Good clients are silent for a
moment only and their debts are paid within moments, so it is the others who go.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from sluice.telemetry.complaints import Complaint

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluice.config.settings import Server
    from sluice.frontends.http.exchange import Application
    from sluice.frontends.http.protocol import Connection

# What may be kept for all clients of one server, in messages of the largest size: unfinished bodies and unread answers.
MOST_KEPT = 8

# What one connection counts for at most. Else an answer larger than all that may be kept would cost every client that
# reads slowly its connection, its own included.
_ONE_COUNTS = MOST_KEPT // 2

# Connections that are asked to make room for a newcomer before it is refused.
_ASKED = 8

_log = logging.getLogger(__name__)


class Connections:
    """What all connections of one server share: the application, the limits, and who is still here."""

    def __init__(self, application: Application, limits: Server, stopping: Callable[[], bool]) -> None:
        self.application = application
        self.limits = limits
        self.open: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.closing = False
        self.changed = asyncio.Event()  # a connection closed, or became idle while closing
        self.kept = 0  # bytes
        self._stopping = stopping
        self._most_kept = MOST_KEPT * limits.max_message_bytes
        self._most_of_one = _ONE_COUNTS * limits.max_message_bytes
        self._evicting = Complaint(_log, logging.INFO)
        self._silent: OrderedDict[Connection, None] = OrderedDict()  # they owe us a request, the longest silent first
        self._debtors: OrderedDict[Connection, int] = OrderedDict()  # bytes kept for them, the oldest debt first

    def draining(self) -> bool:
        """Answers should send clients elsewhere."""
        return self.closing or self._stopping()

    def admit(self, newcomer: Connection) -> bool:
        """Take a connection in, if need be in the place of a silent one; False: there is no place."""
        most = self.limits.max_connections
        while len(self.open) >= most and self._make_room():
            pass
        admitted = len(self.open) < most
        self.open.add(newcomer)
        self._silent[newcomer] = None
        return admitted

    def leave(self, connection: Connection) -> None:
        """It is closed, or will be before anything else happens on it."""
        self.open.discard(connection)
        self._silent.pop(connection, None)
        self.keep(connection, 0)
        self.changed.set()

    def heard(self, connection: Connection) -> None:
        """It has sent a whole head: the next move is ours."""
        self._silent.pop(connection, None)

    def waits_for(self, connection: Connection) -> None:
        """From now on it owes us a request, or the rest of its head."""
        self._silent[connection] = None
        self._silent.move_to_end(connection)

    def goes_first(self, connection: Connection) -> None:
        """It has nothing more to expect, and stays only for its own sake."""
        self._silent[connection] = None
        self._silent.move_to_end(connection, last=False)

    def keep(self, connection: Connection, size: int) -> None:
        """So many bytes are kept for a connection that has to send or to read before they can go."""
        size = min(size, self._most_of_one)
        before = self._debtors.get(connection, 0)
        self.kept += size - before
        if size:
            self._debtors[connection] = size
        elif before:
            del self._debtors[connection]
        while self.kept > self._most_kept:
            debtor, debt = self._debtors.popitem(last=False)
            self.kept -= debt
            self._evicting.raised("too much is kept for HTTP clients that send or read slowly; the slowest give way")
            debtor.give_up()
        if self.kept <= self._most_kept // 2:
            self._evicting.over("no more than usual is kept for HTTP clients that send or read slowly")

    def _make_room(self) -> bool:
        for connection in list(islice(self._silent, _ASKED)):
            if connection.may_go():
                self.leave(connection)
                connection.abort()
                return True
        return False
