"""A repository of one model, made of files that came with a load request."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sluice.errors import InvalidRequest


def write(name: str, files: Mapping[str, bytes]) -> Path:
    """Write it to a temporary directory, which the caller owns."""
    root = Path(tempfile.mkdtemp(prefix="sluice-"))
    try:
        for given, content in files.items():
            parts = PurePosixPath(given.removeprefix("file:")).parts
            if not parts or any(part in ("..", "/") or part.startswith(".") for part in parts) or len(parts) > 8:
                raise InvalidRequest(f"'{given}' is not the path of a file in a model's directory")
            target = root.joinpath(PurePosixPath(name).name or "model", *parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except (OSError, ValueError) as error:
        shutil.rmtree(root, ignore_errors=True)
        raise InvalidRequest(f"a file of the load request cannot be written: {error}") from error
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return root
