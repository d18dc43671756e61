"""Optional packages: their absence is an ordinary error that says what to install."""

from collections.abc import Iterator
from contextlib import contextmanager

from sluice.cli.console import CommandError

_EXTRA = {
    "onnxruntime": "cpu",
    "onnx": "import",
    "safetensors": "import",
    "huggingface_hub": "import",
    "mlflow": "mlflow",
    "torch": "torch",
    "onnxscript": "torch",
    "sklearn": "sklearn",
    "skl2onnx": "sklearn",
    "skops": "sklearn",
    "joblib": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "onnxmltools": "xgboost",
}


@contextmanager
def needs(*names: str) -> Iterator[None]:
    """A missing package of these is reported with the extra of ours that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in names:
            raise
        raise CommandError(
            f"the package '{package}' is not installed", f"pip install 'sluice[{_EXTRA[package]}]'"
        ) from error
