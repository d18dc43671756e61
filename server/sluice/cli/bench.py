"""`sluice bench`: how much load a server of the protocol holds within a latency target."""

import json
import os
import platform
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.client import DEFAULT_URL, Url
from sluice.cli.console import print_json, print_table, terminal
from sluice.cli.options import Json

if TYPE_CHECKING:
    from sluice.bench.session import Load, Result, Step


_MOST_RATE = 1_000_000


class Arrivals(StrEnum):
    POISSON = "poisson"
    CONSTANT = "constant"


def bench(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    url: Url = DEFAULT_URL,
    target: Annotated[float, typer.Option(min=0.001, help="Latency target in seconds.")] = 0.25,
    share: Annotated[float, typer.Option(min=0.5, max=1, help="Share of the requests that have to meet it.")] = 0.99,
    rates: Annotated[
        str,
        typer.Option(metavar="R,R,…", help="Requests per second to try; without it the largest rate held is searched."),
    ] = "",
    start: Annotated[float, typer.Option(min=0.1, help="The rate a search starts from.")] = 20.0,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Most rates that a search tries.")] = 12,
    lengths: Annotated[
        str,
        typer.Option(
            help="lognormal[:MEDIAN:P95[:MOST]], bimodal, constant:LENGTH, or a file with a length on each line."
        ),
    ] = "lognormal",
    arrivals: Annotated[Arrivals, typer.Option(help="How requests follow one another.")] = Arrivals.POISSON,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds measured at each rate.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, max=600, help="Seconds of load before them, not measured.")] = 2.0,
    deadline: Annotated[
        bool, typer.Option("--deadline", help="Send the target as each request's deadline, too.")
    ] = False,
    as_json_tensors: Annotated[
        bool, typer.Option("--json-tensors", help="HTTP: tensors in JSON instead of binary.")
    ] = False,
    connections: Annotated[
        int, typer.Option(min=0, max=10000, help="gRPC channels, or most HTTP connections; 0 = 4 and 1024.")
    ] = 0,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that send.")] = 1,
    patience: Annotated[
        float, typer.Option(min=0, max=600, help="Seconds after which a request is given up; 0 = ten times the target.")
    ] = 0.0,
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Rows of each request.")] = 1,
    ids: Annotated[str, typer.Option(metavar="LOW:HIGH", help="Range of made-up token ids.")] = "1000:20000",
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="NAME=D,D,…", help="Shape of an input, with L for the length. Repeatable."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model; the server chooses if not given.")] = "",
    metrics_url: Annotated[str, typer.Option(help="Sluice's metrics page, for the share of padding.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same load.")] = 1,
    report: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write PATH.html, with plots, and PATH.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Load a model of any Open Inference Protocol server at rising rates, and report what arrives within a target.

    Requests leave at their scheduled times whether or not earlier ones were answered, and latency counts from those
    times. The URL says the protocol: http://, https://, grpc:// or grpcs://.
    """
    from sluice.bench import report as reports
    from sluice.bench.address import address
    from sluice.bench.bodies import Making
    from sluice.bench.generators import Generators
    from sluice.bench.search import Search
    from sluice.bench.senders import Wire
    from sluice.bench.server import Model
    from sluice.bench.session import Bench, Load, made_bodies
    from sluice.bench.traffic import mix

    wanted = _rates(rates)
    load = Load(mix(lengths), target, share, arrivals.value, seconds, warm_up, seed)
    served = Model(address(url), model, version, metrics_url)
    making = Making(rows, _ids(ids), dict(_shape(each) for each in shapes or []))
    patience = patience or max(10 * target, 1.0)
    made = made_bodies(served, load.mix.support, making, not as_json_tensors, target if deadline else 0.0)
    wire = Wire(served.server, made, patience, target if deadline else 0.0, connections)
    running = Bench(served, load, wire, _progress)
    generators = Generators(processes)
    generators.start()
    try:
        result = (
            running.rates(generators, wanted) if wanted else running.search(generators, Search(start, most_steps=steps))
        )
    finally:
        generators.close()
    about = {"server": url, "model": model, "generator": f"{os.cpu_count()} cores, {platform.platform()}"}
    if report is not None:
        report.with_suffix(".json").write_text(json.dumps(reports.document(about, load, result), indent=1))
        report.with_suffix(".html").write_text(reports.page(about, load, result))
    if as_json:
        print_json(reports.document(about, load, result))
    else:
        _show(load, result)


def _rates(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is no list of numbers", param_hint="--rates") from error
    if any(not 0 < rate < _MOST_RATE for rate in found):
        raise typer.BadParameter(f"rates lie between 0 and {_MOST_RATE:,}", param_hint="--rates")
    return sorted(found)


def _ids(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and int(low) < int(high)):
        raise typer.BadParameter(f"'{text}' is not of the form LOW:HIGH", param_hint="--ids")
    return int(low), int(high)


def _shape(text: str) -> tuple[str, tuple[int | None, ...]]:
    name, equals, sizes = text.rpartition("=")
    parts = sizes.split(",")
    if not equals or not all(part == "L" or part.isdecimal() for part in parts):
        raise typer.BadParameter(f"'{text}' is not of the form NAME=D,D,…", param_hint="--shape")
    return name, tuple(None if part == "L" else int(part) for part in parts)


def _progress(step: "Step") -> None:
    figures = step.figures
    p99 = figures.percentiles["p99"] * 1000
    terminal(stderr=True).print(
        f"{figures.rate:8.1f}/s  {figures.share:7.2%} in time  p99 {p99:7.1f} ms  {'held' if step.held else 'missed'}"
    )


def _show(load: "Load", result: "Result") -> None:
    from sluice.bench.report import HEADINGS, row

    print_table(HEADINGS, [row(step) for step in sorted(result.steps, key=lambda step: step.figures.rate)])
    if result.held_rate:
        print(f"\nlargest rate held: {result.held_rate:.1f}/s ({load.share:.0%} within {load.target * 1000:g} ms)")
    for note in result.notes:
        print(f"! {note}")
