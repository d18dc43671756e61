"""One live version's queue, with what is needed to batch it."""

from __future__ import annotations

import asyncio

from sluice.scheduler.entry import Entry, Limits
from sluice.scheduler.policy import Policy
from sluice.spec import ModelSpec
from sluice.telemetry.record import VersionRecord


class Lane:
    """What the scheduler knows of a version, and every entry of it that has no answer yet."""

    def __init__(self, key: str, spec: ModelSpec, limits: Limits, record: VersionRecord, policy: Policy[Entry]) -> None:
        self.key = key
        self.spec = spec
        self.limits = limits
        self.record = record
        self.policy = policy
        self.model = f"{spec.name}/{spec.version}"  # the same through all loads, unlike the key
        self.running = 0  # entries handed to workers
        self.entries: dict[int, Entry] = {}  # by arrival number
        self._empty: asyncio.Event | None = None

    def settle(self) -> None:
        """Tell `drained` that something left."""
        if self._empty is not None and not len(self.policy) and not self.running:
            self._empty.set()

    async def drained(self) -> None:
        """Until nothing waits and nothing runs."""
        while len(self.policy) or self.running:
            if self._empty is None or self._empty.is_set():
                self._empty = asyncio.Event()
            await self._empty.wait()
