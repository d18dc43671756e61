"""All workers of this server, one for each device."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from sluice.config.settings import Health, Workers
from sluice.health import Part
from sluice.scheduler.loop import Scheduler
from sluice.telemetry.record import Record
from sluice.workers import devices
from sluice.workers.devices import Device
from sluice.workers.lives import Surroundings
from sluice.workers.process import Look, look_at
from sluice.workers.restarts import Others
from sluice.workers.worker import State, Worker

log = logging.getLogger("sluice.workers")

# Seconds between two looks at what the system says about the processes.
_LOOK_EVERY = 0.5


class Pool:
    """Starts and ends the workers, looks after them, and says which of them a version should live on."""

    def __init__(self, settings: Workers, scheduler: Scheduler, record: Record, health: Health | None = None) -> None:
        self._settings = settings
        self._surroundings = Surroundings(
            settings, scheduler, record, lambda: self.notify(), self._others, health or Health()
        )
        self.notify: Callable[[], None] = lambda: None  # called whenever a worker's state changes
        self._next = itertools.count()
        self._looking: asyncio.Task[None] | None = None
        self.workers: list[Worker] = []

    async def start(self) -> None:
        for device in devices.choose(self._settings):
            self.workers.append(Worker(device, self._surroundings))
        await asyncio.gather(*(worker.start() for worker in self.workers))
        self._looking = asyncio.get_running_loop().create_task(self._look_after())

    async def _look_after(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                pids = [pid for worker in self.workers for pid in worker.pids]
                looks = await asyncio.to_thread(_look_at_all, pids)
                now = time.monotonic()
                for worker in self.workers:
                    worker.look(now, looks)
            except Exception:  # nobody else would look after them
                log.exception("cannot look after the workers")

    def _others(self, device: Device) -> Others:
        states = [worker.state for worker in self.workers if worker.device is not device]
        running = states.count(State.RUNNING)
        return Others(running, len(states) - running)

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

    def parts(self) -> list[Part]:
        """Every worker and every device, with what is wrong with it."""
        return [part for worker in self.workers for part in worker.parts()]

    def trim(self) -> None:
        """Have every worker give back memory that it keeps only to be quick."""
        for worker in self.workers:
            worker.trim()

    def kill(self) -> None:
        """End every process at once."""
        for worker in self.workers:
            worker.kill()

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.gather(*(worker.close() for worker in self.workers))


def _look_at_all(pids: Sequence[int]) -> dict[int, Look]:
    return {pid: look for pid in pids if (look := look_at(pid)) is not None}
