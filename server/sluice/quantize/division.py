"""Divides data into what a choice is made by and what it is proven by, so that nothing is on both sides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.errors import ModelError
from sluice.evaluation.data import Row

# Choices that may be proven, each on rows of its own: who may try often enough gets anything proven.
ATTEMPTS = 2
_LEAST = 32  # rows: fewer prove nothing


@dataclass(frozen=True, slots=True)
class Divided:
    seen: Sequence[Row]
    held: tuple[Sequence[Row], ...]  # for each attempt its own


def divide(rows: Sequence[Row], name: str, most: int, seed: int) -> Divided:
    """Half to choose by and half for the proof, drawn by chance, each row once however often it is there; ModelError
    for too few."""
    different = list({_content(row): row for row in reversed(rows)}.values())[::-1]
    if len(different) < _LEAST:
        raise ModelError(
            f"{name}: has {len(different)} different rows, and at least {_LEAST} are needed to choose by and to prove"
        )
    order = np.random.default_rng(seed).permutation(len(different))[:most]
    drawn = [different[number] for number in order]
    half = len(drawn) // 2
    return Divided(drawn[:half], tuple(drawn[half:][number::ATTEMPTS] for number in range(ATTEMPTS)))


def _content(row: Row) -> tuple[Any, ...]:
    """All but the label: what is labelled twice is the same to the model."""
    return row.text, row.pair, tuple((name, _plain(value)) for name, value in sorted(row.inputs.items()))


def _plain(value: Any) -> object:
    return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else json.dumps(value)
