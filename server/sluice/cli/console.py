"""What the commands write: answers on standard output, errors and progress on standard error."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sluice.errors import SluiceError

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 1000  # where no terminal cuts lines, neither do we
_STATE_STYLES = {"READY": "green", "ok": "green", "degraded": "yellow", "UNAVAILABLE": "red", "failed": "red"}


class CommandError(SluiceError):
    """A command could not do what it was asked; `hint` says what to try."""

    reason = "command"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def terminal(stderr: bool = False) -> "Console":
    """A console that prints text as it is: no markup, no highlighting, no emoji."""
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under headings; a cell that names a state is coloured on a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = terminal()
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(text) for text in row))
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _cell(text: str) -> Any:
    from rich.text import Text

    return Text(text, style=_STATE_STYLES.get(text, ""))


def print_error(error: SluiceError) -> None:
    for line in error.message.splitlines() or [type(error).__name__]:
        print(f"error: {line}", file=sys.stderr)
    if isinstance(error, CommandError) and error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
