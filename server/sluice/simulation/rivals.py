"""Published rules that look at the queue's head alone, written anew from their documents.

None of them is anybody's code; what each does is said where it is defined, with the defaults of its project.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

import numpy as np

from sluice.simulation.queues import FirstCome, batch, given_up
from sluice.simulation.requests import Request
from sluice.simulation.rule import Move, Setting


class Unbatched(FirstCome):
    """One request after another."""

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        return batch(self.take(1)) if self.queue else None


class Triton(FirstCome):
    """Triton's dynamic batcher: first come, first served, up to a batch size, held for a queue delay.

    With the queue policy REJECT and the deadline as its time-out, without which it collapses in any overload.
    """

    def __init__(self, setting: Setting, most_rows: int = 32, delay: float = 0.0) -> None:
        super().__init__(setting)
        self._most_rows = most_rows
        self._delay = delay  # as a share of the target

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        late = self.expired(now)
        if not self.queue:
            return given_up(late)
        ready = self.queue[0].arrival + self._delay * self.setting.target
        if now < ready and self.rows() < self._most_rows:
            return given_up(late, ready)
        return batch(self.take(self._most_rows), late)


class Buckets(FirstCome):
    """Fixed length buckets, each first come, first served, with a batch size by tokens and a time-out."""

    def __init__(self, setting: Setting, tokens: int = 4096, delay: float = 0.05) -> None:
        super().__init__(setting)
        self._edges = [16 << step for step in range(16)]  # 16, 32, 64, …
        self._waiting: list[deque[Request]] = [deque() for _ in self._edges]
        self._tokens = tokens
        self._delay = delay

    def arrive(self, request: Request, now: float) -> bool:
        self._waiting[self._bucket(request)].append(request)
        return True

    def _bucket(self, request: Request) -> int:
        return bisect_left(self._edges, request.length)

    def remove(self, request: Request) -> None:
        self.queue = self._waiting[self._bucket(request)]
        super().remove(request)

    def put_back(self, requests: Sequence[Request], now: float) -> None:
        for request in reversed(requests):
            self._waiting[self._bucket(request)].appendleft(request)

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        late: list[Request] = []
        oldest, chosen, wake = math.inf, -1, math.inf
        for number, queue in enumerate(self._waiting):
            self.queue = queue
            late += self.expired(now)
            if not self.queue:
                continue
            arrival = self.queue[0].arrival
            ready = arrival + self._delay * self.setting.target
            if now >= ready or self.rows() >= self._most_rows(number):
                if arrival < oldest:
                    oldest, chosen = arrival, number
            else:
                wake = min(wake, ready)
        if chosen < 0:
            return given_up(late, wake if wake < math.inf else None)
        self.queue = self._waiting[chosen]
        return batch(self.take(self._most_rows(chosen)), late, self._edges[chosen])

    def _most_rows(self, number: int) -> int:
        return max(1, self._tokens // self._edges[number])


class TextEmbeddings(FirstCome):
    """Text Embeddings Inference: first come, first served up to a budget of padded tokens; 512 requests at once."""

    MOST_REQUESTS = 512  # --max-concurrent-requests

    def __init__(self, setting: Setting, budget: int = 16384, expire: bool = False) -> None:
        super().__init__(setting)
        self._budget = budget
        self._expire = expire  # clients that go away at their deadline
        self._inside = 0

    def arrive(self, request: Request, now: float) -> bool:
        if self._inside >= self.MOST_REQUESTS:
            return False
        self._inside += 1
        return super().arrive(request, now)

    def remove(self, request: Request) -> None:
        before = len(self.queue)
        super().remove(request)
        self._inside -= before - len(self.queue)

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        late = self.expired(now) if self._expire else []
        self._inside -= len(late)
        if not self.queue:
            return given_up(late)
        longest = rows = 0
        taken: list[Request] = []
        while self.queue:
            request = self.queue[0]
            longest, rows = max(longest, request.length), rows + request.rows
            if taken and longest * rows > self._budget:
                break
            taken.append(self.queue.popleft())
        return batch(taken, late)

    def finished(self, worker: int, move: Move, seconds: float, now: float) -> None:
        self._inside -= len(move.requests)


class Clipper(FirstCome):
    """Clipper: the largest batch grows by one while batches stay within a latency, and shrinks by a tenth beyond.

    Additive increase, multiplicative decrease (Crankshaw et al., 2017), here towards half of the target.
    """

    SHARE = 0.5
    BACK_OFF = 0.9

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._most = 1.0

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        return batch(self.take(int(self._most))) if self.queue else None

    def finished(self, worker: int, move: Move, seconds: float, now: float) -> None:
        if seconds > self.SHARE * self.setting.target:
            self._most = max(1.0, self._most * self.BACK_OFF)
        elif move.rows >= int(self._most):
            self._most += 1


class MLServer(FirstCome):
    """MLServer: a batch closes at its size or its time after its first request, whether or not a worker is free."""

    def __init__(self, setting: Setting, most_rows: int = 32, most_time: float = 0.005) -> None:
        super().__init__(setting)
        self._most_rows, self._most_time = most_rows, most_time
        self._closed: deque[list[Request]] = deque()
        self._opened = 0.0

    def arrive(self, request: Request, now: float) -> bool:
        self._close(now)
        if not self.queue:
            self._opened = now
        self.queue.append(request)
        self._close(now)
        return True

    def remove(self, request: Request) -> None:
        super().remove(request)
        for closed in self._closed:
            if request in closed:
                closed.remove(request)

    def put_back(self, requests: Sequence[Request], now: float) -> None:
        if requests:
            self._closed.appendleft(list(requests))

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        self._close(now)
        while self._closed:
            taken = self._closed.popleft()
            if taken:
                return batch(taken)
        return given_up((), self._opened + self._most_time if self.queue else None)

    def _close(self, now: float) -> None:
        # two times that are equal on paper differ in their last bits
        if self.queue and (self.rows() >= self._most_rows or now >= self._opened + self._most_time - 1e-9):
            self._closed.append(list(self.queue))
            self.queue.clear()


class Bento(FirstCome):
    """BentoML: seconds = a · rows + b, fitted now and then; the newest first, and the oldest dropped when too late.

    Holds a batch for company (the "cork") while what it costs all that wait is less than the usual wait.
    """

    MEMORY = 50  # samples
    RENEWAL = 5.0  # seconds
    TICK = 0.001

    def __init__(self, setting: Setting, most_rows: int = 100) -> None:
        super().__init__(setting)
        self._most_rows = most_rows
        self._slope, self._base = min(2.0, setting.target * 2 / 30), min(1.0, setting.target / 30)
        self._wait = 0.01
        self._samples: deque[tuple[int, float, float]] = deque(maxlen=self.MEMORY)
        self._fitted = -math.inf
        self._waits: dict[int, float] = {}
        self._dropped: list[Request] = []

    def arrive(self, request: Request, now: float) -> bool:
        self.queue.append(request)
        self._trim(now)
        return True

    def _trim(self, now: float) -> None:
        queue = self.queue
        while (
            len(queue) > 1
            and now - queue[0].arrival + self._slope * len(queue) + self._base >= queue[0].due - queue[0].arrival
        ):
            self._dropped.append(queue.popleft())

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        self._trim(now)
        queue = self.queue
        if len(queue) == 1 and now >= queue[0].due:
            self._dropped.append(queue.popleft())
        dropped, self._dropped = self._dropped, []
        if not queue:
            return given_up(dropped)
        count, newest = len(queue), now - queue[-1].arrival
        if count < self._most_rows and count * (newest + self.TICK + self._slope) <= self._wait * 0.95:
            return given_up(dropped, now + self.TICK)
        taken = [queue.pop()]
        while queue and sum([request.rows for request in taken]) + queue[-1].rows <= self._most_rows:
            taken.append(queue.pop())
        self._waits[worker] = sum([now - request.arrival for request in taken]) / len(taken)
        return batch(taken, dropped)

    def finished(self, worker: int, move: Move, seconds: float, now: float) -> None:
        self._samples.append((move.rows, seconds, self._waits.get(worker, 0.0)))
        if now - self._fitted > self.RENEWAL or len(self._samples) in (3, 4, 5, 10, 20):
            self._fitted = now
            rows = np.array([(sample[0], 1) for sample in self._samples], float)
            slope, base = np.linalg.lstsq(rows, np.array([sample[1] for sample in self._samples]), rcond=None)[0]
            self._slope, self._base = max(1e-6, float(slope)), max(0.0, float(base))
            self._wait = sum([sample[2] for sample in self._samples]) / len(self._samples)
