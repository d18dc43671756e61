"""A fitted estimator of scikit-learn as a thing to be imported: of skops, or a pickle that is allowed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.convert import tabular
from sluice.convert.making import Made, Progress, first_line
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
        import skl2onnx  # noqa: F401 - that it is missing is better known before the estimator is read
        from sklearn.base import is_classifier

        progress("load", 0, 1)
        estimator = self._loaded()
        progress("load", 1, 1)
        features = getattr(estimator, "n_features_in_", None)
        if not isinstance(features, int):
            kind = type(estimator).__name__
            raise ModelError(f"{self.path}: holds {kind}, which is no fitted estimator of scikit-learn")
        classifier = is_classifier(estimator)
        progress("convert", 0, 1)
        try:
            with tabular.quiet():
                model = _converted(estimator, features)
        except Exception as error:  # converters raise most anything
            raise ModelError(f"{self.path}: skl2onnx cannot convert it: {first_line(error)}") from error
        found, ours = tabular.outputs(model), _wanted(estimator, len(tabular.outputs(model)))
        if len(found) != len(ours):
            gives = f"{type(estimator).__name__} gives {', '.join(found)}"
            raise ModelError(f"{self.path}: {gives}, of which not all are known")
        tabular.finish(model, dict(zip(found, ours, strict=True)))
        progress("convert", 1, 1)
        progress("check", 0, 1)
        self._publish(estimator, model, staging)
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
            hint = f"pip install scikit-learn=={was}"
            raise ModelError(f"{self.path}: was made with scikit-learn {was}: {hint}") from error

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

    def _publish(self, estimator: Any, model: Any, staging: Path) -> None:
        rows = tabular.draw(model, estimator.n_features_in_)
        names = tabular.outputs(model)
        wanted = tabular.asked(lambda given: _answers(estimator, given, names), rows)
        tabular.publish(model, wanted, rows, staging)


def _converted(estimator: Any, features: int) -> Any:
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    types = [(tabular.INPUT, FloatTensorType([None, features]))]
    opsets = {"": tabular.OPSET, "ai.onnx.ml": tabular.ML_OPSET}
    last = getattr(estimator, "_final_estimator", estimator)  # of a pipeline
    options: list[Any] = [None]
    if is_classifier(estimator):  # probabilities as a tensor, not as a list of tables; scores as they are
        options = [{"zipmap": False}, None]
        if not hasattr(estimator, "predict_proba"):
            options = [{"raw_scores": True, "zipmap": False}, {"raw_scores": True}, *options]
    for each in options:
        try:
            said = {id(last): each} if each else None
            return skl2onnx.convert_sklearn(estimator, initial_types=types, options=said, target_opset=opsets)
        except Exception as error:  # of no kind that says which: it may have no such option
            if each is None or "ption" not in str(error):
                raise
    raise AssertionError("the last attempt returns or raises")


def _wanted(estimator: Any, count: int) -> list[str]:
    """Our names for the outputs of a graph with so many."""
    if count == 1:
        return ["prediction" if hasattr(estimator, "predict") else "output"]
    if hasattr(estimator, "predict_proba"):
        return ["label", "probabilities"]
    return ["label", "scores" if hasattr(estimator, "decision_function") else "distances"]


_METHODS = {
    "label": "predict",
    "probabilities": "predict_proba",
    "scores": "decision_function",
    "distances": "transform",
    "prediction": "predict",
    "output": "transform",
}


def _answers(estimator: Any, rows: Any, names: Sequence[str]) -> dict[str, Any]:
    """What the original gives, by our names."""
    return {name: getattr(estimator, _METHODS[name])(rows) for name in names}


def _settings(model: Any, estimator: Any) -> str:
    classes = getattr(estimator, "classes_", None)
    if classes is None or "probabilities" not in tabular.outputs(model):
        return ""
    return text_of([HEADING, "", *labels_table("probabilities", tuple(map(str, classes)))])
