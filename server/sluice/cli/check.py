"""`sluice check`: validates a repository and runs each model once, without serving."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from sluice.cli.console import print_json, print_table, terminal
from sluice.cli.options import Json, LoadedSettings
from sluice.cli.packages import needs


def check(
    loaded: LoadedSettings,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Models to check; all by default.")] = None,
    as_json: Json = False,
) -> None:
    """Load every model of a repository, run it once and report; exit code 1 if any of them has a problem."""
    with needs("onnxruntime"):
        from sluice.app import check as run
    with terminal(stderr=True).status("checking models…"):
        rows = asyncio.run(run(loaded.settings, names or []))
    if as_json:
        print_json([asdict(row) for row in rows])
    elif rows:
        print_table(
            ("model", "version", "result", "seconds", "padding", "reason"),
            [
                (
                    row.name,
                    row.version,
                    "ok" if row.ok else "failed",
                    f"{row.seconds:.2f}",
                    str(row.padding),
                    row.reason,
                )
                for row in rows
            ],
        )
    else:
        print(f"no models in {loaded.settings.models.repository}")
    raise typer.Exit(0 if all(row.ok for row in rows) else 1)
