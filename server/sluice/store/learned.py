"""What was learned of a version's cost, kept beside it for the next start: `<model>/.learned/<version>-<device>.json`.

It is kept with the circumstances under which it was learned, and is nothing under others. A file that cannot be read
or written, in a read-only repository say, costs a profile at the next start and no more.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger("sluice.store")

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


def write(path: Path, circumstances: Circumstances, state: dict[str, Any]) -> None:
    """Whole or not at all."""
    staged = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        staged.write_bytes(orjson.dumps({"circumstances": circumstances, "cost": state}, option=orjson.OPT_INDENT_2))
        os.replace(staged, path)
    except OSError as error:
        log.debug("%s cannot be written: %s", path, error.strerror)
