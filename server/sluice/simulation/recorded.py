"""Recorded traffic: a CSV or JSON-lines file with the arrival and length of every request."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sluice.simulation.requests import MODEL, PRIORITY, SimulationError
from sluice.simulation.traffic import Sample

COLUMNS = ("arrival", "length", "rows", "deadline", "priority", "tenant", "model")


@dataclass(frozen=True, slots=True)
class _Line:
    arrival: float
    length: int
    rows: int
    deadline: float
    priority: int
    tenant: str | None
    model: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """Requests in the order in which they arrived."""

    name: str
    lines: tuple[_Line, ...]

    @property
    def longest(self) -> int:
        return max(line.length for line in self.lines)

    @property
    def model_names(self) -> Sequence[str]:
        return tuple(sorted({line.model for line in self.lines}))

    @property
    def own_rate(self) -> float | None:
        span = self.lines[-1].arrival - self.lines[0].arrival
        return (len(self.lines) - 1) / span if span > 0 else None

    def sample(self, count: int, random: np.random.Generator) -> Sample:
        """The first `count` of them."""
        lines = self.lines[:count]
        return Sample(
            [line.length for line in lines],
            [line.rows for line in lines],
            [line.model for line in lines],
            [line.tenant for line in lines],
            [line.priority for line in lines],
            [line.deadline for line in lines],
        )

    def times(self, count: int, rate: float, unit: float, random: np.random.Generator) -> list[float]:
        """As recorded, with the pauses stretched or shortened to the rate."""
        factor = (self.own_rate or rate) / rate
        first = self.lines[0].arrival
        return [(line.arrival - first) * factor for line in self.lines[:count]]


def recorded(path: Path) -> Recorded:
    """The traffic of a file; whatever is wrong with it is reported with its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SimulationError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise SimulationError(f"{path}: {error.strerror or error}") from error
    rows = _json_lines(path, text) if text.lstrip().startswith("{") else _csv(path, text)
    lines = [_line(f"{path}:{number}", row) for number, row in rows]
    if not lines:
        raise SimulationError(f"{path}: no requests in it")
    return Recorded(path.name, tuple(sorted(lines, key=lambda line: line.arrival)))


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SimulationError(f"{path}:{number}: {error}") from error
            if not isinstance(row, dict):
                raise SimulationError(f"{path}:{number}: not an object")
            yield number, row


def _csv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    unknown = sorted(set(reader.fieldnames or ()) - set(COLUMNS))
    if unknown or not {"arrival", "length"} <= set(reader.fieldnames or ()):
        wrong = f"unknown column '{unknown[0]}'" if unknown else "needs the columns arrival and length"
        raise SimulationError(f"{path}:1: {wrong}; there are {', '.join(COLUMNS)}")
    for row in reader:
        if None in row:
            raise SimulationError(f"{path}:{reader.line_num}: more values than columns")
        yield reader.line_num, {name: value for name, value in row.items() if value not in (None, "")}


def _line(place: str, row: Mapping[str, Any]) -> _Line:
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise SimulationError(f"{place}: unknown name '{unknown[0]}'; there are {', '.join(COLUMNS)}")
    tenant = row.get("tenant")
    return _Line(
        _number(place, row, "arrival", math.nan, least=0),
        int(_number(place, row, "length", math.nan, least=1)),
        int(_number(place, row, "rows", 1, least=1)),
        _number(place, row, "deadline", math.inf, least=0),
        int(_number(place, row, "priority", PRIORITY, least=0)) or PRIORITY,
        None if tenant is None else str(tenant),
        str(row.get("model", MODEL)),
    )


def _number(place: str, row: Mapping[str, Any], name: str, default: float, least: float) -> float:
    value = row.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise SimulationError(f"{place}: {name}: {value!r} is no number") from error
    if math.isnan(number):
        raise SimulationError(f"{place}: {name} is missing")
    if number < least:
        raise SimulationError(f"{place}: {name} must be at least {least:g}, got {number:g}")
    return number
