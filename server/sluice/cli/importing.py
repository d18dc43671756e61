"""`sluice import`: turns a model of another format into a version of the repository."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sluice.cli.console import terminal
from sluice.cli.packages import needs
from sluice.cli.progress import bars

Report = Callable[[str, int, int], None]  # step, how much of it is done, how much there is
DEMO = "demo"
_PACKAGES = (
    *("onnx", "safetensors", "tokenizers", "onnxruntime", "torch", "onnxscript"),
    *("sklearn", "skl2onnx", "skops", "joblib", "xgboost", "lightgbm", "onnxmltools"),
)
_SOURCE = (
    "A Hugging-Face-style directory; an ONNX file or a directory with one; a program of PyTorch (.pt2, .pt) or a "
    "function that makes one (FILE.py:FUNCTION); an estimator of scikit-learn (.skops, .joblib); trees of XGBoost "
    "(.json, .ubj) or LightGBM (.txt); or 'demo' for the demo model."
)
_INPUT = "What a program of PyTorch takes, as input_ids=INT64[batch,sequence]. Repeatable."
_ALLOW = "Run the code that programs, functions and pickles are. Only if you would run any program from there."


def import_model(
    source: Annotated[str, typer.Argument(help=_SOURCE)],
    name: Annotated[str, typer.Option("--name", help="What the model is called in the repository.")],
    repository: Annotated[Path, typer.Option("--repository", "-r", help="Directory of models.")] = Path("models"),
    version: Annotated[str, typer.Option("--version", help="Version to create, a whole number.")] = "1",
    inputs: Annotated[list[str] | None, typer.Option("--input", metavar="NAME=TYPE[SIZES]", help=_INPUT)] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", exists=True, dir_okay=False, help="A program's tokenizer.json.")
    ] = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help=_ALLOW)] = False,
) -> None:
    """Convert a model to ONNX and put it into the repository; what is there already is kept."""
    with needs(*_PACKAGES):
        from sluice.convert.demo import demo_source
        from sluice.convert.kinds import Wishes, import_source

        place = str(demo_source()) if source == DEMO else source
        existed = (repository / name / version).exists()
        with steps() as report:
            wishes = Wishes(tuple(inputs or ()), allow_code, tokenizer)
            directory = import_source(place, wishes, repository, name, version, report)
    told = f"already in {directory}, nothing to do" if existed else f"in {directory}"
    print(f"{name} version {version} is {told}")


@contextmanager
def steps() -> Iterator[Report]:
    """A bar on a terminal, one line per step elsewhere."""
    console = terminal(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    with bars(console, MofNCompleteColumn(), TimeElapsedColumn()) as report:
        yield report


class _Lines:
    def __init__(self) -> None:
        self._step = ""

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self._step = step
            terminal(stderr=True).print(step)
