"""`sluice import`: turns a directory of weights into a model of the repository."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sluice.cli.console import CommandError, terminal
from sluice.cli.packages import needs

Report = Callable[[str, int, int], None]  # step, how much of it is done, how much there is
DEMO = "demo"


def import_model(
    source: Annotated[str, typer.Argument(help="A Hugging-Face-style directory, or 'demo' for the demo model.")],
    name: Annotated[str, typer.Option("--name", help="What the model is called in the repository.")],
    repository: Annotated[Path, typer.Option("--repository", "-r", help="Directory of models.")] = Path("models"),
    version: Annotated[str, typer.Option("--version", help="Version to create, a whole number.")] = "1",
) -> None:
    """Convert a model to ONNX and put it into the repository; what is there already is kept."""
    if source != DEMO and not Path(source).is_dir():
        raise CommandError(f"{source}: there is no such directory", f"`sluice import {DEMO}` needs none")
    with needs("onnx", "safetensors", "tokenizers", "onnxruntime"):
        from sluice.convert.demo import demo_source
        from sluice.convert.importer import import_directory

        existed = (repository / name / version).exists()
        directory = demo_source() if source == DEMO else Path(source)
        with steps() as report:
            place = import_directory(directory, repository, name, version, report)
    print(f"{name} version {version} is {f'already in {place}, nothing to do' if existed else f'in {place}'}")


@contextmanager
def steps() -> Iterator[Report]:
    """A bar on a terminal, one line per step elsewhere."""
    console = terminal(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        yield report


class _Lines:
    def __init__(self) -> None:
        self._step = ""

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self._step = step
            terminal(stderr=True).print(step)
