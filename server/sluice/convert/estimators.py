"""A fitted estimator of scikit-learn as a thing to be imported: of skops, or a pickle that is allowed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.convert import tabular
from sluice.convert.making import MODEL, Made, Progress, first_line, save
from sluice.convert.settings_file import HEADING, labels_table, text_of
from sluice.errors import ModelError

_SHOWN = 5  # types named in one error


@dataclass(frozen=True)
class Estimator:
    path: Path
    code_allowed: bool
    said: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        return self.path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def make(self, staging: Path, progress: Progress) -> Made:
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType
        from sklearn.base import is_classifier

        progress("load", 0, 1)
        estimator = self._loaded()
        progress("load", 1, 1)
        features = getattr(estimator, "n_features_in_", None)
        if not isinstance(features, int):
            raise ModelError(f"{self.path}: holds {type(estimator).__name__}, which is no fitted estimator of scikit-learn")
        classifier = is_classifier(estimator)
        progress("convert", 0, 1)
        try:
            with tabular.quiet():
                model = skl2onnx.convert_sklearn(
                    estimator,
                    initial_types=[(tabular.INPUT, FloatTensorType([None, features]))],
                    options={id(estimator): {"zipmap": False}} if classifier else None,
                    target_opset={"": tabular.OPSET, "ai.onnx.ml": tabular.ML_OPSET},
                )
        except Exception as error:  # converters raise most anything
            raise ModelError(f"{self.path}: skl2onnx cannot convert it: {first_line(error)}") from error
        tabular.finish(model, _names(model, estimator))
        progress("convert", 1, 1)
        save(model, staging)
        progress("check", 0, 1)
        self._check(estimator, staging, tabular.draw(model, features))
        progress("check", 1, 1)
        return Made("classification" if classifier else "other", _settings(model, estimator))

    def _loaded(self) -> Any:
        from sklearn.exceptions import InconsistentVersionWarning

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", InconsistentVersionWarning)
                return self._from_skops() if self.path.suffix == ".skops" else self._from_pickle()
        except InconsistentVersionWarning as error:
            was = error.original_sklearn_version
            raise ModelError(f"{self.path}: was made with scikit-learn {was}: pip install scikit-learn=={was}") from error

    def _from_skops(self) -> Any:
        import skops.io

        try:
            unknown = skops.io.get_untrusted_types(file=self.path)
        except Exception as error:  # whatever a damaged file is the reason of
            raise ModelError(f"{self.path}: is not readable as skops: {first_line(error)}") from error
        if unknown and not self.code_allowed:
            raise ModelError(
                f"{self.path}: has types that may run code when they are read: {', '.join(unknown[:_SHOWN])}: "
                "say --allow-code if you would run any program that comes from where it comes from"
            )
        return self._read(lambda: skops.io.load(self.path, trusted=unknown))

    def _from_pickle(self) -> Any:
        import joblib

        return self._read(lambda: joblib.load(self.path))

    def _read(self, load: Any) -> Any:
        try:
            return load()
        except Warning:
            raise
        except Exception as error:
            raise ModelError(f"{self.path}: cannot be read: {type(error).__name__}: {first_line(error)}") from error

    def _check(self, estimator: Any, staging: Path, rows: Any) -> None:
        with tabular.quiet():
            wanted = _answers(estimator, rows)
        tabular.compare(staging / MODEL, wanted, rows)


def _names(model: Any, estimator: Any) -> dict[str, str]:
    """skl2onnx's names of outputs → ours."""
    found = tabular.outputs(model)
    return dict(zip(found, _wanted(estimator), strict=False))


def _wanted(estimator: Any) -> list[str]:
    if hasattr(estimator, "predict_proba"):
        return ["label", "probabilities"]
    if hasattr(estimator, "decision_function"):
        return ["label", "scores"]
    return ["prediction"] if hasattr(estimator, "predict") else ["output"]


def _answers(estimator: Any, rows: Any) -> dict[str, Any]:
    """What the original gives, by our names."""
    methods = {
        "label": "predict",
        "probabilities": "predict_proba",
        "scores": "decision_function",
        "prediction": "predict",
        "output": "transform",
    }
    return {name: getattr(estimator, methods[name])(rows) for name in _wanted(estimator)}


def _settings(model: Any, estimator: Any) -> str:
    classes = getattr(estimator, "classes_", None)
    if classes is None or "probabilities" not in tabular.outputs(model):
        return ""
    return text_of([HEADING, "", *labels_table("probabilities", tuple(map(str, classes)))])
