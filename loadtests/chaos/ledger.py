"""The account of every request: sent once, and ended once, as one of a few outcomes. No clock: `now` is told."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    RIGHT = "right"
    ERROR = "error"  # one explicit answer that says why not
    WRONG = "wrong"  # an answer that is not the truth
    LOST = "lost"  # no answer in time, or the connection went away instead
    CANCELLED = "cancelled"  # by ourselves, on purpose


@dataclass(slots=True)
class Request:
    """One request as its client saw it; times in monotonic seconds."""

    number: int
    model: str
    protocol: str
    guilty: bool  # it is one that cannot be answered well
    sent: float
    outcome: Outcome | None = None
    kind: str = ""  # of its error
    detail: str = ""
    ended: float = math.nan


class Doubled(Exception):
    """A request was answered twice."""


@dataclass
class Ledger:
    """All requests of a round."""

    requests: list[Request] = field(default_factory=list)

    def send(self, model: str, protocol: str, now: float, guilty: bool = False) -> Request:
        request = Request(len(self.requests), model, protocol, guilty, now)
        self.requests.append(request)
        return request

    def end(self, request: Request, outcome: Outcome, now: float, kind: str = "", detail: str = "") -> None:
        if request.outcome is not None:
            raise Doubled(f"request {request.number} had its outcome already: {request.outcome}")
        request.outcome, request.kind, request.detail, request.ended = outcome, kind, detail, now

    def close(self, now: float) -> None:
        """Nobody waits any longer: what has no outcome is lost."""
        for request in self.requests:
            if request.outcome is None:
                self.end(request, Outcome.LOST, now, "unanswered", "nobody heard of it again")

    def counts(self) -> Counter[Outcome]:
        return Counter(request.outcome for request in self.requests if request.outcome is not None)

    def errors(self) -> dict[tuple[str, str], int]:
        """How many explicit errors of each kind, by who got them: (kind, "guilty" or the model's name)."""
        found: Counter[tuple[str, str]] = Counter()
        for request in self.requests:
            if request.outcome is Outcome.ERROR:
                found[request.kind, "guilty" if request.guilty else request.model] += 1
        return dict(found)

    def examples(self) -> dict[str, str]:
        """What one explicit error of each kind said."""
        return {each.kind: each.detail for each in self.requests if each.outcome is Outcome.ERROR}

    def bad(self) -> list[Request]:
        """What must not be."""
        return [request for request in self.requests if request.outcome in (Outcome.WRONG, Outcome.LOST)]

    def per_second(self, start: float, width: float = 1.0) -> dict[str, list[tuple[float, float]]]:
        """Rates over the time since `start`: of innocent requests sent, and of right answers to them."""
        bins: dict[str, Counter[int]] = defaultdict(Counter)
        for request in self.requests:
            if request.guilty or request.outcome is Outcome.CANCELLED:
                continue
            bins["sent"][int((request.sent - start) // width)] += 1
            if request.outcome is Outcome.RIGHT:
                bins["right"][int((request.ended - start) // width)] += 1
        last = max((max(counts) for counts in bins.values()), default=-1)
        names = ("sent", "right")
        return {name: [(at * width, bins[name][at] / width) for at in range(last + 1)] for name in names}

    def during(self, windows: Sequence[tuple[float, float]]) -> tuple[int, int, list[float]]:
        """Of the innocent requests sent within the windows: how many, how many right, and how long these took."""
        sent = [request for request in self._innocent() if any(a <= request.sent < b for a, b in windows)]
        right = [request for request in sent if request.outcome is Outcome.RIGHT]
        return len(sent), len(right), sorted(request.ended - request.sent for request in right)

    def _innocent(self) -> Iterable[Request]:
        return (each for each in self.requests if not each.guilty and each.outcome is not Outcome.CANCELLED)


@dataclass
class Epochs:
    """Which versions of a model may answer, over the time: while one is loaded the one before may as well."""

    _history: list[tuple[float, frozenset[int]]]

    @classmethod
    def starting(cls, version: int, now: float) -> Epochs:
        return cls([(now, frozenset({version}))])

    @property
    def current(self) -> frozenset[int]:
        return self._history[-1][1]

    def begin(self, version: int, now: float) -> None:
        """From now on this version may answer as well."""
        self._history.append((now, self.current | {version}))

    def only(self, version: int, now: float) -> None:
        """From now on no other may."""
        self._history.append((now, frozenset({version})))

    def allowed(self, sent: float, answered: float) -> frozenset[int]:
        """The versions that a request may come back from."""
        found: frozenset[int] = frozenset()
        ends = [begin for begin, _ in self._history[1:]] + [math.inf]
        for (begin, versions), end in zip(self._history, ends, strict=True):
            if begin <= answered and sent <= end:
                found |= versions
        return found
