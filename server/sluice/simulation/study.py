"""The study behind docs/scheduling.md: what each rule holds in eighteen cells of device, lengths, workers, target."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sluice.simulation.requests import SimulationError
from sluice.simulation.rules import chosen
from sluice.simulation.scenario import Scenario, Traffic, only
from sluice.simulation.search import ALL, FAIR, Trials, largest
from sluice.simulation.sluice_rule import Making
from sluice.simulation.traffic import Generated, lengths
from sluice.simulation.worlds import WORLDS

# Enough for 99 % to mean something; a CPU's loads are so low that half of them takes as long. From 4 workers twice.
REQUESTS = {"gpu": 12000, "cpu": 6000}
_MANY_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One scenario of the study."""

    world: str
    lengths: str
    workers: int
    times: int  # the target, in times of the longest request alone

    @property
    def name(self) -> str:
        return f"{self.world} {self.lengths} ×{self.workers} {self.times}T"

    def scenario(self, scale: float = 1.0, seed: int = 0) -> Scenario:
        world, mix = WORLDS[self.world], lengths(self.lengths)
        count = REQUESTS[self.world] * (2 if self.workers >= _MANY_WORKERS else 1)
        return Scenario(
            only(world),
            Generated(mix),
            self.workers,
            self.times * world.seconds(1, mix.longest),
            max(100, int(count * scale)),
            seed,
        )


CELLS = tuple(
    Cell(world, mix, workers, times)
    for world in ("gpu", "cpu")
    for mix in ("lognormal", "bimodal", "constant")
    for workers, times in ((1, 5), (4, 5), (4, 3))
)


@dataclass(frozen=True, slots=True)
class Found:
    """What one rule holds in one cell, as parts of the strict fluid bound."""

    rule: str
    cell: str
    held: float  # 99 % in time
    fair: float  # and 97 % of the worst class of lengths
    setting: str  # of a tuned rule
    seconds: float  # that finding it took


@dataclass(frozen=True, slots=True)
class Plan:
    """What to find out."""

    rules: Sequence[str]
    cells: Sequence[Cell] = CELLS
    tune: bool = True
    scale: float = 1.0
    seed: int = 0


def find(plan: Plan, rule: str, cell: Cell) -> Found:
    started = time.perf_counter()
    scenario = cell.scenario(plan.scale, plan.seed)
    kind = chosen(rule, Making(longest=scenario.source.longest))[rule]
    trials = Trials(Traffic(scenario), kind, plan.tune)
    held, fair = largest(trials, ALL), largest(trials, FAIR)
    return Found(rule, cell.name, held.load, fair.load, held.setting, time.perf_counter() - started)


def run(plan: Plan, jobs: int, tell: Callable[[Found], None]) -> Iterator[Found]:
    """Every rule in every cell; rule by rule with one job."""
    tasks = [(rule, cell) for rule in plan.rules for cell in plan.cells]
    if jobs == 1:
        for rule, cell in tasks:
            found = find(plan, rule, cell)
            tell(found)
            yield found
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(find, plan, rule, cell) for rule, cell in tasks]
        for done in as_completed(waiting):
            found = done.result()
            tell(found)
            yield found


class Record:
    """The findings of several runs in one file: a rule that is run again replaces what was found before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[tuple[str, str], Found] = {}
        if path.is_file():
            try:
                for each in json.loads(path.read_text(encoding="utf-8"))["found"]:
                    found = Found(**each)
                    self.found[found.rule, found.cell] = found
            except (ValueError, KeyError, TypeError) as error:
                raise SimulationError(f"{path}: not what a study wrote: {error!r}") from error

    def add(self, found: Found) -> None:
        """Written at once: a study that is interrupted has lost nothing."""
        self.found[found.rule, found.cell] = found
        self._path.write_text(json.dumps(self.document(), indent=1) + "\n", encoding="utf-8")

    def document(self) -> dict[str, Any]:
        return {"found": [asdict(each) for each in self.found.values()]}

    def rules(self) -> list[str]:
        return list(dict.fromkeys(rule for rule, _ in self.found))

    def cells(self) -> list[str]:
        known = {cell for _, cell in self.found}
        return [cell.name for cell in CELLS if cell.name in known]

    def mean(self, rule: str, fair: bool = False) -> float | None:
        """Over the cells; None while some are missing."""
        values = self.row(rule, fair)
        return sum(values.values()) / len(values) if len(values) == len(self.cells()) else None

    def row(self, rule: str, fair: bool = False) -> Mapping[str, float]:
        cells = ((cell, self.found.get((rule, cell))) for cell in self.cells())
        return {cell: each.fair if fair else each.held for cell, each in cells if each is not None}
