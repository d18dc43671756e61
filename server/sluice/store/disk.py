"""What is made in a model's directory by one process at a time, and is on the disk before it gets its name."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(model: Path, staging: str) -> Iterator[None]:
    """One at a time, so that whatever another left half done, which begins like this, can be told and removed."""
    handle = os.open(model, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for left in model.glob(f"{staging}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Bring a file, or a directory's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
