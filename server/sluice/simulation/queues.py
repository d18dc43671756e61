"""What every rival shares: a first-come queue, and several models that take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sluice.simulation.requests import Request
from sluice.simulation.rule import Move, Rule, Setting


def batch(requests: Sequence[Request], given_up: Sequence[Request] = (), length: int = 0) -> Move:
    """These, padded to their longest or to `length`."""
    rows = sum([request.rows for request in requests])
    longest = length or max([request.length for request in requests])
    return Move(requests, rows, longest, requests[0].model, given_up)


class FirstCome:
    """A queue in order of arrival, and nothing learned; the rules below override what they do differently."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.queue: deque[Request] = deque()

    def patience(self, request: Request) -> float | None:
        return None

    def arrive(self, request: Request, now: float) -> bool:
        self.queue.append(request)
        return True

    def remove(self, request: Request) -> None:
        if request in self.queue:
            self.queue.remove(request)

    def put_back(self, requests: Sequence[Request], now: float) -> None:
        self.queue.extendleft(reversed(requests))

    def finished(self, worker: int, move: Move, seconds: float, now: float) -> None:
        pass

    def failed(self, worker: int, move: Move, now: float) -> None:
        pass

    def resized(self, workers: int, now: float) -> None:
        pass

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        raise NotImplementedError

    def expired(self, now: float) -> list[Request]:
        """Takes what is late from the head of the queue."""
        late = []
        while self.queue and self.queue[0].due <= now:
            late.append(self.queue.popleft())
        return late

    def take(self, most_rows: int) -> list[Request]:
        """As many from the head as have that many rows, but at least one."""
        taken = [self.queue.popleft()]
        rows = taken[0].rows
        while self.queue and rows + self.queue[0].rows <= most_rows:
            rows += self.queue[0].rows
            taken.append(self.queue.popleft())
        return taken

    def rows(self) -> int:
        return sum([request.rows for request in self.queue])


def given_up(requests: Sequence[Request], until: float | None = None) -> Move | None:
    """Nothing to run; None when there is nothing to say at all."""
    return Move((), 0, 0, given_up=requests, until=until) if requests or until is not None else None


class Turns:
    """One rule for each model; idle workers go round them."""

    def __init__(self, make: Callable[[Setting], Rule], setting: Setting) -> None:
        self._rules: Mapping[str, Rule] = {
            model: make(replace(setting, worlds={model: world})) for model, world in setting.worlds.items()
        }
        self._order = deque(self._rules)

    def patience(self, request: Request) -> float | None:
        return self._rules[request.model].patience(request)

    def arrive(self, request: Request, now: float) -> bool:
        return self._rules[request.model].arrive(request, now)

    def remove(self, request: Request) -> None:
        self._rules[request.model].remove(request)

    def put_back(self, requests: Sequence[Request], now: float) -> None:
        for request in reversed(requests):
            self._rules[request.model].put_back([request], now)

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        given: list[Request] = []
        wake: float | None = None
        for _ in range(len(self._order)):
            self._order.rotate(-1)
            move = self._rules[self._order[-1]].choose(worker, now, idle)
            if move is None:
                continue
            given.extend(move.given_up)
            if move.requests:
                return move._replace(given_up=given)
            if move.until is not None:
                wake = move.until if wake is None else min(wake, move.until)
        return given_up(given, wake)

    def finished(self, worker: int, move: Move, seconds: float, now: float) -> None:
        self._rules[move.model].finished(worker, move, seconds, now)

    def failed(self, worker: int, move: Move, now: float) -> None:
        self._rules[move.model].failed(worker, move, now)

    def resized(self, workers: int, now: float) -> None:
        for rule in self._rules.values():
            rule.resized(workers, now)
