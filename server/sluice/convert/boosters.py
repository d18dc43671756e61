"""Boosted trees of XGBoost (.json, .ubj) and LightGBM (.txt) as things to be imported. Their files hold no code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sluice.convert import tabular
from sluice.convert.making import Made, Progress, first_line
from sluice.errors import ModelError

_OPSET = 15  # the newest that onnxmltools knows of both domains
_PLAIN = "reg:squarederror"  # gives the sum of the trees as it is

Array = tabular.Array


@dataclass(frozen=True)
class Trees:
    """Loaded trees: how they become a graph, and what they give themselves, by our names of outputs."""

    features: int
    convert: Callable[[list[Any]], Any]
    predict: Callable[[Array], dict[str, Array]]
    is_classifier: bool


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
        progress("load", 0, 1)
        trees = _light(self.path) if self.path.suffix.lower() == ".txt" else _extreme(self.path)
        from onnxmltools.convert.common.data_types import FloatTensorType

        progress("load", 1, 1)
        progress("convert", 0, 1)
        try:
            with tabular.quiet():
                model = trees.convert([(tabular.INPUT, FloatTensorType([None, trees.features]))])
        except Exception as error:  # converters raise most anything
            raise ModelError(f"{self.path}: onnxmltools cannot convert it: {first_line(error)}") from error
        rows = tabular.draw(model, trees.features, missing=True)
        wanted = tabular.asked(trees.predict, rows)
        names = tabular.outputs(model)
        if len(names) != len(wanted):
            raise ModelError(f"{self.path}: onnxmltools does not know its objective, and takes it for another")
        tabular.finish(model, dict(zip(names, wanted, strict=True)))
        progress("convert", 1, 1)
        progress("check", 0, 1)
        tabular.publish(model, wanted, rows, staging)
        progress("check", 1, 1)
        return Made("classification" if trees.is_classifier else "other")


def _extreme(path: Path) -> Trees:
    import xgboost
    from onnxmltools import convert_xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(path)
        config = json.loads(booster.save_config())
        objective = str(config["learner"]["objective"]["name"])
    except (xgboost.core.XGBoostError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: is not readable as a model of XGBoost: {first_line(error)}") from error
    booster.feature_names = None  # the converter knows none but its own
    booster.feature_types = None

    def predict(rows: Array) -> dict[str, Array]:
        asked = xgboost.DMatrix(rows)
        given = booster.predict(asked)
        if objective == "multi:softmax":
            return {"label": given.astype(np.int64), "scores": booster.predict(asked, output_margin=True)}
        return _named(given, objective.startswith("multi:") or objective == "binary:logistic")

    def convert(types: list[Any]) -> Any:
        if objective.startswith("rank:") or objective == "binary:logitraw":  # whose scores are the sum of the trees
            copy = booster.copy()
            copy.set_param({"objective": _PLAIN})
            return convert_xgboost(copy, initial_types=types, target_opset=_OPSET)
        return convert_xgboost(booster, initial_types=types, target_opset=_OPSET)

    classes = objective.startswith("multi:") or objective == "binary:logistic"
    return Trees(booster.num_features(), convert, predict, classes)


def _light(path: Path) -> Trees:
    import lightgbm
    from onnxmltools import convert_lightgbm

    try:
        text = path.read_text("utf-8")
        booster = lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: is not readable as a model of LightGBM: {first_line(error)}") from error
    objective = next((line.partition("=")[2] for line in text.splitlines() if line.startswith("objective=")), "")
    classes = objective.startswith(("binary", "multiclass"))

    def predict(rows: Array) -> dict[str, Array]:
        return _named(np.asarray(booster.predict(rows)).astype(np.float32), classes)

    def convert(types: list[Any]) -> Any:
        return convert_lightgbm(booster, initial_types=types, target_opset=_OPSET, zipmap=False)

    return Trees(booster.num_feature(), convert, predict, classes)


def _named(given: Array, classes: bool) -> dict[str, Array]:
    if not classes:
        return {"prediction": given}
    if given.ndim == 1:  # the share of the second of two classes
        return {"label": (given > 0.5).astype(np.int64), "probabilities": np.stack([1 - given, given], axis=1)}
    return {"label": given.argmax(axis=1), "probabilities": given}
