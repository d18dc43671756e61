"""Makes the virtual environment that each peer runs in, once, and tells what is installed there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = Path(__file__).resolve().parent / "services"
ENVIRONMENTS = ROOT / ".venvs"
_MOST_SECONDS = 1200.0

# Beside the peer itself: what computes, so that a difference there would show in the report.
_LISTED = ("onnxruntime", "numpy")


class InstallError(Exception):
    """A peer's environment could not be made."""


def python(peer: str) -> Path:
    return ENVIRONMENTS / peer / "bin" / "python"


def make(peer: str) -> None:
    """Install a peer's requirements, unless they are installed already and have not changed since."""
    requirements = SERVICES / f"{peer}.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = ENVIRONMENTS / peer / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    _run(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENTS / peer))
    _run(str(python(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements))
    stamp.write_text(wanted)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_MOST_SECONDS)
    except subprocess.CalledProcessError as error:
        raise InstallError(f"{' '.join(command[:6])}: {error.stderr.strip()[-400:]}") from error
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{' '.join(command[:6])}: not done after {_MOST_SECONDS:.0f} s") from error


def versions(executable: Path, *packages: str) -> dict[str, str]:
    """The installed versions of these packages and of those that every environment has."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "def of(n):\n try: return m.version(n)\n except m.PackageNotFoundError: return ''\n"
        "print(json.dumps({n: of(n) for n in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [str(executable), "-c", code, *packages, *_LISTED], check=True, capture_output=True, text=True, timeout=60
    )
    found: dict[str, str] = json.loads(done.stdout)
    return {name: version for name, version in found.items() if version}
