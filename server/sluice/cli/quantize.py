"""`sluice quantize`: a smaller and faster version of a model, made only if it stays as near to it as is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.console import CommandError, print_json, print_table
from sluice.cli.importing import steps
from sluice.cli.options import Json
from sluice.cli.packages import needs
from sluice.cli.places import version_files
from sluice.cli.progress import size_text
from sluice.errors import system_reason
from sluice.plain import finite

if TYPE_CHECKING:
    from sluice.quantize.nearness import Nearness
    from sluice.quantize.report import Proof, Report
    from sluice.quantize.search import Point

_TO = "int8, uint8, int4, fp16 or bf16."


def quantize(
    target: Annotated[
        str, typer.Argument(metavar="NAME[/N]", help="A model, NAME/N, NAME/ALIAS, or a version's directory.")
    ],
    to: Annotated[str, typer.Option("--to", help=_TO)],
    accuracy: Annotated[
        float,
        typer.Option(
            "--min-accuracy",
            min=0.0,
            max=1.0,
            help="Mean cosine to the parent's answers; of classes, the share that agrees.",
        ),
    ] = 0.995,
    neighbours: Annotated[
        float,
        typer.Option("--min-neighbours", min=0.0, max=1.0, help="Share of samples that keep their nearest neighbour."),
    ] = 0.0,
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="FILE", help="Texts or inputs as JSON lines.", show_default="made up"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=32, help="At most so many; half are for the proof.")] = 600,
    number: Annotated[
        str | None, typer.Option("--as", metavar="N", help="Version to create.", show_default="the next that is free")
    ] = None,
    repository: Annotated[Path, typer.Option("--repository", "-r", help="Directory of models.")] = Path("models"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and report, and make no version.")] = False,
    record: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the report as JSON there as well.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write the plot there as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find which layers can have fewer bits, prove how near and how fast the model is then, and make it a version.

    Nothing is made below the bounds: exit code 1.
    """
    for path in filter(None, (record, picture)):
        _try(path)  # before minutes of work
    with needs("onnx", "onnxruntime", "tokenizers"):
        from sluice.quantize.maker import Wish, quantize
        from sluice.quantize.nearness import Bounds

        bounds = Bounds(accuracy, neighbours)
        files = version_files(target, repository)
        models = files.directory.parents[1]
        wish = Wish(models, files, to, bounds, calibrate, samples, number=number, publish=not dry_run)
        with steps() as progress:
            report = quantize(wish, progress)
    if as_json:
        print_json(finite(report.plain()))
    else:
        _print(report)
    unwritten = [
        why
        for path, text in ((record, report.record), (picture, report.picture))
        if path is not None and (why := _written(path, text()))
    ]
    if unwritten:
        made = f"; {report.version} is made all the same, in {report.directory}" if report.directory else ""
        told = [*unwritten, *(f"no version is made: {each}" for each in report.missed)]
        raise CommandError(f"{'; '.join(told)}{made}")
    if report.missed:
        hint = "ask for less, or give data of your own with --calibrate; the table shows what there is"
        raise CommandError(f"{target}: no version is made: {'; '.join(report.missed)}", hint)


def _try(path: Path) -> None:
    """CommandError if a file cannot be written there; what is in it stays."""
    try:
        there = path.exists()
        _make_room(path)
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {system_reason(error)}") from error


def _make_room(path: Path) -> None:
    if not path.parent.exists():
        path.parent.mkdir(parents=True)


def _written(path: Path, text: str) -> str:
    """Why it could not be written; empty if it is."""
    try:
        _make_room(path)
        path.write_text(text, "utf-8")
    except OSError as error:
        return f"{path}: cannot be written: {system_reason(error)}"
    return ""


def _print(report: Report) -> None:
    front = report.frontier()
    points = sorted(report.found.points, key=lambda point: -point.speed)
    measures = list(dict.fromkeys(name for point in points for name in point.nearness.measures))
    others = any(point.nearness.others for point in points)
    names = [*(name.replace("_", " ") for name in measures), *(["other outputs"] if others else [])]
    print_table(
        ("", "choice", "speed", *names, "in a batch", "32 bits", "size"),
        [
            (
                "chosen" if point is report.chosen else "frontier" if point in front else "",
                point.name + ("" if point.eligible else " (only compared)"),
                f"×{point.speed:.2f}",
                *(f"{point.nearness.of(name):.5f}" for name in measures),
                *([f"{_worst(point):.5f}"] if others else []),
                f"{point.nearness.difference:.1g}",
                str(point.kept),
                size_text(point.size),
            )
            for point in points
        ],
    )
    if report.proof is not None and report.chosen is not None:
        _print_proof(report, report.proof, report.chosen)
    if report.directory:
        print(f"\n{report.version} is in {report.directory}")


def _print_proof(report: Report, proof: Proof, chosen: Point) -> None:
    from sluice.quantize.report import mixture

    lengths = ", ".join(f"×{speed:.2f} at {length}" for length, speed in proof.by_length.items())
    rows = [
        ("layers", mixture(chosen)),
        ("samples", f"{proof.samples} of {report.data}, which nothing was chosen by"),
        ("attempts", _attempts(report)),
        *((name.replace("_", " "), f"{value:.5f}") for name, value in (*proof.nearness.measures.items(),)),
        *((f"output '{name}'", _measured(other)) for name, other in proof.nearness.others.items()),
        *((f"{name} by labels", f"{value:.5f}") for name, value in proof.tasks.items()),
        ("speed", f"×{proof.speed:.2f} of the parent's on these samples; alone {lengths}"),
        ("size", f"{size_text(chosen.size)} instead of {size_text(report.parents_size)}"),
        ("in a batch", f"answers differ by {proof.nearness.difference:.1g} at most from those alone"),
        ("processor", f"{report.machine.name}, sums of bytes {report.machine.bytes}"),
    ]
    print()
    print_table(("proof", chosen.name), rows)


def _measured(near: Nearness) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.5f}" for name, value in near.measures.items())


def _attempts(report: Report) -> str:
    *refused, _ = report.attempts
    return "1" if not refused else f"{len(report.attempts)}; refused: " + "; ".join(
        f"{each.name}: {', '.join(each.missed)}" for each in refused
    )  # fmt: skip


def _worst(point: Point) -> float:
    """How near the other output is that lost most."""
    return 1 - max(other.loss for other in point.nearness.others.values())
