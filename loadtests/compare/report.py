"""Writes the comparison as a page of Markdown, its charts, and its figures as JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.compare.analysis import Comparison, Point, Row, verdicts
from loadtests.compare.traces import MIXES
from sluice import charts
from sluice.bench.samples import percentile
from sluice.plain import finite

_TITLES = {
    "sluice": "Sluice",
    "triton": "Triton",
    "mlserver": "MLServer",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "ray": "Ray Serve",
}
_COLOURS = dict(zip(_TITLES, charts.COLOURS, strict=False))
_SLOW_MS = 5000.0  # charts end there

HEADINGS = (
    "server",
    "setting",
    "rate held /s",
    "of the ceiling",
    "p50 ms",
    "p99 ms",
    "CPU ms per request",
    "memory MiB",
    "goodput /s at 0.8×",
    "at 1.2×",
    "at 2×",
)


def write(comparison: Comparison, docs: Path) -> list[Path]:
    """comparison.md, comparison/*.svg and comparison/figures.json below `docs`."""
    folder = docs / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    written = [docs / "comparison.md", folder / "figures.json"]
    written[0].write_text(page(comparison))
    written[1].write_text(json.dumps(document(comparison), indent=1) + "\n")
    for name, text in drawings(comparison).items():
        written.append(folder / name)
        written[-1].write_text(text)
    return written


def document(comparison: Comparison) -> dict[str, Any]:
    """Every figure, in plain values."""
    run = comparison.run
    found: dict[str, Any] = finite(
        {
            "date": run.date,
            "machine": run.machine,
            "versions": run.versions,
            "settings": run.settings,
            "model_alone_seconds": run.alone,
            "ceilings": comparison.ceilings,
            "rows": [asdict(row) for row in comparison.rows],
            "goals": {
                mix: [{**asdict(each), "met": each.met} for each in verdicts(comparison, mix)]
                for mix in run.options.mixes
            },
        }
    )
    return found


def page(comparison: Comparison) -> str:
    run = comparison.run
    parts = [
        "# Comparison",
        "<!-- Written by `python -m loadtests.compare`; what is changed here by hand is lost. -->",
        _introduction(comparison),
    ]
    for mix in run.options.mixes:
        parts += [f"## {mix.capitalize()}: {MIXES[mix]}", *_goals(comparison, mix), _table(comparison, mix)]
        parts.append("In the charts, *on* and *off* are a peer's dynamic batching.")
        parts.append(f"![Goodput](comparison/{mix}-goodput.svg)\n![p99](comparison/{mix}-p99.svg)")
    parts += ["## How it was measured", _method(comparison), "## Versions and settings", _settings(comparison)]
    if comparison.problems:
        noted = sorted({f"- {each.name}, round {each.round}: {_line(each.text)}" for each in comparison.problems})
        parts += ["## What went wrong", "\n".join(noted)]
    return "\n\n".join(parts) + "\n"


def _introduction(comparison: Comparison) -> str:
    run = comparison.run
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    return "\n\n".join(
        [
            f"The same ONNX model (all-MiniLM-L6-v2, fp32), the same onnxruntime, {run.options.workers} workers of one "
            f"thread each, the same requests, one run. Measured on {run.date}; {machine}.",
            f"The *rate held* is the largest at which at least {run.options.share:.0%} of all requests sent were "
            f"answered in time: within {run.options.target * 1000:.0f} ms, or {run.options.times_alone:g} times what "
            "the bare model needs for that text alone, if that is longer. *Goodput* is what was answered in time, "
            "per second, at fractions of each server's own rate held. The *ceiling* is the bare model on all cores, "
            "without any server: texts sorted by length, batched without padding.",
            _noise(comparison),
        ]
    )


def _noise(comparison: Comparison) -> str:
    """What the run says about its own trustworthiness."""
    foreign = sorted(comparison.foreign)
    middle, most = percentile(foreign, 50), percentile(foreign, 95)
    text = (
        f"While a server was measured, others used {middle:.2f} cores (median; 95th percentile {most:.2f}), "
        f"and the load generator, on the same cores, {statistics.median(comparison.generator):.2f}; its own lateness "
        f"was {percentile(sorted(comparison.late), 95) * 1000:.1f} ms (95th percentile of the runs' 99th)."
        if foreign
        else ""
    )
    for mix, rates in comparison.ceilings.items():
        text += f" The ceiling of {mix} moved between {min(rates):.1f} and {max(rates):.1f}/s."
    if comparison.disturbed:
        text += " **The machine was disturbed: trust only large differences.**"
    return text.strip()


def _goals(comparison: Comparison, mix: str) -> list[str]:
    lines = []
    for each in verdicts(comparison, mix):
        verdict = "no verdict on a disturbed machine" if comparison.disturbed else "met" if each.met else "not met"
        lines.append(f"- {each.text}: **{_times(each.found)}**, the goal is {each.wanted:g}× ({verdict})")
    return ["\n".join(lines)] if lines else []


def _table(comparison: Comparison, mix: str) -> str:
    ceiling = comparison.ceiling(mix)
    lines = [_cells(HEADINGS), _cells(["---", "---", *["--:"] * (len(HEADINGS) - 2)])]
    lines += [_cells(_row(comparison, row, ceiling)) for row in comparison.of(mix)]
    lines.append(_cells(["*bare model*", "", f"{ceiling:.1f}", "1.00", *[""] * (len(HEADINGS) - 4)]))
    return "\n".join(lines)


def _row(comparison: Comparison, row: Row, ceiling: float) -> list[str]:
    lowest = comparison.run.options.ladder(comparison.run.ceilings[row.mix])
    held = f"**{row.held:.1f}**" if row.held else f"below {lowest.rate(lowest.lowest):.1f}"
    at = row.at_held
    told = f"; {row.rows:.1f} rows a batch" if row.rows is not None else ""
    told += f", {row.padding:.0%} padding" if row.padding is not None else ""
    return [
        _name(row.name),
        comparison.run.settings.get(row.name, "") + told,
        held,
        f"{row.held / ceiling:.2f}",
        *(_number(value) for value in ((at.p50, at.p99) if at else (math.nan, math.nan))),
        f"{at.cpu_ms:.1f}" if at else "–",
        _number(row.pss),
        *(_goodput(row.overload.get(fraction)) for fraction in (0.8, 1.2, 2.0)),
    ]


def _goodput(point: Point | None) -> str:
    return f"{point.goodput:.1f} ({point.share:.0%})" if point else "–"


_METHOD = """
- Every server runs {workers} processes (instances, replicas) that compute, one thread each (`intra_op` and `inter_op`
  1, `OMP_NUM_THREADS=1`, no spinning), and pads a batch to its longest text, as its documentation has it. At every
  start its answers to eight different texts sent at once were checked against the bare model.
- Protocols: the Open Inference Protocol over gRPC with raw tensors for Sluice, Triton and MLServer; binary bodies over
  kept HTTP connections for LitServe, Ray Serve and BentoML, but JSON for BentoML's batchable API, which takes no raw
  bodies. Only token ids are sent.
- Load is open: requests leave at their scheduled times whether or not earlier ones were answered, and latency counts
  from those times. A trace has a fixed number of requests, at random times, and its lengths are the mix's quantiles,
  shuffled: traces differ in order and times only. Servers at the same rate get the same one.
- In every round each server is measured once, in random order, at its own next rate: first a search over rates that lie
  {growth:.0%} apart, then {fractions} of the rate held. A window lasts {least:g} to {most:g} s after {warm_up:g} s of
  warm-up. A rate counts as not held when every one of its runs failed: one that fails narrowly is tried {tries} times,
  and the one that ends the search at least twice. The bare model runs in every round, too.
- Servers that are not measured stand idle; LitServe and Ray Serve, which poll, are stopped by a signal meanwhile. CPU
  is that of all of a server's processes, by answer; memory is the largest proportional set size (PSS) of all of them.
- The peers' batching settings are {tuned}. "single" is the peer with its batching off: every request is
  computed alone.
"""


def _method(comparison: Comparison) -> str:
    options = comparison.run.options
    return _METHOD.format(
        workers=options.workers,
        growth=options.growth - 1,
        fractions=", ".join(f"{each:g}×" for each in options.fractions),
        least=options.least_seconds,
        most=options.most_seconds,
        warm_up=options.warm_up,
        tries=options.tries,
        tuned="the best of a small grid, measured on this machine before (`--tune`)"
        if comparison.run.tuned
        else "small batches and short waits, which suit a CPU (`--tune` searches for better ones)",
    ).strip()


def _settings(comparison: Comparison) -> str:
    lines = [_cells(["server", "setting", "versions"]), _cells(["---"] * 3)]
    for name in comparison.run.options.names:
        versions = ", ".join(f"{package} {version}" for package, version in comparison.run.versions[name].items())
        lines.append(_cells([_name(name), comparison.run.settings[name], versions]))
    return "\n".join(lines)


def drawings(comparison: Comparison) -> dict[str, str]:
    """Charts by file name."""
    drawn = {}
    for mix in comparison.run.options.mixes:
        rows = [row for row in comparison.rows if row.mix == mix]
        ceiling = comparison.ceiling(mix)
        size: dict[str, Any] = {"x": "requests per second offered", "width": 760, "height": 420, "aside": True}
        most = max((point.rate for row in rows for point in row.points), default=1.0)
        offered = charts.Series("offered", [(0.0, 0.0), (most, most)], dashed=True, colour="#bbbbbb")
        goodput = charts.Chart(f"Goodput, {mix}", y="in time, per second", level=("ceiling", ceiling), **size)
        p99 = charts.Chart(
            f"Latency, {mix}",
            y="p99 of those answered, ms",
            logarithmic=True,
            most_y=_SLOW_MS,
            level=("target", comparison.run.options.target * 1000),
            **size,
        )
        drawn[f"{mix}-goodput.svg"] = charts.lines(goodput, [*_series(rows, lambda point: point.goodput), offered])
        drawn[f"{mix}-p99.svg"] = charts.lines(p99, _series(rows, lambda point: point.p99))
    return drawn


def _series(rows: Sequence[Row], value: Any) -> list[charts.Series]:
    return [
        charts.Series(
            _short(row.name),
            [(point.rate, value(point)) for point in row.points],
            dashed=row.name.endswith("-single"),
            colour=_COLOURS.get(row.name.partition("-")[0], "#000000"),
        )
        for row in rows
    ]


def _name(name: str) -> str:
    peer, _, mode = name.partition("-")
    return f"{_TITLES.get(peer, peer)}{f', {mode}' if mode else ''}"


def _short(name: str) -> str:
    """For a legend, which has little room."""
    peer, _, mode = name.partition("-")
    return f"{_TITLES.get(peer, peer)}{ {'batching': ' on', 'single': ' off'}.get(mode, '') }"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def _times(value: float) -> str:
    return f"{value:.2f}×" if math.isfinite(value) else "∞"


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
