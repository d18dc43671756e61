"""Estimators of scikit-learn and trees of XGBoost and LightGBM become models that give what the originals give."""

import importlib.util
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sluice.cli.main import main
from sluice.store import manifest

NEEDED = ("sklearn", "skl2onnx", "skops", "xgboost", "lightgbm", "onnxmltools")
if any(importlib.util.find_spec(name) is None for name in NEEDED):
    reason = "scikit-learn, XGBoost or their converters are not installed: `make conversions` does that and runs this"
    pytest.skip(reason, allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import joblib
    import lightgbm
    import skops.io
    import xgboost
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.ensemble import GradientBoostingRegressor, IsolationForest, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler
    from sklearn.svm import SVC, LinearSVC

# of libraries that convert and train, which nobody here can change
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "UserWarning")
]

RANDOM = np.random.default_rng(0)
ROWS = (RANDOM.standard_normal((400, 5)) * 3 + 10).astype(np.float32)
MISSING = np.where(RANDOM.random(ROWS.shape) < 0.1, np.nan, ROWS).astype(np.float32)
WORDS = np.where(ROWS[:, 0] > 10, "high", "low")
CLASSES = np.digitize(ROWS[:, 0], [8, 12])
AMOUNTS = ROWS[:, 0] * 2 + ROWS[:, 1]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def imported(*words: str) -> Path:
    assert main(["import", *words, "--name", "m"]) == 0
    version = Path("models/m/1")
    sealed = manifest.read(version)
    assert sealed is not None
    manifest.verify(version, sealed)
    return version


def run(version: Path, rows: Any = ROWS) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("x", "tensor(float)", ["batch", 5])
    names = [port.name for port in session.get_outputs()]
    assert all(port.shape[0] == "batch" for port in session.get_outputs())
    return dict(zip(names, session.run(names, {"x": rows}), strict=True))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["import", *words, "--name", "refused"]) == 1
    assert not Path("models/refused").exists()
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


ESTIMATORS: list[tuple[Any, Any, dict[str, str]]] = [
    (LogisticRegression(), WORDS, {"label": "predict", "probabilities": "predict_proba"}),
    (LogisticRegression(), CLASSES, {"label": "predict", "probabilities": "predict_proba"}),
    (
        make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=1)),
        WORDS,
        {"label": "predict", "probabilities": "predict_proba"},
    ),
    (make_pipeline(StandardScaler(), LinearSVC()), CLASSES, {"label": "predict", "scores": "decision_function"}),
    (SVC(), CLASSES, {"label": "predict", "scores": "decision_function"}),
    (GradientBoostingRegressor(n_estimators=20), AMOUNTS, {"prediction": "predict"}),
    (Ridge(), np.stack([AMOUNTS, -AMOUNTS], axis=1), {"prediction": "predict"}),
    (KMeans(3, random_state=1), None, {"label": "predict", "distances": "transform"}),
    (IsolationForest(n_estimators=10, random_state=1), None, {"label": "predict", "scores": "decision_function"}),
    (PCA(2), None, {"output": "transform"}),
    (StandardScaler(), None, {"output": "transform"}),
]


@pytest.mark.parametrize(("estimator", "wanted", "methods"), ESTIMATORS, ids=lambda each: type(each).__name__)
def test_estimators_give_what_they_gave(estimator: Any, wanted: Any, methods: dict[str, str]) -> None:
    estimator.fit(ROWS, wanted) if wanted is not None else estimator.fit(ROWS)
    joblib.dump(estimator, "model.joblib")
    found = run(imported("model.joblib", "--allow-code"))
    assert set(found) == set(methods)
    for name, method in methods.items():
        right = getattr(estimator, method)(ROWS)
        ours = found[name].reshape(right.shape)
        if right.dtype.kind == "f":
            close = np.isclose(ours, right, rtol=1e-3, atol=1e-3).reshape(len(ROWS), -1).all(axis=1)
        else:
            close = ours == right
        assert close.mean() > 0.99  # next to a threshold 32 bits may decide otherwise


def test_a_classifier_says_its_classes() -> None:
    joblib.dump(LogisticRegression().fit(ROWS, WORDS), "model.pkl")
    version = imported("model.pkl", "--allow-code")
    settings = tomllib.loads(Path("models/m/model.toml").read_text("utf-8"))
    assert settings == {"output": [{"name": "probabilities", "labels": ["high", "low"]}]}
    sealed = manifest.read(version)
    assert sealed is not None
    assert sealed.task == "classification"
    opsets = [each.domain for each in onnx.load(version / "model.onnx").opset_import]
    assert len(opsets) == len(set(opsets))


