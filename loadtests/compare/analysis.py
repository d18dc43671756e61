"""Turns the records of a run into one row for each server and mix."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.compare.climb import bracket, held_rung, tallies
from loadtests.compare.records import Alone, Ceiling, Measurement, Problem, Record, Run
from sluice.bench.samples import percentile

NOISY = 0.2  # cores that others used, at the median, from which a run counts as disturbed


@dataclass(frozen=True, slots=True)
class Point:
    """One server at one rate, all its runs there together."""

    rate: float
    share: float  # in time, of all that was sent
    goodput: float  # in time, per second
    p50: float  # ms, of those answered
    p99: float
    answered: float  # of all that was sent
    cpu_ms: float  # of the server's processes, per answer
    generator_ms: float  # of the generator's, per request sent


@dataclass(frozen=True, slots=True)
class Row:
    """What a server did with a mix."""

    name: str
    mix: str
    held: float  # requests per second; 0 = not even the lowest rate tried
    next_failed: float  # the smallest rate that was tried and not held; inf = none
    at_held: Point | None
    overload: dict[float, Point] = field(default_factory=dict)  # by fraction of the rate held
    points: list[Point] = field(default_factory=list)  # everything, by rate
    pss: float = math.nan  # MiB, the most seen
    rss: float = math.nan
    rows: float | None = None  # mean of a batch, where the server tells, at the rate held
    padding: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a report says."""

    run: Run
    rows: list[Row]
    ceilings: dict[str, list[float]]  # by mix, one for each round
    foreign: list[float]  # cores used by others during each measurement
    generator: list[float]  # cores used by the generator
    late: list[float]  # seconds, the generator's own lateness (99th percentile of each measurement)
    problems: list[Problem]

    def of(self, mix: str) -> list[Row]:
        """The rows of one mix, the best first."""
        return sorted((row for row in self.rows if row.mix == mix), key=lambda row: -row.held)

    @property
    def disturbed(self) -> bool:
        """Others used so much of the machine that ratios may be theirs."""
        return bool(self.foreign) and statistics.median(self.foreign) > NOISY

    def ceiling(self, mix: str) -> float:
        return statistics.median(self.ceilings[mix])


def compared(records: Sequence[Record]) -> Comparison:
    run = next(record for record in records if isinstance(record, Run))
    measured = [record for record in records if isinstance(record, Measurement)]
    ceilings: dict[str, list[float]] = {mix: [rate] for mix, rate in run.ceilings.items()}
    for record in records:
        if isinstance(record, Ceiling):
            ceilings[record.mix].append(record.rate)
    rows = []
    for mix in run.options.mixes:
        for name in run.options.names:
            own = [each for each in measured if (each.name, each.mix) == (name, mix)]
            rows += [_row(run, own)] if own else []
    return Comparison(
        run,
        rows,
        ceilings,
        [each.foreign for each in measured],
        [each.generator_seconds / each.elapsed for each in measured],
        [each.late_p99 for each in measured],
        [record for record in records if isinstance(record, Problem)],
    )


def _row(run: Run, measured: Sequence[Measurement]) -> Row:
    alone = Alone(run)
    first = measured[0]
    ladder = run.options.ladder(run.ceilings[first.mix])
    climbed = [each for each in measured if each.rung is not None]
    tried = tallies((each.rung, each.tally(alone)) for each in climbed if each.rung is not None)
    rung = held_rung(ladder, tried, run.options.rule())
    _, failed = bracket(ladder, tried, run.options.rule())
    at_held = [each for each in climbed if each.rung == rung and run.options.rule().held(each.tally(alone))]
    batches: dict[int, int] = {}
    for each in at_held:
        for rows, count in each.batches.items():
            batches[rows] = batches.get(rows, 0) + count
    padding = [each.padding for each in at_held if each.padding is not None]
    by_rate: dict[float, list[Measurement]] = {}
    for each in measured:
        by_rate.setdefault(each.rate, []).append(each)
    return Row(
        name=first.name,
        mix=first.mix,
        held=0.0 if rung is None else ladder.rate(rung),
        next_failed=ladder.rate(failed) if failed in tried else math.inf,
        at_held=point(at_held, alone) if at_held else None,
        overload={each.fraction: point([each], alone) for each in measured if each.fraction is not None},
        points=[point(runs, alone) for _, runs in sorted(by_rate.items())],
        pss=max(each.pss for each in measured),
        rss=max(each.rss for each in measured),
        rows=sum(rows * count for rows, count in batches.items()) / sum(batches.values()) if batches else None,
        padding=statistics.fmean(padding) if padding else None,
    )


def point(runs: Sequence[Measurement], alone: Alone) -> Point:
    """Runs at one rate, together."""
    tally = sum((each.tally(alone) for each in runs[1:]), runs[0].tally(alone))
    spent = sorted(each for run in runs for each in run.milliseconds if each is not None)
    seconds = sum(each.seconds for each in runs)
    answered = sum(each.answered for each in runs)
    return Point(
        rate=runs[0].rate,
        share=tally.share,
        goodput=tally.in_time / seconds,
        p50=percentile(spent, 50),
        p99=percentile(spent, 99),
        answered=len(spent) / tally.requests if tally.requests else 0.0,
        cpu_ms=sum(each.cpu_seconds for each in runs) / answered * 1000 if answered else math.nan,
        generator_ms=sum(each.generator_seconds for each in runs) / max(1, tally.requests) * 1000,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of the project's goals, and what the run says of it."""

    text: str
    wanted: float
    found: float

    @property
    def met(self) -> bool:
        return self.found >= self.wanted


def verdicts(comparison: Comparison, mix: str) -> list[Verdict]:
    """Of Sluice against the others; ratios with a peer that held nothing are infinite."""
    rows = comparison.of(mix)
    ours = next((row for row in rows if row.name == "sluice"), None)
    if ours is None:
        return []
    peers = [row for row in rows if row.name != "sluice"]
    batching = [row for row in peers if row.name.endswith("-batching")]
    found = []
    if peers:
        best = max(peers, key=lambda row: row.held)
        found.append(Verdict(f"rate held, against the best setting of any peer ({best.name})", 1.15, ratio(ours, best)))
    if batching:
        best = max(batching, key=lambda row: row.held)
        found.append(Verdict(f"rate held, against the best dynamic batching ({best.name})", 3.0, ratio(ours, best)))
    found.append(Verdict("rate held, against the bare model's ceiling", 0.9, ours.held / comparison.ceiling(mix)))
    if ours.at_held is not None and 2.0 in ours.overload:
        kept = ours.overload[2.0].goodput / ours.at_held.goodput
        found.append(Verdict("goodput at twice the rate held, against that at the rate held", 0.95, kept))
    return found


def ratio(ours: Row, theirs: Row) -> float:
    if not theirs.held:
        return math.inf if ours.held else math.nan
    return ours.held / theirs.held
