"""The event loop: one heap of virtual time, and the laws that no rule may break.

A request ends exactly once. Time never runs backwards. A worker runs one batch at a time, and none while it is dead.
The loop ends when nothing can happen any more; a rule that still holds requests then, with workers alive, is at fault.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from sluice.simulation.requests import ENDS, Outcome, Request, SimulationError
from sluice.simulation.rule import Move, Rule
from sluice.simulation.worlds import World

_SOON = 1e-6  # a rule that asks for the very same moment again gets the next one


@dataclass(frozen=True, slots=True)
class Slowdown:
    """A worker, or all of them, takes `factor` times as long from `since` on."""

    factor: float
    worker: int | None = None
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Death:
    """A worker dies at a time and is back `away` seconds later; its batch is lost."""

    worker: int
    at: float
    away: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers, and what happens to them."""

    workers: int
    worlds: Mapping[str, World]  # by model
    noise: float = 0.05  # standard deviation of the logarithm of a batch's time
    gap: float = 0.0  # seconds from a batch's end until its worker can start another
    slowdowns: Sequence[Slowdown] = ()
    deaths: Sequence[Death] = ()


class Ran(NamedTuple):
    """One batch as it went."""

    worker: int
    model: str
    start: float
    end: float
    requests: int
    rows: int
    length: int
    tokens: int  # without padding
    lost: bool


@dataclass(slots=True)
class Run:
    """What happened."""

    requests: Sequence[Request]
    batches: list[Ran] = field(default_factory=list)
    end: float = 0.0


class _Kind(IntEnum):
    END = 0
    FREE = 1
    DIE = 2
    RETURN = 3
    EXPIRE = 4


@dataclass(slots=True)
class _Worker:
    number: int
    alive: bool = True
    life: int = 0  # an event of an earlier life means nothing
    move: Move | None = None
    start: float = 0.0


