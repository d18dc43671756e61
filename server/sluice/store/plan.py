"""Finds what two versions share, and so what a delta against one must bring of the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from sluice.store.delta import NEW, Origin, Recipe, Run, stretch
from sluice.store.manifest import Manifest
from sluice.store.pieces import pieces

SMALLEST_CHANGED = 1 << 16  # smaller changed files are brought whole


def plan(directory: Path, manifest: Manifest, parent_directory: Path, parent: Manifest) -> Recipe:
    """How the version's files come from the parent's; files that share nothing with it are not in the recipe."""
    same = {entry.sha256: entry.path for entry in parent.files}
    sources: dict[str, int] = {}
    files: dict[str, list[Run]] = {}
    index: dict[bytes, tuple[str, int]] | None = None
    for entry in manifest.files:
        if entry.size and entry.sha256 in same:
            source = sources.setdefault(same[entry.sha256], len(sources))
            files[entry.path] = [Run(source, 0, entry.size)]
        elif entry.size >= SMALLEST_CHANGED:
            index = _index(parent_directory, parent) if index is None else index
            with (directory / entry.path).open("rb") as file:
                runs = _runs(file, index, sources)
            if any(run.source != NEW for run in runs):
                files[entry.path] = runs
    return Recipe(1, Origin(parent.name, parent.version, parent.digest()), list(sources), files)


def _index(directory: Path, manifest: Manifest) -> dict[bytes, tuple[str, int]]:
    """Where each piece of the parent is; 30 entries for a megabyte at most."""
    index: dict[bytes, tuple[str, int]] = {}
    for entry in manifest.files:
        if entry.size < SMALLEST_CHANGED:
            continue
        offset = 0
        with (directory / entry.path).open("rb") as file:
            for piece in pieces(file):
                index.setdefault(_name(piece), (entry.path, offset))
                offset += len(piece)
    return index


def _runs(file: BinaryIO, index: Mapping[bytes, tuple[str, int]], sources: dict[str, int]) -> list[Run]:
    """The file as stretches of what is known and of what is new, as long as they can be."""
    runs: list[Run] = []
    brought = 0
    for piece in pieces(file):
        known = index.get(_name(piece))
        if known is None:
            run = Run(NEW, brought, len(piece))
            brought += len(piece)
        else:
            run = Run(sources.setdefault(known[0], len(sources)), known[1], len(piece))
        last = runs[-1] if runs else None
        if last and (last.source, last.offset + last.length) == (run.source, run.offset):
            runs[-1] = Run(last.source, last.offset, last.length + run.length)
        else:
            runs.append(run)
    return runs


def _name(piece: bytes) -> bytes:
    return hashlib.sha256(piece).digest()


def new_parts(path: Path, runs: list[Run]) -> Iterator[bytes]:
    """The blocks that a delta brings of this file."""
    position = 0
    with path.open("rb") as file:
        for run in runs:
            if run.source == NEW:
                yield from stretch(file, position, run.length)
            position += run.length
