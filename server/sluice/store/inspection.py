"""Looks a version over before it is loaded: links that lead astray, pickles, libraries, and the ONNX file itself.

Beginnings and headers are read, never whole files, and nothing is loaded or run. See docs/trust.md.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from sluice.encryption.container import MAGIC
from sluice.encryption.keys import NO_KEYS, Keys
from sluice.errors import ModelError, system_reason
from sluice.store import encrypted, graph_inspection, pickles, python_policy
from sluice.store.graph_inspection import Inspected
from sluice.store.repository import VersionFiles
from sluice.store.window import Window

_MOST_FILES = 100_000
_GRAPH = "onnxruntime"
_LIBRARIES = {
    b"\x7fELF",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
}


def inspect(files: VersionFiles, pickle_directories: list[Path], keys: Keys = NO_KEYS) -> Inspected:
    """ModelError, which names the file and what is wrong with it, if the version may not be loaded."""
    place = f"{files.model}/{files.version}"
    pickles_allowed = python_policy.is_below(files.path, pickle_directories)
    for path, shown in _files(files.directory, place):
        try:
            _look(path, shown, pickles_allowed, files.backend == _GRAPH)
        except FileNotFoundError:
            continue  # it was there a moment ago
        except OSError as error:
            raise ModelError(f"{shown}: cannot be read: {system_reason(error)}") from error
    shown = f"{place}/{files.path.relative_to(files.directory).as_posix()}"
    if files.backend == _GRAPH:
        return graph_inspection.inspect(files.path, files.directory, shown, keys)
    if encrypted.header_of(files.path, files.directory, shown):
        raise ModelError(f"{shown}: is encrypted, and only ONNX models may be")
    return Inspected()


def _look(path: Path, shown: str, pickles_allowed: bool, is_graph: bool) -> None:
    with path.open("rb") as file:
        window = Window(file.fileno())
        if is_graph and _is_library(window):
            why = "is a library of machine code, and none is loaded here, such as for custom operators"
            raise ModelError(f"{shown}: {why}; take it out of the directory")
        if pickles_allowed or (is_graph and window.at(0, len(MAGIC)) == MAGIC):  # nobody would find any in that
            return
        try:
            pickles.look(file, window)
        except pickles.Refused as error:
            raise ModelError(
                f"{shown}: {error}: use a format without code, such as safetensors, "
                "or name its directory in models.pickle_directories"
            ) from error


def _is_library(window: Window) -> bool:
    head = window.at(0, 64)
    if head[:2] == b"MZ" and len(head) == 64:
        (header,) = struct.unpack_from("<L", head, 60)
        return window.at(header, 4) == b"PE\0\0"
    return head[:4] in _LIBRARIES


def _files(directory: Path, place: str) -> Iterator[tuple[Path, str]]:
    """Every file below the directory, also through links that stay in the repository."""
    repository = directory.parents[1].resolve()
    seen: set[Path] = set()
    count = 0
    waiting = [(directory, place)]
    while waiting:
        folder, above = waiting.pop()
        for entry in _entries(folder, above):
            path, shown = folder / entry.name, f"{above}/{os.fsencode(entry.name).decode('utf-8', 'backslashreplace')}"
            count += 1
            if count > _MOST_FILES:
                raise ModelError(f"{place}: holds more than {_MOST_FILES} files")
            mode = _mode(path, shown, repository)
            if stat.S_ISREG(mode):
                yield path, shown
            elif stat.S_ISDIR(mode):
                real = path.resolve()
                if real not in seen:
                    seen.add(real)
                    waiting.append((path, shown))


def _entries(folder: Path, shown: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(itertools.islice(entries, _MOST_FILES + 1), key=lambda entry: entry.name)
    except OSError as error:
        raise ModelError(f"{shown}: cannot be read: {system_reason(error)}") from error


def _mode(path: Path, shown: str, repository: Path) -> int:
    """What it is or leads to; 0 for what is not there."""
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(repository):
            raise ModelError(f"{shown}: its link leads out of the repository; put the file itself there")
        return path.stat().st_mode
    except RuntimeError:  # links in a circle, before Python 3.13
        return 0
    except FileNotFoundError:
        return 0
    except OSError as error:
        if path.is_symlink():  # links in a circle
            return 0
        raise ModelError(f"{shown}: cannot be read: {system_reason(error)}") from error
