"""What a delta says: how each file that the parent has, whole or in parts, is put together again.

A file is a list of runs, each a stretch of one of the parent's files or of the blocks that the package brings. A file
that did not change is one run. Nothing here trusts a delta: what it names is checked against both manifests before a
byte is written, and what is rebuilt is hashed by who asked for it. `plan` makes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from sluice.errors import ModelError
from sluice.store.archive import CHUNK, HIGHEST_RATIO, Archive
from sluice.store.manifest import FileEntry, Manifest

RESERVED = ".delta/"
RECIPE = f"{RESERVED}recipe.json"
LARGEST_RECIPE = 64 << 20
NEW = -1  # in place of a parent's file: the blocks brought for this file

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Run(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    source: Annotated[int, msgspec.Meta(ge=NEW)]
    offset: _Count
    length: Annotated[int, msgspec.Meta(ge=1)]


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version that must be there."""

    name: str
    version: str
    digest: str


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    delta: int
    parent: Origin
    sources: list[str]  # the parent's files that runs name by number
    files: dict[str, list[Run]]


def blocks_of(number: int) -> str:
    """The member with the new blocks of the recipe's file of this number."""
    return f"{RESERVED}{number}"


def brought(runs: list[Run]) -> int:
    return sum(run.length for run in runs if run.source == NEW)


def read(archive: Archive, manifest: Manifest) -> Recipe:
    """The package's recipe, checked against everything but the parent."""
    member = archive.members[RECIPE]
    if member.size > LARGEST_RECIPE:
        raise archive.wrong("its recipe has more than 64 MiB")
    try:
        recipe = msgspec.json.decode(b"".join(archive.chunks(RECIPE)), type=Recipe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise archive.wrong(f"its recipe makes no sense: {error}") from error
    if recipe.delta != 1:
        raise archive.wrong("its recipe is of a later kind; a newer sluice reads it")
    sizes = {entry.path: entry.size for entry in manifest.files}
    for number, (path, runs) in enumerate(recipe.files.items()):
        if path not in sizes or sum(run.length for run in runs) != sizes[path]:
            raise archive.wrong(f"its recipe for {path} does not give the file of the manifest")
        position = 0
        for run in runs:
            if run.source >= len(recipe.sources):
                raise archive.wrong(f"its recipe for {path} names a file that it does not have")
            if run.source == NEW:
                if run.offset != position:
                    raise archive.wrong(f"its recipe for {path} does not take its blocks in order")
                position += run.length
        blocks = archive.members.get(blocks_of(number))
        if (blocks.size if blocks else 0) != position or (blocks and blocks.deflated):
            raise archive.wrong(f"its blocks of {path} are not what its recipe says")
    return recipe


@dataclass(frozen=True)
class Rebuild:
    """Puts files together from a delta and the version that it was made against."""

    archive: Archive
    recipe: Recipe
    parent: Path

    def check(self, parent: Manifest) -> None:
        """ModelError if the recipe takes what the parent does not have, or makes absurdly much of it."""
        entries = {entry.path: entry for entry in parent.files}
        rebuilt = sum(run.length for runs in self.recipe.files.values() for run in runs)
        if rebuilt > HIGHEST_RATIO * (self.archive.size + sum(entry.size for entry in parent.files)):
            raise self.archive.wrong(f"it would grow to {rebuilt} bytes; that is no honest delta")
        for path, runs in self.recipe.files.items():
            for run in runs:
                if run.source == NEW:
                    continue
                source: FileEntry | None = entries.get(self.recipe.sources[run.source])
                if source is None or run.offset + run.length > source.size:
                    raise self.archive.wrong(f"its recipe for {path} takes what {parent.name} does not have")

    def chunks(self, path: str) -> Iterator[bytes]:
        """One of the recipe's files, in pieces of bounded size."""
        blocks = blocks_of(list(self.recipe.files).index(path))
        opened: BinaryIO | None = None
        current = NEW
        try:
            for run in self.recipe.files[path]:
                if run.source == NEW:
                    yield from self.archive.part(blocks, run.offset, run.length)
                    continue
                if run.source != current or opened is None:
                    if opened is not None:
                        opened.close()
                    opened, current = (self.parent / self.recipe.sources[run.source]).open("rb"), run.source
                yield from stretch(opened, run.offset, run.length)
        finally:
            if opened is not None:
                opened.close()


def stretch(file: BinaryIO, offset: int, length: int) -> Iterator[bytes]:
    """Part of a file, in pieces of bounded size."""
    file.seek(offset)
    while length:
        chunk = file.read(min(CHUNK, length))
        if not chunk:
            raise ModelError(f"{file.name}: it is shorter than its manifest says")
        yield chunk
        length -= len(chunk)
