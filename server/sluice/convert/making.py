"""What a kind of source has to do to be imported: say what it depends on, and fill a directory with a version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sluice.errors import ModelError

MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"
LARGEST_SINGLE_FILE = 1_900_000_000  # one protobuf message ends at 2 GiB

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


def silent(step: str, done: int, total: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Made:
    """What is to be said of a version that was made."""

    task: str = "other"
    settings: str = ""  # the text of model.toml; "" = the graph tells everything


class Convertible(Protocol):
    """One thing that can become a version."""

    @property
    def place(self) -> Path:
        """The file or directory that it is."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything the result depends on; none = nobody can tell without making it."""

    @property
    def said(self) -> tuple[str, ...]:
        """What was asked for beside, and changes the result."""

    def make(self, staging: Path, progress: Progress) -> Made:
        """Write the model and what belongs to it, checked by running it; ModelError says why not."""


def save(model: Any, directory: Path) -> None:
    """Write an ONNX model, its weights beside it where one file would be too large."""
    import onnx

    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > LARGEST_SINGLE_FILE:
        onnx.save_model(model, directory / MODEL, save_as_external_data=True, location=WEIGHTS)
    else:
        onnx.save_model(model, directory / MODEL)


def start(model: Path | bytes) -> Any:
    """A session of onnxruntime; ModelError if it does not take the file, or what would be in one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        given = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise ModelError(f"onnxruntime does not take the model: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What is wrong, in one line; libraries like to add pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
