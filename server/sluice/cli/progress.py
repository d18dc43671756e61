"""How far a long command is, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sluice.cli.console import terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from sluice.store.package import Progress


def size_text(size: int) -> str:
    """As in 91.2 MB."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar for each step on a terminal, nothing elsewhere."""
    from sluice.store.package import silent

    console = terminal(stderr=True)
    if not console.is_terminal:
        yield silent
        return
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with bars(console, DownloadColumn(), TransferSpeedColumn()) as report:
        yield report


@contextmanager
def bars(console: Console, *columns: ProgressColumn) -> Iterator[Progress]:
    """A bar for each step, with what these columns tell of it."""
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=console) as shown:
        tasks = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = shown.add_task(step, total=total)
            shown.update(tasks[step], completed=done, total=total)

        yield report
