"""Boosted trees of XGBoost (.json, .ubj) and LightGBM (.txt) as things to be imported. Their files hold no code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.convert import tabular
from sluice.convert.making import MODEL, Made, Progress, first_line, save
from sluice.errors import ModelError

_CLASSES = ("binary:logistic", "multi:", "binary", "multiclass")  # objectives of classifiers, by their beginnings


@dataclass(frozen=True)
class Boosted:
    path: Path
    said: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        return self.path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def make(self, staging: Path, progress: Progress) -> Made:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        progress("load", 0, 1)
        trees, features, convert = self._light() if self.path.suffix == ".txt" else self._extreme()
        progress("load", 1, 1)
