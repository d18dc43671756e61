"""A simulation's answers as tables for people, plain values for programs, and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sluice import charts
from sluice.plain import finite
from sluice.simulation.capacity import Capacity
from sluice.simulation.figures import Part
from sluice.simulation.scenario import Answer
from sluice.simulation.study import Record

Answers = Mapping[str, Sequence[Answer]]  # by rule, by rising load

HEADINGS = (
    "rule",
    "load",
    "rate/s",
    "in time",
    "worst lengths",
    "goodput/s",
    "p50 ms",
    "p99 ms",
    "padding",
    "mean batch",
    "busy",
    "refused",
    "given up",
    "expired",
)
PART_HEADINGS = ("rule", "load", "requests with", "", "number", "in time", "p50 ms", "p99 ms")
CAPACITY_HEADINGS = (
    "workers",
    "rate held/s",
    "and worst lengths/s",
    "of bound",
    "p50 ms",
    "p99 ms",
    "busy",
    "mean batch",
    "padding",
)


def row(rule: str, found: Answer) -> tuple[str, ...]:
    """Under HEADINGS."""
    figures = found.figures
    return (
        rule,
        f"{found.load:.2f}",
        f"{found.rate:.1f}",
        f"{figures.in_time:.2%}",
        f"{figures.worst_class:.2%}",
        f"{figures.goodput:.1f}",
        milliseconds(figures.p50),
        milliseconds(figures.p99),
        f"{figures.padding:.0%}",
        f"{figures.mean_batch:.1f}",
        f"{figures.utilisation:.0%}",
        *(str(figures.outcomes.get(name, 0)) for name in ("refused", "given up", "expired")),
    )


def part_rows(rule: str, found: Answer) -> list[tuple[str, ...]]:
    """Under PART_HEADINGS; none when all requests are alike."""
    return [
        (rule, f"{found.load:.2f}", kind, name, *_part(part))
        for kind, parts in found.figures.parts.items()
        for name, part in parts.items()
    ]


def _part(part: Part) -> tuple[str, ...]:
    return str(part.requests), f"{part.in_time:.2%}", milliseconds(part.p50), milliseconds(part.p99)


def capacity_row(found: Capacity) -> tuple[str, ...]:
    """Under CAPACITY_HEADINGS."""
    return (
        str(found.workers),
        f"{found.rate:.1f}",
        f"{found.fair_rate:.1f}",
        f"{found.fair_rate / found.bound:.0%}",
        milliseconds(found.p50),
        milliseconds(found.p99),
        f"{found.utilisation:.0%}",
        f"{found.mean_batch:.1f}",
        f"{found.padding:.0%}",
    )


def document(about: Mapping[str, Any], answers: Answers) -> dict[str, Any]:
    """Everything but the latencies' distribution."""
    rules = {}
    for rule, found in answers.items():
        rules[rule] = [
            {
                "load": each.load,
                "rate": each.rate,
                "overload_bound": asdict(each.overload),
                **{name: value for name, value in asdict(each.figures).items() if name != "latencies"},
            }
            for each in found
        ]
    plain: dict[str, Any] = finite({**about, "rules": rules})
    return plain


def pictures(answers: Answers, target: float) -> dict[str, str]:
    """SVG texts by name. The latencies are those of the largest load that our rule, or else the first, still holds."""
    load = "load (part of the strict fluid bound)"
    drawn = {}
    for name, title, what, most in (
        ("goodput", "Goodput", "requests per second, in time", None),
        ("in-time", "In time", "share of all requests", 1.0),
        ("worst-class", "Worst class of lengths", "share in time", 1.0),
        ("padding", "Padding", "share of the tokens computed", 1.0),
    ):
        chart = charts.Chart(title, load, what, 680, aside=True, most_y=most)
        series = [
            charts.Series(rule, [(each.load, _value(each, name)) for each in found]) for rule, found in answers.items()
        ]
        if name == "goodput" and answers:
            offered = [(each.load, each.rate) for each in next(iter(answers.values()))]
            series.append(charts.Series("offered", offered, dashed=True, colour="#bbb"))
        drawn[name] = charts.lines(chart, series)
    drawn["latency"] = _latency(answers, target)
    return drawn


def _value(found: Answer, name: str) -> float:
    figures = found.figures
    return {
        "goodput": figures.goodput,
        "in-time": figures.in_time,
        "worst-class": figures.worst_class,
        "padding": figures.padding,
    }[name]


def _latency(answers: Answers, target: float) -> str:
    first = next(iter(answers.values()), ())
    at = max((number for number, each in enumerate(first) if each.figures.in_time >= 0.99), default=0)
    series = []
    for rule, found in answers.items():
        quantiles = found[at].figures.latencies
        points = [(seconds * 1000, number / (len(quantiles) - 1)) for number, seconds in enumerate(quantiles)]
        series.append(charts.Series(rule, points))
    title = f"Latency at load {first[at].load:.2f}" if first else "Latency"
    chart = charts.Chart(
        title, "ms", "share of those answered", 680, most_y=1.0, most_x=2500 * target, aside=True, marks=False
    )
    return charts.lines(chart, series)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}" if math.isfinite(seconds) else "–"


def study_table(record: Record, fair: bool = False) -> str:
    """Markdown: a line for each cell and one for their mean, a column for each rule, best first; the best in bold."""
    rules = sorted(record.rules(), key=lambda rule: -(record.mean(rule, fair) or 0.0))
    rows = {rule: record.row(rule, fair) for rule in rules}
    lines = [f"| | {' | '.join(rules)} |", f"|---{'|---:' * len(rules)}|"]
    for cell in record.cells():
        values = [rows[rule].get(cell) for rule in rules]
        lines.append(f"| {cell} | {_best_in_bold(values)} |")
    lines.append(f"| **mean** | {_best_in_bold([record.mean(rule, fair) for rule in rules], digits=3)} |")
    return "\n".join(lines) + "\n"


def _best_in_bold(values: Sequence[float | None], digits: int = 2) -> str:
    best = max((value for value in values if value is not None), default=0.0)
    texts = ["" if value is None else f"{value:.{digits}f}".lstrip("0") for value in values]
    return " | ".join(
        f"**{text}**" if text and value == best else text for text, value in zip(texts, values, strict=True)
    )


def study_picture(record: Record) -> str:
    means = {rule: mean for rule in record.rules() if (mean := record.mean(rule)) is not None}
    ordered = dict(sorted(means.items(), key=lambda each: -each[1]))
    chart = charts.Chart(
        f"Largest load with 99 % in time, mean of {len(record.cells())} cells", "", "part of the bound", 680
    )
    return charts.bars(chart, ordered, {"sluice": charts.COLOURS[1]})
