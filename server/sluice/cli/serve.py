"""`sluice serve`: starts the server and says what it serves."""

import os
import sys
from typing import TYPE_CHECKING

import typer

from sluice.cli.console import print_table
from sluice.cli.options import LoadedSettings
from sluice.cli.packages import needs

if TYPE_CHECKING:
    from sluice.app import Announcement


def serve(loaded: LoadedSettings) -> None:
    """Serve the models of a repository over HTTP and gRPC until stopped.

    Every setting has a flag here; `sluice config` shows where each value comes from.
    """
    # What matters of it is raised as well; grpc, which reads this as it is imported, would write around our logs.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with needs("onnxruntime"):
        from sluice.app import serve as run
    raise typer.Exit(run(loaded.settings, _announce))


def _announce(announcement: "Announcement") -> None:
    # Nobody may be reading, on which rich exits, or the disk may be full: a server goes on serving.
    try:
        _print(announcement)
    except (OSError, SystemExit):
        # What could not be written must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(announcement: "Announcement") -> None:
    if announcement.models:
        rows = [(row.name, row.version, row.state, row.reason) for row in announcement.models]
        print_table(("model", "version", "state", "reason"), rows)
    else:
        print("No models yet.")
    print(f"\nHTTP     {announcement.http}")
    print(f"gRPC     {announcement.grpc}")
    print(f"metrics  {announcement.metrics}")
    if announcement.curl:
        print(f"\nTry it:\n{announcement.curl}")
    print(end="", flush=True)
