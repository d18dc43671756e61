"""What a run writes down, one line of JSON at a time, so that an interrupted one can be continued or reported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from loadtests.compare.climb import Ladder, Rule, Tally


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run measures."""

    names: list[str]
    mixes: list[str]
    workers: int
    target: float = 0.3  # seconds
    times_alone: float = 3.0  # a text may take this many times what the model alone needs for it, if that is longer
    share: float = 0.99
    growth: float = 1.05
    lowest: float = 0.05  # of the ceiling
    highest: float = 1.1
    tries: int = 2
    fractions: tuple[float, ...] = (0.8, 1.2, 2.0)  # of the rate held
    requests: int = 1000  # at each rate, within the bounds that follow
    least_seconds: float = 10.0
    most_seconds: float = 30.0
    most_overload_seconds: float = 15.0
    warm_up: float = 2.0
    seed: int = 1

    def rule(self) -> Rule:
        return Rule(self.share, self.tries)

    def ladder(self, ceiling: float) -> Ladder:
        steps = np.log([self.lowest, self.highest]) / np.log(self.growth)
        return Ladder(ceiling, self.growth, int(np.floor(steps[0])), int(np.floor(steps[1])))

    def seconds(self, rate: float, overload: bool) -> float:
        """Of the measured window at a rate."""
        most = self.most_overload_seconds if overload else self.most_seconds
        return min(most, max(min(self.least_seconds, most), self.requests / rate))


QUICK = {
    "growth": 1.1,
    "lowest": 0.08,
    "highest": 1.05,
    "tries": 1,
    "requests": 300,
    "least_seconds": 3.0,
    "most_seconds": 6.0,
    "most_overload_seconds": 3.5,
    "warm_up": 1.0,
}


class Run(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """The first line: where, when and what."""

    options: Options
    date: str
    machine: dict[str, str]
    versions: dict[str, dict[str, str]]  # by contestant
    settings: dict[str, str]
    alone: list[tuple[int, float]]  # (length, seconds) of the bare model, one thread
    ceilings: dict[str, float]  # by mix, at the start: what the ladder stands on
    tuned: bool = False  # the peers' batching settings were searched on this machine


class Ceiling(msgspec.Struct, frozen=True, kw_only=True, tag="ceiling"):
    """The bare model's rate in one round."""

    round: int
    mix: str
    rate: float


class Problem(msgspec.Struct, frozen=True, kw_only=True, tag="problem"):
    """A server that did not start, died, or answered wrongly."""

    round: int
    name: str
    text: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True, tag="measurement"):
    """One server at one rate. `rung` is set while climbing, `fraction` (of the rate held) afterwards."""

    round: int
    name: str
    mix: str
    rate: float
    seconds: float
    rung: int | None = None
    fraction: float | None = None
    lengths: list[int]
    milliseconds: list[float | None]  # from the scheduled time; None = not answered
    outcomes: dict[str, int]
    failures: dict[str, int] = {}
    answered: int  # with the warm-up
    cpu_seconds: float
    generator_seconds: float
    elapsed: float
    foreign: float  # cores that neither the server nor the generator used
    rss: float  # MiB
    pss: float
    late_p99: float
    batches: dict[int, int] = {}
    padding: float | None = None

    def tally(self, alone: Alone) -> Tally:
        in_time = sum(
            spent is not None and spent <= alone.due(length)
            for length, spent in zip(self.lengths, self.milliseconds, strict=True)
        )
        return Tally.of(len(self.lengths), in_time)


class Alone:
    """When an answer is in time: within the target, or a multiple of what the model alone needs, if that is longer."""

    def __init__(self, run: Run) -> None:
        self._lengths = [length for length, _ in run.alone]
        self._seconds = [seconds for _, seconds in run.alone]
        self._options = run.options

    def due(self, length: int) -> float:
        """Milliseconds."""
        alone = float(np.interp(length, self._lengths, self._seconds))
        return max(self._options.target, self._options.times_alone * alone) * 1000


Record = Run | Ceiling | Problem | Measurement
_DECODER = msgspec.json.Decoder(Record)


def read(path: Path) -> list[Record]:
    """Every whole line; a last one that an interruption cut short is left out."""
    return [_DECODER.decode(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def recover(path: Path) -> list[Record]:
    """The same, and the file ends after its last whole line, so that more can be appended."""
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rfind(b"\n") + 1])
    return read(path)


def append(path: Path, records: Iterable[Record]) -> None:
    with path.open("ab") as file:
        file.writelines(msgspec.json.encode(record) + b"\n" for record in records)
