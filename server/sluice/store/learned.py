"""What was learned of a version's cost, kept beside it for the next start: `<model>/.learned/<version>-<device>.json`.

It is kept with the circumstances under which it was learned, and is nothing under others. A file that cannot be read
or written costs a profile at the next start and no more. A read-only repository is somebody's choice; a full disk is
nobody's, and is said.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path
from typing import Any

import orjson

from sluice.errors import system_reason
from sluice.telemetry.complaints import Complaint

log = logging.getLogger("sluice.store")
trouble = Complaint(log)  # with writing

_CHOSEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

Circumstances = dict[str, str | int]


def path_of(version_directory: Path, device_kind: str) -> Path:
    return version_directory.parent / ".learned" / f"{version_directory.name}-{device_kind}.json"


def read(path: Path, circumstances: Circumstances) -> object:
    """The state kept under the same circumstances, or None."""
    try:
        kept = orjson.loads(path.read_bytes())
    except OSError:
        return None
    except ValueError:
        log.warning("%s is not what was written there; learning anew", path)
        return None
    if not isinstance(kept, dict) or kept.get("circumstances") != circumstances:
        return None
    return kept.get("cost")


def write(path: Path, circumstances: Circumstances, state: dict[str, Any]) -> bool:
    """Whole or not at all. Whether that was all: what was not written for want of room is worth another try."""
    staged = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        staged.write_bytes(orjson.dumps({"circumstances": circumstances, "cost": state}, option=orjson.OPT_INDENT_2))
        os.replace(staged, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        reason = system_reason(error)
        if error.errno in _CHOSEN:
            log.debug("%s cannot be written: %s", path, reason)
            return True
        repository = path.parents[2]
        trouble.raised(f"what is learned of models cannot be kept in {repository} for the next start: {reason}")
        return False
    trouble.over("what is learned of models can be kept again")
    return True
