"""Reads a package, `NAME-VERSION.sluice`: one version in one file, whose weights can be memory-mapped in place.

Its first member is the manifest; the others are the card and the signature, where there are any, and exactly the files
of the manifest, or, in a delta, a recipe, blocks, and the files that the recipe does not rebuild. Opening a package
checks all of its structure; the contents are checked while they are read to the end. `packing` makes packages,
`unpacking` versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sluice.errors import ModelError
from sluice.store import delta, manifest
from sluice.store.archive import Archive, check_names
from sluice.store.contents import CARD, MANIFEST, SIGNATURE
from sluice.store.manifest import FileEntry, Manifest

SUFFIX = ".sluice"
LARGEST_TEXT = 4 << 20  # of a manifest, a card or a signature

Progress = Callable[[str, int, int], None]  # step, how many bytes are done, how many there are


def silent(step: str, done: int, total: int) -> None:
    return None


class Package:
    """An open package."""

    def __init__(self, archive: Archive, content: Manifest, text: bytes, recipe: delta.Recipe | None) -> None:
        self.manifest = content
        self.manifest_text = text
        self.recipe = recipe  # None: it needs no other version
        self._archive = archive

    @classmethod
    def open(cls, path: Path) -> Self:
        """ModelError if it is no package or not a sound one."""
        archive = Archive.open(path)
        try:
            return cls._opened(archive)
        except BaseException:
            archive.close()
            raise

    @classmethod
    def _opened(cls, archive: Archive) -> Self:
        members = archive.members
        if next(iter(members), None) != MANIFEST or members[MANIFEST].deflated:
            raise archive.wrong(f"it is no package, which begins with {MANIFEST}")
        for name in (MANIFEST, CARD, SIGNATURE):
            if name in members and members[name].size > LARGEST_TEXT:
                raise archive.wrong(f"its {name} has more than 4 MiB")
        text = b"".join(archive.chunks(MANIFEST))
        try:
            content = manifest.parse(text.decode(), f"{archive.path}: {MANIFEST}")
        except UnicodeDecodeError as error:
            raise archive.wrong(f"its {MANIFEST} is not UTF-8 text") from error
        check_files(content, archive.path)
        recipe = delta.read(archive, content) if delta.RECIPE in members else None
        whole = {entry.path: entry.size for entry in content.files}
        expected = {MANIFEST}
        if recipe is not None:
            brought = {
                delta.blocks_of(number) for number, runs in enumerate(recipe.files.values()) if delta.brought(runs)
            }
            expected |= {delta.RECIPE} | brought
            whole = {path: size for path, size in whole.items() if path not in recipe.files}
        expected |= whole.keys()
        if missing := sorted(expected - members.keys()):
            raise archive.wrong(f"{missing[0]} is missing")
        if more := sorted(members.keys() - expected - {CARD, SIGNATURE}):
            raise archive.wrong(f"{more[0]} is not in its manifest")
        for path, size in whole.items():
            if members[path].size != size:
                raise archive.wrong(f"{path} has {members[path].size} bytes, and {size} in the manifest")
        return cls(archive, content, text, recipe)

    def close(self) -> None:
        """What was mapped stays valid for as long as somebody holds it."""
        self._archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def path(self) -> Path:
        return self._archive.path

    @property
    def size(self) -> int:
        """What unpacking it takes on disk."""
        return sum(entry.size for entry in self.manifest.files)

    def map(self, path: str) -> memoryview:
        """A weights file's bytes where they lie in the package, page by page as they are used; not checked."""
        return self._archive.map(path)

    def card(self) -> bytes | None:
        return b"".join(self._archive.chunks(CARD)) if CARD in self._archive.members else None

    def signature(self) -> bytes | None:
        return b"".join(self._archive.chunks(SIGNATURE)) if SIGNATURE in self._archive.members else None

    def digests(self) -> dict[str, str]:
        """The sha256 of everything in it but the signature, once `check` has said that this is so."""
        texts = {MANIFEST: self.manifest_text, CARD: self.card()}
        files = {entry.path: entry.sha256 for entry in self.manifest.files}
        return files | {name: hashlib.sha256(text).hexdigest() for name, text in texts.items() if text is not None}

    def rebuild(self, parent: tuple[Path, Manifest] | None) -> delta.Rebuild | None:
        """How a delta's files come from the parent, given by its directory and manifest; ModelError if they cannot."""
        if self.recipe is None:
            return None
        origin = self.recipe.parent
        if parent is None or parent[1].digest() != origin.digest:
            raise self._archive.wrong(
                f"it is a delta against {origin.name} {origin.version} ({origin.digest}), which is not there; "
                "unpack that version first, or get the whole package"
            )
        rebuild = delta.Rebuild(self._archive, self.recipe, parent[0])
        rebuild.check(parent[1])
        return rebuild

    def file(self, entry: FileEntry, rebuild: delta.Rebuild | None) -> Iterator[bytes]:
        """A file of the version, in pieces of bounded size; ModelError at the end if it is not what it should be."""
        whole = self.recipe is None or entry.path not in self.recipe.files
        if not whole and rebuild is None:
            raise ValueError("a delta's files need its parent")
        chunks = self._archive.chunks(entry.path) if rebuild is None or whole else rebuild.chunks(entry.path)
        total = hashlib.sha256()
        for chunk in chunks:
            total.update(chunk)
            yield chunk
        if total.hexdigest() != entry.sha256:
            why = "" if whole else "; the package is damaged, or the version it is a delta against was changed"
            raise self._archive.wrong(f"{entry.path} is not what the manifest says{why}")

    def check(self, parent: tuple[Path, Manifest] | None, progress: Progress = silent) -> None:
        """Read all of it; ModelError unless it gives exactly the version of its manifest."""
        rebuild = self.rebuild(parent)
        self.card()
        self.signature()
        done = 0
        for entry in self.manifest.files:
            for chunk in self.file(entry, rebuild):
                done += len(chunk)
                progress("check", done, self.size)


def check_files(content: Manifest, where: Path) -> None:
    """ModelError if a package cannot have files of these names."""
    names = [entry.path for entry in content.files]
    check_names([*names, MANIFEST, CARD, SIGNATURE], where)
    if reserved := next((name for name in names if name.startswith(delta.RESERVED)), None):
        raise ModelError(f"{where}: {reserved}: packages keep their own there")


def sealed(directory: Path) -> Manifest:
    """The manifest of a version's directory; ModelError if there is none."""
    found = manifest.read(directory)
    if found is None:
        if not directory.is_dir():
            raise ModelError(f"{directory}: there is no such directory")
        raise ModelError(f"{directory}: there is no {MANIFEST}; `sluice seal {directory}` writes one")
    return found
