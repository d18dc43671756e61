"""What the simulation asks of a scheduling rule: ours and the rivals' answer the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from sluice.simulation.requests import MODEL, Request
from sluice.simulation.worlds import World


class Move(NamedTuple):
    """What a worker does next: a batch to run, or none and a time to ask again at."""

    requests: Sequence[Request]
    rows: int
    length: int  # padded
    model: str = MODEL
    given_up: Sequence[Request] = ()
    until: float | None = None


class Rule(Protocol):
    """Holds what waits; never told what the future brings."""

    def patience(self, request: Request) -> float | None:
        """Seconds from arrival within which it means to answer; None = whatever it is judged by."""

    def arrive(self, request: Request, now: float) -> bool:
        """False = refused."""

    def remove(self, request: Request) -> None:
        """Its client's deadline passed; no-op when it does not wait."""

    def put_back(self, requests: Sequence[Request], now: float) -> None:
        """Their worker died."""

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        """For an idle worker, one of `idle`; None = nothing waits."""

    def finished(self, worker: int, move: Move, seconds: float, now: float) -> None: ...

    def failed(self, worker: int, move: Move, now: float) -> None: ...

    def resized(self, workers: int, now: float) -> None:
        """So many workers live now."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a rule may know before the first request."""

    target: float
    workers: int
    worlds: Mapping[str, World]  # by model; the true costs, for the rules whose papers presume them
    noise: float = 0.0
    seed: int = 0
    most_rows: int = 512
    most_tokens: int = 65536
    shares: Mapping[Any, float] = field(default_factory=dict)  # weights of tenants

    @property
    def world(self) -> World:
        return next(iter(self.worlds.values()))