class Simulation:
    """One rule, one stream of requests, one fleet."""

    def __init__(self, rule: Rule, requests: Sequence[Request], fleet: Fleet, seed: int = 0) -> None:
        self._rule = rule
        self._requests = requests
        self._fleet = fleet
        self._random = random.Random(seed)  # noqa: S311 (noise is no secret)
        self._workers = [_Worker(number) for number in range(fleet.workers)]
        self._idle = list(range(fleet.workers))  # in the order in which the server asks its workers
        self._events: list[tuple[float, int, _Kind, int, int | Request]] = []
        self._pushed = 0
        self._timer = math.inf
        self._run = Run(requests)
        for death in fleet.deaths:
            self._push(death.at, _Kind.DIE, death.worker, 0)
            self._push(death.at + death.away, _Kind.RETURN, death.worker, 0)

    def run(self) -> Run:
        requests, events, rule = self._requests, self._events, self._rule
        arrived, count, now = 0, len(requests), 0.0
        while True:
            event = events[0][0] if events else math.inf
            arrival = requests[arrived].arrival if arrived < count else math.inf
            following = min(event, arrival, self._timer)
            if following == math.inf:
                break
            if following < now:
                raise SimulationError(f"time would run backwards, from {now} to {following}")
            now = following
            while arrived < count and requests[arrived].arrival <= now:
                self._arrive(requests[arrived], now)
                arrived += 1
            while events and events[0][0] <= now:
                _, _, kind, worker, about = heapq.heappop(events)
                self._happen(kind, worker, about, now)
            if self._timer <= now:
                self._timer = math.inf
            if self._idle:
                self._dispatch(rule, now)
        self._finish(now)
        return self._run

    def _push(self, time: float, kind: _Kind, worker: int, about: int | Request) -> None:
        self._pushed += 1
        heapq.heappush(self._events, (time, self._pushed, kind, worker, about))

    def _arrive(self, request: Request, now: float) -> None:
        patience = self._rule.patience(request)
        request.due = request.wanted if patience is None else min(request.arrival + patience, request.deadline)
        if not self._rule.arrive(request, now):
            self._end(request, Outcome.REFUSED, now)
        elif request.deadline < math.inf:
            self._push(request.deadline, _Kind.EXPIRE, -1, request)

    def _happen(self, kind: _Kind, number: int, about: int | Request, now: float) -> None:
        if isinstance(about, Request):
            if about.outcome is Outcome.WAITING:
                self._rule.remove(about)
                self._end(about, Outcome.EXPIRED, now)
            return
        worker = self._workers[number]
        match kind:
            case _Kind.END if about == worker.life:
                self._ended(worker, now)
            case _Kind.FREE if about == worker.life:
                insort(self._idle, number)
            case _Kind.DIE if worker.alive:
                self._die(worker, now)
            case _Kind.RETURN if not worker.alive:
                worker.alive = True
                insort(self._idle, number)
                self._rule.resized(self._living(), now)

    def _dispatch(self, rule: Rule, now: float) -> None:
        """Ask for every idle worker, until nothing waits."""
        wake = math.inf
        for number in tuple(self._idle):
            move = rule.choose(number, now, len(self._idle))
            while move is not None and move.given_up and not move.requests:
                self._give_up(move, now)
                wake = min(wake, max(move.until or math.inf, now + _SOON))
                move = rule.choose(number, now, len(self._idle))
            if move is None:
                break
            self._give_up(move, now)
            if move.requests:
                self._start(self._workers[number], move, now)
            elif move.until is not None:
                wake = min(wake, max(move.until, now + _SOON))
        self._timer = wake

    def _give_up(self, move: Move, now: float) -> None:
        for request in move.given_up:
            self._end(request, Outcome.GIVEN_UP, now)

    def _start(self, worker: _Worker, move: Move, now: float) -> None:
        if worker.move is not None or not worker.alive:
            raise SimulationError(f"worker {worker.number} cannot start a batch at {now}")
        for request in move.requests:
            if request.outcome is not Outcome.WAITING:
                raise SimulationError(f"request {request.sequence} runs again at {now}: it was {request.outcome.value}")
            request.outcome = Outcome.RUNNING
        seconds = self._fleet.worlds[move.model].seconds(move.rows, move.length)
        seconds *= math.exp(self._random.gauss(0.0, self._fleet.noise)) * self._slowness(worker.number, now)
        worker.move, worker.start = move, now
        self._idle.remove(worker.number)
        self._push(now + seconds, _Kind.END, worker.number, worker.life)

    def _slowness(self, number: int, now: float) -> float:
        factor = 1.0
        for each in self._fleet.slowdowns:
            if each.since <= now and each.worker in (None, number):
                factor *= each.factor
        return factor

    def _ended(self, worker: _Worker, now: float) -> None:
        move, worker.move = worker.move, None
        if move is None:
            raise SimulationError(f"worker {worker.number} ended a batch that it never began")
        for request in move.requests:
            self._end(request, Outcome.ANSWERED, now)
        self._record(worker, move, now, lost=False)
        self._rule.finished(worker.number, move, now - worker.start, now)
        if self._fleet.gap:
            self._push(now + self._fleet.gap, _Kind.FREE, worker.number, worker.life)
        else:
            insort(self._idle, worker.number)

    def _die(self, worker: _Worker, now: float) -> None:
        worker.alive, worker.life = False, worker.life + 1
        if worker.number in self._idle:
            self._idle.remove(worker.number)
        move, worker.move = worker.move, None
        self._rule.resized(self._living(), now)
        if move is None:
            return
        self._record(worker, move, now, lost=True)
        self._rule.failed(worker.number, move, now)
        for request in move.requests:
            request.outcome = Outcome.WAITING
        gone = [request for request in move.requests if request.deadline <= now]
        for request in gone:
            self._end(request, Outcome.EXPIRED, now)
        self._rule.put_back([request for request in move.requests if request not in gone], now)

    def _living(self) -> int:
        return sum(worker.alive for worker in self._workers)

    def _record(self, worker: _Worker, move: Move, now: float, lost: bool) -> None:
        tokens = sum([request.rows * request.length for request in move.requests])
        shape = (len(move.requests), move.rows, move.length, tokens)
        self._run.batches.append(Ran(worker.number, move.model, worker.start, now, *shape, lost))
        self._run.end = now

    def _end(self, request: Request, outcome: Outcome, now: float) -> None:
        if request.outcome in ENDS:
            raise SimulationError(f"request {request.sequence} ends twice: {request.outcome.value}, {outcome.value}")
        request.outcome, request.ended = outcome, now

    def _finish(self, now: float) -> None:
        stranded = [request for request in self._requests if request.outcome not in ENDS]
        if stranded and self._living():
            raise SimulationError(f"the rule left {len(stranded)} requests waiting with nothing to wake it")
        for request in stranded:  # nobody is left to compute them
            self._end(request, Outcome.GIVEN_UP, now)
