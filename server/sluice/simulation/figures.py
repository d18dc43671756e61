"""What a simulated run amounts to: shares in time, latencies, padding, by group where there are groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from sluice.simulation.events import Run
from sluice.simulation.requests import Outcome, Request

# The run's beginning, with its empty queue, and its end, which nobody comes after, are left out.
WARM_UP = 0.1
COOL_DOWN = 0.01
# Classes of length by their upper ends; one of so few requests says nothing.
CLASSES = (32, 128, 10**9)
_FEWEST = 20


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the requests."""

    requests: int
    in_time: float
    p50: float  # seconds, of those answered
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    in_time: float
    worst_class: float  # the share in time of the length class that has the smallest
    classes: tuple[float | None, ...]
    goodput: float  # requests a second answered in time
    p50: float
    p99: float
    padding: float  # share of the tokens computed
    mean_batch: float  # requests
    utilisation: float
    outcomes: dict[str, int]
    parts: dict[str, dict[str, Part]]  # by what tells them apart, where anything does
    latencies: tuple[float, ...]  # quantiles 0, 0.5 %, … 100 % of the answered


def figures(run: Run, workers: int) -> Figures:
    count = len(run.requests)
    kept = run.requests[int(count * WARM_UP) : count - max(1, int(count * COOL_DOWN))]
    in_time = np.array([request.in_time for request in kept])
    classes = _classes(kept, in_time)
    share = float(in_time.mean()) if len(kept) else 0.0
    span = kept[-1].arrival - kept[0].arrival if len(kept) > 1 else math.inf
    latencies = _latencies(kept)
    done = [batch for batch in run.batches if not batch.lost]
    padded = sum([batch.rows * batch.length for batch in done])
    busy = sum([batch.end - batch.start for batch in run.batches])
    return Figures(
        in_time=share,
        worst_class=min([each for each in classes if each is not None], default=share),
        classes=classes,
        goodput=float(in_time.sum()) / span,
        p50=_quantile(latencies, 0.5),
        p99=_quantile(latencies, 0.99),
        padding=1 - sum([batch.tokens for batch in done]) / padded if padded else 0.0,
        mean_batch=sum([batch.requests for batch in done]) / len(done) if done else 0.0,
        utilisation=busy / workers / run.end if run.end else 0.0,
        outcomes=dict(Counter(request.outcome.value for request in run.requests)),
        parts=_parts(kept),
        latencies=tuple(np.quantile(latencies, np.linspace(0, 1, 201)).tolist()) if len(latencies) else (),
    )


def _classes(kept: Sequence[Request], in_time: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[float | None, ...]:
    lengths = np.array([request.length for request in kept])
    found: list[float | None] = []
    below = 0
    for most in CLASSES:
        chosen = in_time[(lengths > below) & (lengths <= most)]
        found.append(float(chosen.mean()) if len(chosen) > _FEWEST else None)
        below = most
    return tuple(found)


def _latencies(requests: Sequence[Request]) -> list[float]:
    return [request.ended - request.arrival for request in requests if request.outcome is Outcome.ANSWERED]


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else math.inf


def _parts(kept: Sequence[Request]) -> dict[str, dict[str, Part]]:
    """By model, tenant, priority and deadline, each where there is more than one."""
    found: dict[str, dict[str, Part]] = {}
    kinds: dict[str, Callable[[Request], Hashable]] = {
        "model": lambda request: request.model,
        "tenant": lambda request: request.tenant,
        "priority": lambda request: request.priority,
        "deadline": lambda request: round(request.deadline - request.arrival, 9),
    }
    for kind, key_of in kinds.items():
        groups: dict[Hashable, list[Request]] = {}
        for request in kept:
            groups.setdefault(key_of(request), []).append(request)
        if 1 < len(groups) <= 64:  # deadlines of recorded traffic may all differ
            ordered = sorted(groups.items(), key=lambda each: (isinstance(each[0], str), each[0] or 0))
            found[kind] = {_label(key): _part(requests) for key, requests in ordered}
    return found


def _label(key: Hashable) -> str:
    return f"{key:g}" if isinstance(key, float) else "none" if key is None else str(key)


def _part(requests: Sequence[Request]) -> Part:
    latencies = _latencies(requests)
    share = sum(request.in_time for request in requests) / len(requests)
    return Part(len(requests), share, _quantile(latencies, 0.5), _quantile(latencies, 0.99))
