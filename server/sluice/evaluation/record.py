"""Writes an evaluation into a version's manifest and card, in place of the one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sluice.errors import ModelError
from sluice.evaluation.evaluate import PREFIX, Report
from sluice.store import card, manifest

_SIGNATURE = "model.sig"


def signed(directory: Path) -> bool:
    """Whether there is a signature, which is over the manifest too and ends with any change of it."""
    return (directory / _SIGNATURE).exists()


def write(directory: Path, report: Report) -> bool:
    """Whether it could be written: a version that is not sealed has no manifest."""
    old = manifest.read(directory)
    if old is None:
        return False
    if old.digest() != report.digest:
        raise ModelError(f"{report.model}/{report.version} was sealed anew while it was evaluated; evaluate it again")
    others = {name: value for name, value in old.metrics.items() if not name.startswith(PREFIX)}
    new = replace(old, metrics=others | report.metrics())
    manifest.write(directory, new)
    card.write(directory, new)
    return True
