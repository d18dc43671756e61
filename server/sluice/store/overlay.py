"""A repository of one model, made of files that came with a load request."""

import errno
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sluice.errors import InvalidRequest, ModelError, system_reason

# What a client's paths may be the reason of; all else is this machine's.
_CLIENTS = frozenset({errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ})


def write(name: str, files: Mapping[str, bytes]) -> Path:
    """Write it to a temporary directory, which the caller owns."""
    if name in ("", ".", "..") or "/" in name:
        raise InvalidRequest(f"'{name}' is not the name of a model")
    try:
        root = Path(tempfile.mkdtemp(prefix="sluice-"))
    except OSError as error:
        raise ModelError(f"the files of the load request cannot be written: {system_reason(error)}") from error
    try:
        for given, content in files.items():
            parts = PurePosixPath(given.removeprefix("file:")).parts
            if not parts or any(part in ("..", "/") or part.startswith(".") for part in parts) or len(parts) > 8:
                raise InvalidRequest(f"'{given}' is not the path of a file in a model's directory")
            target = root.joinpath(name, *parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except (OSError, ValueError) as error:
        shutil.rmtree(root, ignore_errors=True)
        if isinstance(error, OSError) and error.errno not in _CLIENTS:
            raise ModelError(f"the files of the load request cannot be written: {system_reason(error)}") from error
        raise InvalidRequest(f"a file of the load request cannot be written: {error}") from error
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return root
