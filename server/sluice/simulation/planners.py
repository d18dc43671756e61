"""Published rules that plan ahead with the cost of batches; both are given the true costs, which flatters them."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence

import numpy as np

from sluice.simulation.queues import FirstCome, batch, given_up
from sluice.simulation.requests import Request
from sluice.simulation.rule import Move, Setting
from sluice.simulation.worlds import Numbers


class _Costs:
    """Seconds of batches of 1, 2, … rows of a length."""

    def __init__(self, setting: Setting, most_rows: int) -> None:
        self._world, self._most_rows = setting.world, most_rows
        self._tables: dict[int, Numbers] = {}

    def table(self, length: int) -> Numbers:
        found = self._tables.get(length)
        if found is None:
            found = self._tables[length] = self._world.row_times(self._most_rows, length)
        return found

    def seconds(self, rows: int, length: int) -> float:
        return float(self.table(length)[min(rows, self._most_rows) - 1])


class TurboTransformers(FirstCome):
    """TurboTransformers: the queue, sorted by length, is cut into batches of least total time (Fang et al., 2021).

    Dynamic programming over the oldest `limit` requests; the batch that holds the oldest one runs.
    """

    def __init__(self, setting: Setting, most_rows: int = 64, limit: int = 192) -> None:
        super().__init__(setting)
        self._most_rows, self._limit = most_rows, limit
        self._costs = _Costs(setting, max(most_rows, 4096))

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        late = self.expired(now)
        if not self.queue:
            return given_up(late)
        oldest = self.queue[0]
        looked = [self.queue[number] for number in range(min(self._limit, len(self.queue)))]
        looked.sort(key=lambda request: request.length)
        cuts = self._cuts(looked)
        end = len(looked)
        while oldest not in looked[cuts[end] : end]:
            end = cuts[end]
        taken = looked[cuts[end] : end]
        gone = {request.sequence for request in taken}
        self.queue = deque(request for request in self.queue if request.sequence not in gone)
        return batch(taken, late)

    def _cuts(self, looked: Sequence[Request]) -> list[int]:
        """For each end, where the last batch of the cheapest cutting begins."""
        before = np.concatenate(([0], np.cumsum([request.rows for request in looked])))
        total = np.zeros(len(looked) + 1)
        cuts = [0] * (len(looked) + 1)
        for end in range(1, len(looked) + 1):
            start = int(np.searchsorted(before, before[end] - self._most_rows))
            start = min(start, end - 1)  # one request may have more rows than a batch ought to
            seconds = self._costs.table(looked[end - 1].length)[before[end] - before[start:end] - 1]
            seconds = seconds + total[start:end]
            best = int(seconds.argmin())
            total[end], cuts[end] = seconds[best], start + best
        return cuts


class Symphony(FirstCome):
    """Symphony: most urgent first, the most that meets the head's deadline, held until one more would not.

    Deferred batching with late binding (Chen et al., 2023); a head that forces a small batch while many wait is
    dropped early, as in Nexus.
    """

    MARGIN = 1.1
    WELL = 0.85  # of the best rate is reached by the smallest batch worth forming

    def __init__(self, setting: Setting, most_rows: int = 512) -> None:
        super().__init__(setting)
        self._most_rows = most_rows
        self._costs = _Costs(setting, most_rows)
        self._urgent: list[tuple[float, int, Request]] = []
        self._arrived = self._tokens = 0
        self._wanted = 0

    def arrive(self, request: Request, now: float) -> bool:
        self._arrived, self._tokens = self._arrived + 1, self._tokens + request.length
        self.put_back([request], now)
        return True

    def put_back(self, requests: Sequence[Request], now: float) -> None:
        for request in requests:
            insort(self._urgent, (request.due, request.sequence, request))

    def remove(self, request: Request) -> None:
        self._urgent = [entry for entry in self._urgent if entry[2] is not request]

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        dropped: list[Request] = []
        while True:
            while self._urgent and now + self._margined(*_shape(self._urgent[0][2])) > self._urgent[0][0]:
                dropped.append(self._urgent.pop(0)[2])
            if not self._urgent:
                return given_up(dropped)
            due = self._urgent[0][0]
            count, rows, length = self._fitting(now, due)
            if count == len(self._urgent) or rows >= self._worth_forming():
                break
            dropped.append(self._urgent.pop(0)[2])
        frontrun = due - self._margined(rows + 1, length)
        if count == len(self._urgent) and now < frontrun:
            return given_up(dropped, frontrun)
        taken = [entry[2] for entry in self._urgent[:count]]
        del self._urgent[:count]
        return batch(taken, dropped)

    def _fitting(self, now: float, due: float) -> tuple[int, int, int]:
        """How many from the head can run together by then, with their rows and length."""
        count = rows = length = 0
        for _, _, request in self._urgent:
            more, longer = rows + request.rows, max(length, request.length)
            if count and (more > self._most_rows or now + self._margined(more, longer) > due):
                break
            count, rows, length = count + 1, more, longer
        return count, rows, length

    def _margined(self, rows: int, length: int) -> float:
        return self.MARGIN * self._costs.seconds(rows, length)

    def _worth_forming(self) -> int:
        """Half of the smallest batch of mean length that is nearly as efficient as any: padding shrinks what fits."""
        if not self._wanted or self._arrived in (32, 256, 2048):
            target = self.setting.target * self.setting.workers / (self.setting.workers + 1)
            seconds = self.MARGIN * self._costs.table(max(1, self._tokens // max(1, self._arrived)))
            sizes = np.arange(1, len(seconds) + 1)
            rates = np.where(seconds <= target, sizes / seconds, 0.0)
            self._wanted = max(1, (int((rates >= self.WELL * rates.max()).argmax()) + 1) // 2)
        return self._wanted


def _shape(request: Request) -> tuple[int, int]:
    return request.rows, request.length
