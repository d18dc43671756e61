"""Says by what is told that a version's files are still those that were loaded, or that could not be."""

from __future__ import annotations

import contextlib
import os

from sluice.store.contents import is_beside
from sluice.store.repository import VersionFiles


def fingerprint_of(files: VersionFiles) -> object:
    """Equal for a version whose files and settings did not change; what its manifest or card adds changes nothing. A
    file's time can be set back, but for the last one."""
    try:
        paths = [path for path in files.directory.rglob("*") if not is_beside(path.relative_to(files.directory))]
        looked = ((str(path), path.stat()) for path in paths)
        seen = sorted((path, at.st_size, at.st_mtime_ns, at.st_ino, at.st_ctime_ns) for path, at in looked)
    except OSError:
        seen = []
    return files.settings, files.directory, seen


def tried_of(files: VersionFiles) -> object:
    """Equal while there is no reason to try again what failed: neither its files changed nor what is said of them."""
    beside = []
    try:
        with os.scandir(files.directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    seen = entry.stat()
                    beside.append((entry.name, seen.st_mtime_ns, seen.st_size))
    except OSError:  # gone since, or going: it is tried again when it is there
        pass
    return fingerprint_of(files), sorted(beside)
