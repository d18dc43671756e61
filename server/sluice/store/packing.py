"""Makes a package of a version, whole or as a delta against another; equal versions give equal packages.

A package appears whole or not at all: it is written beside its place, read back to the end, and then named.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sluice.errors import ModelError, system_reason
from sluice.store import contents, delta, disk, manifest, plan
from sluice.store.archive import ALIGNMENT, CHUNK, LARGEST_DEFLATED, Writer
from sluice.store.contents import CARD, MANIFEST, SIGNATURE
from sluice.store.manifest import Manifest
from sluice.store.package import LARGEST_TEXT, SUFFIX, Package, Progress, check_files, sealed, silent

_TEXT = {".json", ".jsonl", ".txt", ".toml", ".md", ".py", ".pbtxt", ".yaml", ".yml", ".csv", ".vocab"}  # deflated


@dataclass(frozen=True)
class Packed:
    path: Path
    size: int
    unpacked: int
    left_out: tuple[str, ...] = ()  # files that the parent has
    in_part: tuple[tuple[str, int], ...] = ()  # files of which it has some bytes, and how many are in the package


def usual_name(content: Manifest) -> str:
    return f"{content.name}-{content.version}{SUFFIX}"


def pack(directory: Path, target: Path, against: Path | None = None, progress: Progress = silent) -> Packed:
    """Pack a sealed version into a new file; against another version, as what it adds to that."""
    content = _verified(directory)
    check_files(content, directory)
    parent = (against, _verified(against)) if against is not None else None
    if os.path.lexists(target):
        raise ModelError(f"{target}: it exists; remove it or choose another name")
    recipe = plan.plan(directory, content, *parent) if parent else None
    staged = contents.staged(target)
    try:
        _write(staged, directory, content, recipe, progress)
        with Package.open(staged) as package:
            package.check(parent, progress)
        if os.path.lexists(target):
            raise ModelError(f"{target}: it exists; remove it or choose another name")
        staged.rename(target)
        disk.sync(target.parent)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {system_reason(error)}") from error
    finally:
        staged.unlink(missing_ok=True)
    return _packed(target, content, recipe)


def _verified(directory: Path) -> Manifest:
    content = sealed(directory)
    manifest.verify(directory, content)
    return content


def _write(path: Path, directory: Path, content: Manifest, recipe: delta.Recipe | None, progress: Progress) -> None:
    runs_of = recipe.files if recipe else {}
    total = sum(entry.size for entry in content.files if entry.path not in runs_of)
    total += sum(delta.brought(runs) for runs in runs_of.values())
    with path.open("wb") as file:
        writer = Writer(file)
        text = (directory / MANIFEST).read_bytes()
        writer.add(MANIFEST, [text], len(text), aligned=False)
        if recipe is not None:
            writer.add_small(delta.RECIPE, msgspec.json.encode(recipe))
        for name in (CARD, SIGNATURE):
            if (directory / name).is_file():
                writer.add_small(name, _text(directory / name))
        written = _Counted(progress, total)
        for entry in content.files:
            source = directory / entry.path
            if entry.path in runs_of:
                continue
            if source.suffix.lower() in _TEXT and entry.size <= LARGEST_DEFLATED:
                writer.add_small(entry.path, b"".join(written.through(_chunks(source))))
            else:
                writer.add(entry.path, written.through(_chunks(source)), entry.size, aligned=entry.size >= ALIGNMENT)
        for number, (name, runs) in enumerate(runs_of.items()):
            if size := delta.brought(runs):
                writer.add(delta.blocks_of(number), written.through(plan.new_parts(directory / name, runs)), size)
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def _text(path: Path) -> bytes:
    if path.stat().st_size > LARGEST_TEXT:
        raise ModelError(f"{path}: has more than 4 MiB")
    return path.read_bytes()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


class _Counted:
    """Tells how far the writing is."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            yield chunk
            self._done += len(chunk)
            self._progress("pack", self._done, self._total)


def _packed(target: Path, content: Manifest, recipe: delta.Recipe | None) -> Packed:
    new = {name: delta.brought(runs) for name, runs in (recipe.files if recipe else {}).items()}
    return Packed(
        target,
        target.stat().st_size,
        sum(entry.size for entry in content.files),
        tuple(name for name, size in new.items() if not size),
        tuple((name, size) for name, size in new.items() if size),
    )
