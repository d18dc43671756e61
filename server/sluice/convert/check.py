"""Runs a freshly written model to see that its rows depend neither on padding nor on each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sluice.convert.architecture import Architecture
from sluice.errors import ConfigError, ModelError

LENGTH, PADDED = 7, 12
TOLERANCE = 1e-4  # of the largest value; 32-bit kernels differ by about 1e-6 between shapes

Array = np.ndarray[Any, Any]


def check_model(path: Path, architecture: Architecture) -> None:
    """ModelError unless one row gives the same, finite answer alone and padded beside a longer and an empty row."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("checking the imported model needs onnxruntime: pip install 'sluice[cpu]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        length, padded = min(LENGTH, architecture.max_length), min(PADDED, architecture.max_length)
        together = _tokens(architecture, (length, padded, 0), padded)
        alone = {name: array[:1, :length] for name, array in together.items()}
        names = [output.name for output in session.get_outputs()]
        pairs = list(zip(names, session.run(names, alone), session.run(names, together), strict=True))
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise ModelError(f"the converted model does not run: {error}") from error
    for name, single, batch in pairs:
        _compare(name, single[0], batch, length)


def _tokens(architecture: Architecture, lengths: tuple[int, ...], padded: int) -> dict[str, Array]:
    random = np.random.default_rng(7)
    known = np.delete(np.arange(architecture.vocabulary), architecture.pad)
    ids = random.choice(known, (len(lengths), padded)).astype(np.int64)
    mask = (np.arange(padded) < np.array(lengths)[:, None]).astype(np.int64)
    arrays = {"input_ids": np.where(mask == 1, ids, architecture.pad), "attention_mask": mask}
    if architecture.takes_token_types:
        arrays["token_type_ids"] = np.zeros_like(ids)
    return arrays


def _compare(name: str, single: Array, batch: Array, length: int) -> None:
    if not np.isfinite(batch).all() or not np.isfinite(single).all():
        raise ModelError(f"the converted model's output {name} has values that are not finite")
    same = batch[0][:length] if single.ndim == 2 else batch[0]
    difference = float(np.abs(single - same).max())
    if difference > TOLERANCE * max(1.0, float(np.abs(single).max())):
        raise ModelError(f"the converted model's output {name} depends on padding: it differs by {difference:.2g}")
