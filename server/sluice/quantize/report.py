"""What became of a search: a record that travels with the version, metrics for its manifest, and a picture."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice import __version__, charts
from sluice.plain import finite
from sluice.quantize.machine import Machine
from sluice.quantize.nearness import Bounds, Nearness
from sluice.quantize.search import Found, Point

LEAST_LOSS = 1e-6  # what the picture can show


@dataclass(frozen=True, slots=True)
class Proof:
    """What the chosen point does on samples that it was not chosen by."""

    nearness: Nearness
    samples: int
    speed: float  # on the mix of lengths of the data
    by_length: Mapping[int, float]  # how many times as fast, alone
    tasks: Mapping[str, float]  # metrics with labels, where there are any


@dataclass(frozen=True, slots=True)
class Attempt:
    """A choice that was to be proven."""

    name: str
    samples: int
    missed: tuple[str, ...]  # nothing = it is proven


@dataclass(frozen=True, slots=True)
class Report:
    parent: str
    target: str
    bounds: Bounds
    data: str
    found: Found
    chosen: Point | None
    proof: Proof | None
    parents_size: int
    machine: Machine
    missed: tuple[str, ...] = ()  # why nothing is published
    version: str = ""  # "" = none was made
    directory: str = ""
    attempts: tuple[Attempt, ...] = ()  # at the proof, the last one with success if there is one

    def frontier(self) -> list[Point]:
        """Points that none is both faster and nearer than, the fastest first."""
        best, front = math.inf, []
        for point in sorted(self.found.points, key=lambda point: (-point.speed, _loss(point))):
            if point.eligible and _loss(point) < best:
                best = _loss(point)
                front.append(point)
        return front

    def metrics(self) -> dict[str, float | str]:
        """For the manifest, beside what an evaluation writes there."""
        proof, chosen = self.proof, self.chosen
        assert proof is not None
        assert chosen is not None
        return {
            "quantize.to": self.target,
            "quantize.method": chosen.name,
            "quantize.speed": round(proof.speed, 3),
            "quantize.size": round(chosen.size / self.parents_size, 3),
            "quantize.machine": self.machine.name,
            "quantize.batch_difference": float(f"{proof.nearness.difference:.2g}"),
            "quantize.attempts": len(self.attempts),
        }

    def record(self) -> str:
        return json.dumps(finite(self.plain()), indent=1, ensure_ascii=False) + "\n"

    def plain(self) -> dict[str, Any]:
        chosen = self.chosen
        return {
            "made_by": f"sluice {__version__}",
            "parent": self.parent,
            "to": self.target,
            "version": self.version,
            "bounds": {"accuracy": self.bounds.accuracy, "neighbours": self.bounds.neighbours},
            "missed": list(self.missed),
            "data": self.data,
            "machine": {"processor": self.machine.name, "bytes": self.machine.bytes},
            "chosen": chosen.name if chosen else None,
            "attempts": [
                {"name": each.name, "samples": each.samples, "missed": list(each.missed)} for each in self.attempts
            ],
            "proof": _proof(self.proof),
            "parents_bytes": self.parents_size,
            "points": [_point(point, point in self.frontier(), point is chosen) for point in self.found.points],
            "layers": {name: method.name for name, method in chosen.choice.items()} if chosen else {},
            "losses": {method: dict(losses) for method, losses in self.found.losses.items()},
        }

    def picture(self) -> str:
        """Accuracy lost against speed; the line is the frontier."""
        front, bound = self.frontier(), 1 - self.bounds.accuracy
        tried = [point for point in self.found.points if point not in front]
        series = [
            charts.Series("frontier", _places(front)),
            charts.Series("tried", _places(tried), scattered=True, colour="#7f7f7f"),
        ]
        if self.chosen is not None:
            series.append(charts.Series("chosen", _places([self.chosen]), scattered=True, colour="#d55e00"))
        chart = charts.Chart(
            title=f"{self.parent} to {self.target}",
            x="times as fast as the parent",
            y="accuracy lost: 1 - cosine",
            logarithmic=True,
            level=("bound", bound) if bound > 0 else None,
            aside=True,
        )
        return charts.lines(chart, series)


def mixture(point: Point) -> str:
    """How many layers go which way."""
    counts = Counter(method.name for method in point.choice.values())
    parts = [f"{count} {name}" for name, count in counts.most_common()]
    return "; ".join([*parts, *([f"{point.kept} in 32 bits"] if point.kept else [])])


def _loss(point: Point) -> float:
    return point.nearness.loss


def _places(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(point.speed, max(_loss(point), LEAST_LOSS)) for point in points]


def _point(point: Point, front: bool, chosen: bool) -> dict[str, Any]:
    return {
        "name": point.name,
        "speed": round(point.speed, 4),
        "bytes": point.size,
        "in_32_bits": point.kept,
        "eligible": point.eligible,
        "frontier": front,
        "chosen": chosen,
        **_nearness(point.nearness),
    }


def _nearness(near: Nearness) -> dict[str, Any]:
    return {
        **near.measures,
        "finite": near.finite,
        "batch_difference": near.difference,
        **({"outputs": {name: dict(other.measures) for name, other in near.others.items()}} if near.others else {}),
    }


def _proof(proof: Proof | None) -> dict[str, Any] | None:
    if proof is None:
        return None
    return {
        "samples": proof.samples,
        **_nearness(proof.nearness),
        "speed": proof.speed,
        "speed_by_length": {str(length): speed for length, speed in proof.by_length.items()},
        "tasks": dict(proof.tasks),
    }
