"""All workers of this server, one for each device."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence

from sluice.config.settings import Workers
from sluice.scheduler.loop import Scheduler
from sluice.telemetry.record import Record
from sluice.workers import devices
from sluice.workers.worker import State, Worker


class Pool:
    """Starts and ends the workers and says which of them a version should live on."""

    def __init__(self, settings: Workers, scheduler: Scheduler, record: Record) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._record = record
        self.notify: Callable[[], None] = lambda: None  # called whenever a worker's state changes
        self._next = itertools.count()
        self.workers: list[Worker] = []

    async def start(self) -> None:
        for device in devices.choose(self._settings):
            worker = Worker(device, self._settings, self._scheduler, self._record, lambda: self.notify())
            self.workers.append(worker)
        await asyncio.gather(*(worker.start() for worker in self.workers))

    @property
    def kind(self) -> str:
        """What the workers compute on."""
        return self.workers[0].device.kind

    def choose(self, count: int, indexes: Sequence[int]) -> list[Worker]:
        """`count` workers (0 = all) on the given devices (none = any), taken in turn over the versions."""
        allowed = [worker for worker in self.workers if not indexes or worker.device.index in indexes]
        if not count or count >= len(allowed):
            return allowed
        start = next(self._next) * count
        return [allowed[(start + number) % len(allowed)] for number in range(count)]

    def holding(self, key: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.holds(key)]

    def states(self) -> dict[str, int]:
        """How many workers are in each state."""
        counted = Counter(worker.state.value for worker in self.workers)
        return {state.value: counted.get(state.value, 0) for state in State}

    def kill(self) -> None:
        """End every process at once."""
        for worker in self.workers:
            worker.kill()

    async def close(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self.workers))
