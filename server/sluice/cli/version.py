"""`sluice version`: what is installed and which devices it can use."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import sluice
from sluice.cli.console import print_json
from sluice.cli.options import Json


def version(as_json: Json = False) -> None:
    """Print the versions of sluice and of what it stands on, and the devices it can compute on."""
    runtime, providers = _runtime()
    versions = {
        "sluice": sluice.__version__,
        "python": platform.python_version(),
        "onnxruntime": runtime,
        "numpy": _installed("numpy"),
        "grpcio": _installed("grpcio"),
    }
    if as_json:
        print_json({**versions, "providers": providers})
        return
    for name, value in versions.items():
        print(f"{name:<12} {value or 'not installed'}")
    print(f"{'providers':<12} {', '.join(providers) or 'none'}")


def _runtime() -> tuple[str | None, list[str]]:
    try:
        import onnxruntime
    except ImportError:
        return None, []
    return str(onnxruntime.__version__), list(onnxruntime.get_available_providers())


def _installed(name: str) -> str | None:
    try:
        return installed(name)
    except PackageNotFoundError:
        return None