def test_what_skops_trusts_needs_no_permission(capsys: pytest.CaptureFixture[str]) -> None:
    skops.io.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, WORDS), "plain.skops")
    assert set(run(imported("plain.skops"))) == {"label", "probabilities"}
    skops.io.dump(RandomForestClassifier(5).fit(ROWS, WORDS), "trees.skops")
    capsys.readouterr()
    assert "sklearn.tree._tree.Tree: say --allow-code" in refusal(capsys, "trees.skops")
    assert main(["import", "trees.skops", "--name", "trees", "--allow-code"]) == 0


def not_fitted() -> str:
    joblib.dump(LogisticRegression(), "model.joblib")
    return "model.joblib"


def no_estimator() -> str:
    joblib.dump({"a": 1}, "model.joblib")
    return "model.joblib"


def unknown_step() -> str:
    joblib.dump(make_pipeline(FunctionTransformer(np.abs), Ridge()).fit(ROWS, AMOUNTS), "model.joblib")
    return "model.joblib"


def damaged(name: str) -> Callable[[], str]:
    def write() -> str:
        Path(name).write_bytes(b"\x80\x05 nothing")
        return name

    return write


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (not_fitted, "which is no fitted estimator"),
        (no_estimator, "holds dict, which is no fitted estimator"),
        (unknown_step, "skl2onnx cannot convert it"),
        (damaged("model.joblib"), "model.joblib: cannot be read"),
        (damaged("model.skops"), "is not readable as skops"),
        (damaged("model.ubj"), "is not readable as a model of XGBoost"),
        (damaged("model.json"), "is not readable as a model of XGBoost"),
        (damaged("model.txt"), "is not readable as a model of LightGBM"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    write: Callable[[], str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why in refusal(capsys, write(), "--allow-code")


def test_an_estimator_of_another_version_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr("sklearn.base.__version__", "1.2.0")
        joblib.dump(Ridge().fit(ROWS, AMOUNTS), "model.joblib")
    assert "pip install scikit-learn==1.2.0" in refusal(capsys, "model.joblib", "--allow-code")


EXTREME: list[tuple[dict[str, Any], Any, str, set[str]]] = [
    ({"objective": "binary:logistic"}, CLASSES > 0, "json", {"label", "probabilities"}),
    ({"objective": "multi:softprob", "num_class": 3}, CLASSES, "ubj", {"label", "probabilities"}),
    ({"objective": "multi:softmax", "num_class": 3}, CLASSES, "ubj", {"label", "scores"}),
    ({"objective": "reg:squarederror"}, AMOUNTS, "json", {"prediction"}),
    ({"objective": "count:poisson"}, CLASSES, "ubj", {"prediction"}),
    ({"objective": "rank:pairwise"}, CLASSES, "ubj", {"prediction"}),
    ({"objective": "binary:logitraw"}, CLASSES > 0, "ubj", {"prediction"}),
]


@pytest.mark.parametrize(("settings", "wanted", "suffix", "outputs"), EXTREME, ids=lambda each: str(each)[:40])
def test_trees_of_xgboost_give_what_they_gave(
    settings: dict[str, Any], wanted: Any, suffix: str, outputs: set[str]
) -> None:
    names = [f"column {number}" for number in range(5)]
    data = xgboost.DMatrix(MISSING, wanted, feature_names=names)
    if settings["objective"].startswith("rank:"):
        data.set_group([len(ROWS)])
    booster = xgboost.train(settings, data, 8)
    booster.save_model(f"model.{suffix}")
    found = run(imported(f"model.{suffix}"), MISSING)
    assert set(found) == outputs
    right = booster.predict(data)
    if "probabilities" in outputs:
        ours = found["probabilities"] if right.ndim == 2 else found["probabilities"][:, 1]
    else:
        ours = found["label"] if "label" in outputs else found["prediction"][:, 0]
    np.testing.assert_allclose(ours, right, rtol=1e-4, atol=1e-5)


LIGHT: list[tuple[dict[str, Any], Any]] = [
    ({"objective": "binary"}, CLASSES > 0),
    ({"objective": "multiclass", "num_class": 3}, CLASSES),
    ({"objective": "regression"}, AMOUNTS),
    ({"objective": "poisson"}, CLASSES),
]


@pytest.mark.parametrize(("settings", "wanted"), LIGHT, ids=lambda each: str(each)[:40])
def test_trees_of_lightgbm_give_what_they_gave(settings: dict[str, Any], wanted: Any) -> None:
    booster = lightgbm.train({**settings, "verbosity": -1}, lightgbm.Dataset(MISSING, wanted), 8)
    booster.save_model("model.txt")
    found = run(imported("model.txt"), MISSING)
    right = booster.predict(MISSING)
    ours = found["probabilities" if "probabilities" in found else "prediction"]
    ours = ours if right.ndim == 2 else ours[:, -1]
    np.testing.assert_allclose(ours, right, rtol=1e-4, atol=1e-5)
