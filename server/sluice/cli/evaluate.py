"""`sluice evaluate`: computes how accurate and how stable a version is, and writes it into its manifest."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.console import CommandError, print_json, print_table
from sluice.cli.importing import steps
from sluice.cli.options import Json, LoadedSettings
from sluice.cli.packages import needs
from sluice.cli.places import version_files
from sluice.plain import finite

if TYPE_CHECKING:
    from sluice.evaluation.evaluate import Report

_TASKS = ("embedding", "classification", "token-classification", "rerank", "other")


def evaluate(
    loaded: LoadedSettings,
    target: Annotated[
        str, typer.Argument(metavar="NAME[/N]", help="A model, NAME/N, NAME/ALIAS, or a version's directory.")
    ],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="VERSION", help="Compare with it: N, an alias, NAME, or NAME/N."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="JSON lines to evaluate on.", show_default="made-up input"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Evaluate on at most so many rows.")] = 500,
    min_accuracy: Annotated[
        float | None,
        typer.Option("--min-accuracy", help="Fail below this: cosine or agreement; by labels, accuracy or spearman."),
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option(
            "--min", metavar="MEASURE=X", help="Fail where this measure is less, as neighbours=0.97. Repeatable."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail also for what is only noted otherwise.")] = False,
    output: Annotated[
        str, typer.Option("--output", metavar="NAME", help="The output to measure.", show_default="the first")
    ] = "",
    task: Annotated[
        str, typer.Option("--task", help=f"What it is: {', '.join(_TASKS)}.", show_default="as its manifest says")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is made up.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write although it is signed; sign it again then.")] = False,
    no_write: Annotated[bool, typer.Option("--no-write", help="Leave the manifest as it is.")] = False,
    as_json: Json = False,
) -> None:
    """Compute how accurate and stable a version is, and write it into its manifest; exit code 1 if it fails."""
    models = loaded.settings.models
    if task and task not in _TASKS:
        raise CommandError(f"--task {task}: must be one of {', '.join(_TASKS)}")
    bounds = dict(_bound(each) for each in least or [])
    with needs("onnxruntime", "tokenizers"):
        from sluice.evaluation import record
        from sluice.evaluation.evaluate import Asked
        from sluice.evaluation.evaluate import evaluate as run
        from sluice.evaluation.runner import Allowed

        files = version_files(target, models.repository)
        other = version_files(against, models.repository, files) if against is not None else None
        if not (no_write or force) and record.signed(files.directory):
            raise CommandError(
                f"{files.model}/{files.version} is signed, and its signature ends when its manifest is written to",
                "evaluate before signing; or --force, and sign again; or --no-write",
            )
        asked = Asked(data, samples, seed, output, task, min_accuracy, bounds, strict)
        with steps() as progress:
            report = run(files, other, asked, Allowed(models.python_directories, models.pickle_directories), progress)
        written = not no_write and record.write(files.directory, report)
    if as_json:
        print_json(finite(_document(report, written)))
    else:
        _print(report)
    if not written and not no_write:
        print(
            f"not written: it has no manifest; `sluice seal {files.model}/{files.version}` makes one", file=sys.stderr
        )
    elif written and record.signed(files.directory):
        print("its signature is no longer valid: sign it again", file=sys.stderr)
    raise typer.Exit(0 if report.passed else 1)


def _bound(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise CommandError(f"--min {text}: must be MEASURE=NUMBER, as neighbours=0.97") from None


def _document(report: "Report", written: bool) -> dict[str, object]:
    document = asdict(report)
    document["batching"] = (
        {"padding": report.batching.padding.value, "difference": report.batching.difference}
        if report.batching is not None
        else None
    )
    return {"verdict": report.verdict, **document, "written": written}


def _print(report: "Report") -> None:
    short = report.short
    rows = [(check.name, check.result, check.detail) for check in report.checks]
    for name, value in report.measures.items():
        least = report.required.get(name)
        result = "" if least is None else "failed" if name in short else "ok"
        bound = "" if least is None else f", at least {least:g}"
        rows.append((_called(name, report), result, f"{value:.6g}{bound}"))
    print_table((f"{report.model}/{report.version}", "result", "detail"), rows)
    sealed = "" if report.digest else ", not sealed"
    told = f"{report.samples} samples of {report.data}, output '{report.output}' ({report.kind})"
    print(f"\n{report.verdict}: {told}{sealed}")


def _called(name: str, report: "Report") -> str:
    """A measure's name, and with what it compares."""
    compared = report.against and name in ("cosine_mean", "cosine_min", "neighbours", "agreement", "order")
    return f"{name} against {report.against}" if compared else name
