"""A bench's result as JSON for programs and as one self-contained page for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from sluice import charts
from sluice.bench.samples import PERCENTILES
from sluice.bench.session import Load, Result, Step
from sluice.plain import finite

HEADINGS = (
    "rate/s",
    "in time",
    "goodput/s",
    "p50 ms",
    "p99 ms",
    "longest ms",
    "refused",
    "expired",
    "failed",
    "late p99 ms",
    "padding",
)

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;
margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd}
.missed{color:#b00}.charts{display:flex;flex-wrap:wrap;gap:1rem}svg{max-width:100%;height:auto;border:1px solid #eee}"""


def document(about: Mapping[str, Any], load: Load, result: Result) -> dict[str, Any]:
    """Everything, in plain values; what is not finite is null, as JSON has no other word for it."""
    steps = []
    for step in result.steps:
        counters = None
        if step.counters is not None:
            counters = {"batches": dict(step.counters.batches), "padding_share": step.counters.padding_share}
        steps.append(
            {**asdict(step.figures), "worst_class": step.figures.worst_class, "held": step.held, "server": counters}
        )
    settings = {name: value for name, value in asdict(load).items() if name != "mix"}
    found: dict[str, Any] = finite(
        {
            **about,
            "load": {**settings, "lengths": load.mix.name},
            "held_rate": result.held_rate,
            "steps": steps,
            "notes": result.notes,
        }
    )
    return found


def row(step: Step) -> tuple[str, ...]:
    """One rate under HEADINGS."""
    figures = step.figures
    share = step.counters.padding_share if step.counters else None
    return (
        f"{figures.rate:.1f}",
        f"{figures.share:.2%}",
        f"{figures.goodput:.1f}",
        *(_milliseconds(each) for each in (figures.percentiles["p50"], figures.percentiles["p99"], figures.longest)),
        *(str(count) for count in (figures.refused, figures.expired, figures.failed)),
        _milliseconds(figures.late_p99) + (" !" if figures.saturated else ""),
        "" if share is None else f"{share:.0%}",
    )


def page(about: Mapping[str, Any], load: Load, result: Result) -> str:
    """The report as HTML that needs nothing from elsewhere."""
    facts = {
        **about,
        "lengths": load.mix.name,
        "arrivals": f"{load.arrival}, {load.seconds:g} s a rate after {load.warm_up:g} s of warm-up, seed {load.seed}",
        "target": f"{load.share:.0%} within {load.target * 1000:g} ms",
        "largest rate held": f"{result.held_rate:.1f}/s" if result.held_rate else "none",
    }
    listed = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    rows = "".join(_row(step) for step in sorted(result.steps, key=lambda step: step.figures.rate))
    notes = "".join(f"<p>! {escape(note)}</p>" for note in result.notes)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>sluice bench</title><style>{_STYLE}</style>'
        f"<h1>Bench</h1><table>{listed}</table>{notes}"
        f"<table><tr>{head}</tr>{rows}</table>"
        "<p>Latency counts from the time a request should have been sent, so that a server that stalls cannot hide it; "
        "percentiles are of the answered requests, shares of all. “Late” is the generator's own.</p>"
        f'<div class="charts">{"".join(pictures(load, result.steps))}</div></html>\n'
    )


def pictures(load: Load, steps: Sequence[Step]) -> list[str]:
    """Latency, goodput, worst lengths, and what the server's counters say of its batches."""
    figures = [step.figures for step in steps]
    names = [f"p{share:g}" for share in PERCENTILES]
    latency = [charts.Series(name, [(each.rate, each.percentiles[name] * 1000) for each in figures]) for name in names]
    target = ("target", load.target * 1000)
    drawn = [
        charts.lines(charts.Chart("Latency", "requests per second", "ms", logarithmic=True, level=target), latency),
        charts.lines(
            charts.Chart("Goodput", "requests per second", "in time, per second"),
            [
                charts.Series("goodput", [(each.rate, each.goodput) for each in figures]),
                charts.Series("offered", [(each.rate, each.rate) for each in figures], dashed=True, colour="#7f7f7f"),
            ],
        ),
        charts.lines(
            charts.Chart("Share in time", "requests per second", "share", level=("wanted", load.share), most_y=1.0),
            [
                charts.Series("all", [(each.rate, each.share) for each in figures]),
                charts.Series("worst quarter by length", [(each.rate, each.worst_class) for each in figures]),
            ],
        ),
    ]
    return drawn + _server_charts(steps)


def _server_charts(steps: Sequence[Step]) -> list[str]:
    drawn = []
    counted = [step for step in steps if step.counters is not None and step.counters.batches]
    chosen = max((step for step in counted if step.held), key=lambda step: step.figures.rate, default=None)
    chosen = chosen or (counted[0] if counted else None)
    if chosen is not None and chosen.counters is not None:
        batches = {str(rows): float(count) for rows, count in chosen.counters.batches.items()}
        title = f"Batches at {chosen.figures.rate:.0f}/s"
        drawn.append(charts.bars(charts.Chart(title, "rows", "batches"), batches))
    shares = [
        (step.figures.rate, step.counters.padding_share)
        for step in steps
        if step.counters is not None and step.counters.padding_share is not None
    ]
    if shares:
        chart = charts.Chart("Padding", "requests per second", "share of the tokens computed")
        drawn.append(charts.lines(chart, [charts.Series("padding", shares)]))
    return drawn


def _row(step: Step) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row(step))
    return f"<tr{'' if step.held else ' class=missed'}>{cells}</tr>"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}" if math.isfinite(seconds) else "–"
