"""The narrow waist every backend fits through: load, run, close; no framework's types cross it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from sluice.errors import ModelError
from sluice.spec import Signature

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """What a backend loads and where it shall run."""

    path: Path
    directory: Path
    parameters: Mapping[str, str]
    device: str  # "cpu" or "cuda"; the right device is the only one visible to the process
    threads: int
    signature: Signature | None  # for backends whose file does not tell its inputs and outputs
    secret: bytes = field(default=b"", repr=False)  # of a version that is encrypted
    externals: tuple[str, ...] = ()  # files of weights that are, as the graph calls them


class Backend(Protocol):
    def load(self, source: Source) -> Signature:
        """Get ready to run; raises ModelError with the reason."""

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> dict[str, Array]:
        """Compute the wanted outputs. Inputs are views of shared memory. An output given as an array is written in
        place and returned as the same object; None = its shape is not known beforehand, the backend allocates.
        BYTES are object arrays of bytes, BF16 their 16 bits as uint16. Raises ModelFailed."""

    def close(self) -> None:
        """Give back everything; idempotent."""

    # A backend that keeps memory only to be quick may have a method more: `trim()` gives it back, now or with the next
    # run, and is called between two runs.


# Imported only in the worker that needs one, so that a worker carries no framework it does not run.
BACKENDS = {
    "onnxruntime": ("sluice.backends.ort", "OnnxRuntimeBackend"),
    "python": ("sluice.backends.python", "PythonBackend"),
}


def create(name: str) -> Backend:
    if name not in BACKENDS:
        raise ModelError(f"backend '{name}' is not available here; there are: {', '.join(BACKENDS)}")
    module, cls = BACKENDS[name]
    try:
        return cast(Backend, getattr(import_module(module), cls)())
    except ModuleNotFoundError as error:
        extra = {"onnxruntime": "cpu"}.get(name, name)
        raise ModelError(f"backend '{name}' needs the module '{error.name}': pip install 'sluice[{extra}]'") from error
