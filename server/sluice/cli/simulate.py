"""`sluice simulate`: the scheduler in virtual time, against recorded or made-up traffic and against other rules."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice.cli import scenarios
from sluice.cli.console import print_json, print_table, terminal
from sluice.cli.options import Command, Group, Json
from sluice.cli.scenarios import Arrivals, Device

if TYPE_CHECKING:
    from sluice.simulation.scenario import Answer, Scenario

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="The scheduler in virtual time: what traffic it holds on which workers, and what other rules would.",
)


_RULES = "sluice, triton, tei, buckets, mlserver, bento, clipper, turbo, symphony, none, or all"
_DEFAULT_TIMES = 10  # without a target, as in the server: so many times what the longest request takes alone

WorldName = Annotated[Device, typer.Option("--world", help="A device made up: a typical GPU or CPU.")]
CostFile = Annotated[
    Path | None,
    typer.Option(
        "--cost", metavar="FILE", help="A device as a server learned it: <model>/.learned/*.json. Instead of --world."
    ),
]
LengthsText = Annotated[
    str,
    typer.Option(
        "--lengths",
        help="lognormal[:MEDIAN:P95[:MOST]], bimodal, constant[:LENGTH], or a file with a length on each line.",
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        "--traffic",
        metavar="FILE",
        help="Recorded traffic instead of made-up: CSV or JSON lines with arrival (seconds) and length, and, if they "
        "differ, rows, deadline (seconds after arrival), priority, tenant, model.",
    ),
]
ArrivalsName = Annotated[Arrivals, typer.Option("--arrivals", help="How made-up requests follow one another.")]
Rows = Annotated[str, typer.Option(metavar="ROWS=SHARE,…", help="Rows of the requests, as 1=0.9,8=0.1.")]
Target = Annotated[
    float,
    typer.Option(min=0, help="Latency target in seconds; 0 = ten times what the longest request takes alone."),
]
Noise = Annotated[float, typer.Option(min=0, max=1, help="Spread of a batch's time about its mean, as a share.")]
Gap = Annotated[float, typer.Option(min=0, help="Seconds from a batch's end until its worker can start another.")]
MostRows = Annotated[int, typer.Option(min=1, max=65536, help="Most rows in a batch of ours.")]
MostTokens = Annotated[int, typer.Option(min=1, help="Most padded tokens in a batch of ours.")]
Steps = Annotated[
    str,
    typer.Option(
        metavar="exact|N|learned:N", help="What ours pads to: the longest, multiples of N, N learned lengths."
    ),
]
Requests = Annotated[
    int, typer.Option(min=0, max=10_000_000, help="Requests to make up, or to take from a recording; 0 = enough.")
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same simulation.")]


@app.command("run", cls=Command)
def run(
    world: WorldName = Device.GPU,
    cost: CostFile = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers.")] = 1,
    target: Target = 0.0,
    rules: Annotated[str, typer.Option(help=f"Whose scheduling: {_RULES}; several with commas.")] = "sluice",
    tune: Annotated[bool, typer.Option("--tune", help="Try several settings of triton, tei and buckets.")] = False,
    load: Annotated[
        str, typer.Option(metavar="L,L,…", help="Loads, as parts of what the workers could do at the very best.")
    ] = "",
    rate: Annotated[str, typer.Option(metavar="R,R,…", help="Requests per second, instead of --load.")] = "",
    lengths: LengthsText = "lognormal",
    arrivals: ArrivalsName = Arrivals.POISSON,
    traffic: Trace = None,
    rows: Rows = "",
    models: Annotated[
        str,
        typer.Option(
            metavar="NAME=SHARE[:FACTOR],…", help="Several models: share of the requests, factor of the device's time."
        ),
    ] = "",
    tenants: Annotated[
        str, typer.Option(metavar="NAME=SHARE[:WEIGHT],…", help="Several tenants: share of the requests, weight.")
    ] = "",
    priorities: Annotated[
        str, typer.Option(metavar="LEVEL=SHARE,…", help="Priorities from 1, the most urgent, over 5, the usual, to 10.")
    ] = "",
    deadlines: Annotated[
        str,
        typer.Option(metavar="SECONDS=SHARE,…", help="Deadlines that the clients set, as 0.05=0.5,inf=0.5."),
    ] = "",
    slow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORKER:FACTOR[:FROM]", help="A slow worker (0 is the first; 'all'), from a time on. Repeatable."
        ),
    ] = None,
    death: Annotated[
        list[str] | None,
        typer.Option(metavar="WORKER:AT:AWAY", help="A worker dies at a time and is back after AWAY seconds."),
    ] = None,
    requests: Requests = 0,
    noise: Noise = 0.05,
    gap: Gap = 0.0,
    max_rows: MostRows = 512,
    max_tokens: MostTokens = 65536,
    steps: Steps = "exact",
    cold: Annotated[bool, typer.Option("--cold", help="Ours starts without having measured the device.")] = False,
    seed: Seed = 0,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write SVG pictures of everything against the load.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write the figures as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate traffic at one or several loads under one or several rules."""
    from sluice.simulation import report
    from sluice.simulation.rules import chosen
    from sluice.simulation.scenario import Scenario, Traffic, enough
    from sluice.simulation.search import Trials

    base = scenarios.world(world, cost)
    model_shares, factors = scenarios.pairs(models, "--models", str)
    tenant_shares, weights = scenarios.pairs(tenants, "--tenants", str)
    source = scenarios.source(
        traffic,
        lengths,
        arrivals,
        {
            "rows": scenarios.shares(rows, "--rows", int),
            "models": model_shares,
            "tenants": tenant_shares,
            "priorities": scenarios.shares(priorities, "--priorities", int),
            "deadlines": scenarios.shares(deadlines, "--deadlines", float),
        },
    )
    scenario = Scenario(
        scenarios.worlds(base, source, factors),
        source,
        workers,
        target or _DEFAULT_TIMES * base.seconds(1, source.longest),
        scenarios.count(source, requests),
        seed,
        noise,
        gap,
        [scenarios.slow(each, workers) for each in slow or []],
        [scenarios.death(each, workers) for each in death or []],
        weights,
        max_rows,
        max_tokens,
    )
    if not scenario.requests:
        scenario = enough(scenario, max(scenarios.numbers(load, "--load")) if load else 1.0)
    made = Traffic(scenario)
    rates = scenarios.rates(load, rate, made, source)
    answers: dict[str, list[Answer]] = {}
    for name, kind in chosen(rules, scenarios.making(source, steps, cold)).items():
        trials = Trials(made, kind, tune)
        answers[name] = []
        for each in rates:
            found = [trials.at_rate(setting, each) for setting in range(len(trials.settings))]
            answers[name].append(max(found, key=lambda answer: answer.figures.in_time))
            _progress(f"{name}: {answers[name][-1].figures.in_time:.2%} in time at {each:.1f}/s", as_json)
    about = _about(scenario)
    if plots is not None:
        _write_pictures(plots, report.pictures(answers, scenario.target))
    if output is not None:
        output.write_text(json.dumps(report.document(about, answers), indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(report.document(about, answers))
        return
    print_table(report.HEADINGS, [report.row(name, each) for name, found in answers.items() for each in found])
    parts = [row for name, found in answers.items() for each in found for row in report.part_rows(name, each)]
    if parts:
        print_table(report.PART_HEADINGS, parts)


@app.command("study", cls=Command)
def study(
    output: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Where study.json, study.md and study.svg go. What is there is kept."),
    ],
    rules: Annotated[str, typer.Option(help=f"Whose scheduling: {_RULES}; several with commas.")] = "sluice",
    cells: Annotated[str, typer.Option(help="Only cells whose name contains this, as 'gpu lognormal'.")] = "",
    tune: Annotated[bool, typer.Option(help="Tune triton, tei and buckets in each cell.")] = True,
    scale: Annotated[float, typer.Option(min=0.01, max=100, help="Requests, as a factor of the usual.")] = 1.0,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes that work at it.")] = 1,
    as_json: Json = False,
) -> None:
    """The largest load each rule holds in eighteen cells: device, lengths, workers, target.

    A load is held when 99 % of the requests are in time. Loads are parts of the strict fluid bound, found by bisection
    to 1/64. A rule that is studied again replaces its earlier line.
    """
    from sluice.simulation import report
    from sluice.simulation.rules import chosen
    from sluice.simulation.sluice_rule import Making
    from sluice.simulation.study import CELLS, Found, Plan, Record
    from sluice.simulation.study import run as run_study

    names = list(chosen(rules, Making()))
    wanted = [cell for cell in CELLS if cells in cell.name]
    if not wanted:
        raise typer.BadParameter(
            f"no cell's name contains '{cells}'; the first is '{CELLS[0].name}'", param_hint="--cells"
        )
    output.mkdir(parents=True, exist_ok=True)
    record = Record(output / "study.json")
    count = 0

    def tell(found: Found) -> None:
        nonlocal count
        count += 1
        _progress(
            f"{count}/{len(names) * len(wanted)}  {found.rule}, {found.cell}: {found.held:.2f}, {found.fair:.2f} with "
            f"every length  {found.setting}  {found.seconds:.0f} s",
            as_json,
        )

    for found in run_study(Plan(names, wanted, tune, scale, seed), jobs, tell):
        record.add(found)
    text = (
        f"99 % in time:\n\n{report.study_table(record)}\n"
        f"and 97 % of the worst class of lengths:\n\n{report.study_table(record, fair=True)}"
    )
    (output / "study.md").write_text(text, encoding="utf-8")
    _write_pictures(output, {"study": report.study_picture(record)})
    if as_json:
        print_json(record.document())
    else:
        print(text)


@app.command("capacity", cls=Command)
def capacity(
    world: WorldName = Device.GPU,
    cost: CostFile = None,
    workers: Annotated[str, typer.Option(metavar="K,K,…", help="Numbers of workers.")] = "1,2,4,8",
    target: Target = 0.0,
    share: Annotated[float, typer.Option(min=0.5, max=1, help="Share of the requests that have to be in time.")] = 0.99,
    worst: Annotated[float, typer.Option(min=0, max=1, help="And of the class of lengths that fares worst.")] = 0.97,
    rules: Annotated[str, typer.Option("--rule", help=f"Whose scheduling: one of {_RULES}.")] = "sluice",
    lengths: LengthsText = "lognormal",
    arrivals: ArrivalsName = Arrivals.POISSON,
    traffic: Trace = None,
    rows: Rows = "",
    requests: Requests = 0,
    noise: Noise = 0.05,
    gap: Gap = 0.0,
    max_rows: MostRows = 512,
    max_tokens: MostTokens = 65536,
    steps: Steps = "exact",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The largest rate that so many of these workers hold within the target, with this traffic."""
    from sluice.simulation import report
    from sluice.simulation.capacity import capacities
    from sluice.simulation.rules import chosen
    from sluice.simulation.scenario import Scenario
    from sluice.simulation.search import Wanted

    base = scenarios.world(world, cost)
    source = scenarios.source(traffic, lengths, arrivals, {"rows": scenarios.shares(rows, "--rows", int)})
    scenario = Scenario(
        scenarios.worlds(base, source, {}),
        source,
        1,
        target or _DEFAULT_TIMES * base.seconds(1, source.longest),
        scenarios.count(source, requests),
        seed,
        noise,
        gap,
        most_rows=max_rows,
        most_tokens=max_tokens,
    )
    counts = scenarios.whole_numbers(workers, "--workers", 64)
    kinds = chosen(rules, scenarios.making(source, steps, cold=False))
    if len(kinds) != 1:
        raise typer.BadParameter("one rule at a time", param_hint="--rule")
    kind = next(iter(kinds.values()))
    found = capacities(
        scenario,
        counts,
        kind,
        Wanted(share, worst),
        lambda each: _progress(f"{each.workers} workers: {each.fair_rate:.1f}/s", as_json),
    )
    if as_json:
        print_json({**_about(scenario), "rule": rules, "capacities": [asdict(each) for each in found]})
        return
    print_table(report.CAPACITY_HEADINGS, [report.capacity_row(each) for each in found])
    print(
        f"\n{share:.0%} within {scenario.target * 1000:g} ms, and {worst:.0%} of every class of lengths; {source.name}"
    )


def _progress(text: str, quiet: bool) -> None:
    if not quiet:
        terminal(stderr=True).print(text)


def _about(scenario: "Scenario") -> dict[str, Any]:
    return {
        "device": {model: world.name for model, world in scenario.worlds.items()},
        "traffic": scenario.source.name,
        "workers": scenario.workers,
        "target": scenario.target,
        "requests": scenario.requests,
        "seed": scenario.seed,
        "noise": scenario.noise,
        "gap": scenario.gap,
    }


def _write_pictures(directory: Path, pictures: Mapping[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pictures.items():
        (directory / f"{name}.svg").write_text(text + "\n", encoding="utf-8")
