"""Makes a version whose graph and weights are encrypted of one where they are not, or the other way round.

The files that only onnxruntime reads are encrypted: every graph, and the external data that graphs name. All others,
such as a tokenizer or labels, are copied as they are. What was written is read back and compared before it counts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath

from sluice import __version__
from sluice.encryption import container
from sluice.encryption.keys import Key, Keys
from sluice.errors import ModelError
from sluice.store import card, encrypted, graph_inspection, manifest, placing
from sluice.store.contents import CARD, Hashes
from sluice.store.graph_inspection import LARGEST
from sluice.store.inlining import inlined
from sluice.store.manifest import FileEntry, Manifest, Model, Parent
from sluice.store.package import Progress, silent
from sluice.store.placing import Placed

_MARK = "encrypted"  # of the version's name: the same numbers in another form, as semantic versions write it


@dataclass(frozen=True)
class Remade:
    placed: Placed
    files: tuple[str, ...]  # those that were encrypted, or decrypted
    others: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    """One version, and what shall become of it."""

    directory: Path
    content: Manifest
    weights: tuple[str, ...]
    divided: frozenset[str]  # graphs whose weights lie in other files
    keys: Keys
    key: Key | None  # None = decrypt
    progress: Progress

    def shown(self, name: str) -> str:
        return f"{self.directory.parent.name}/{self.directory.name}/{name}"

    def opened(self, name: str) -> AbstractContextManager[encrypted.Opened]:
        return encrypted.opened(self.directory / name, self.directory, self.shown(name), self.keys)


def encrypt(
    directory: Path, models: Path, keys: Keys, number: str | None = None, progress: Progress = silent
) -> Remade:  # fmt: skip
    """Make a version beside it, or `number`, that is encrypted with the first of the keys. A version that is encrypted
    with another of them is encrypted anew."""
    return _remake(directory, models, keys, keys.first(), number, progress)


def decrypt(
    directory: Path, models: Path, keys: Keys, number: str | None = None, progress: Progress = silent
) -> Remade:  # fmt: skip
    """The way back."""
    return _remake(directory, models, keys, None, number, progress)


def _remake(
    directory: Path, models: Path, keys: Keys, key: Key | None, number: str | None, progress: Progress
) -> Remade:  # fmt: skip
    directory = directory.absolute()
    place = f"{directory.parent.name}/{directory.name}"
    sealed = manifest.read(directory)
    content = sealed or manifest.examine(directory, keys)
    if sealed:
        manifest.verify(directory, sealed)
    if content.model.format != "onnx":
        why = "is a Python model, whose files its own code reads; the files of ONNX models can be encrypted"
        raise ModelError(f"{place}: {why}")
    if key is None and not content.model.key_id:
        raise ModelError(f"{place}: is not encrypted")
    if key is not None and content.model.key_id == key.id:
        raise ModelError(f"{place}: is encrypted with the key {key.id} already; the first key given is what encrypts")
    names = [entry.path for entry in content.files]
    weights, divided = _weights(directory, names, place, keys)
    task = _Task(directory, content, weights, divided, keys, key, progress)
    name = _model_name(directory, models, content)
    placed = placing.place(models, name, number, lambda staging, target: _make(task, staging))
    return Remade(placed, weights, tuple(name for name in names if name not in weights))


def _weights(directory: Path, names: list[str], place: str, keys: Keys) -> tuple[tuple[str, ...], frozenset[str]]:
    """The graphs with the external data that they name, and those graphs that name any."""
    found: set[str] = set()
    divided: set[str] = set()
    for name in names:
        if name.endswith(".onnx"):
            graph = graph_inspection.inspect(directory / name, directory, f"{place}/{name}", keys)
            found |= {name} | {(PurePosixPath(name).parent / other).as_posix() for other in graph.externals}
            divided |= {name} if graph.externals else set()
    return tuple(name for name in names if name in found), frozenset(divided)


def _model_name(directory: Path, models: Path, content: Manifest) -> str:
    """That of its directory in this repository; otherwise what its manifest says."""
    model = directory.resolve().parent
    return model.name if model.parent == models.resolve() else content.name


def _make(task: _Task, staging: Path) -> Manifest:
    files = task.content.files
    total = sum(entry.size for entry in files)
    needed = sum(container.encrypted_size(entry.path, entry.size) for entry in files)
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise ModelError(f"{staging.parent}: it takes {needed} bytes, and {free} are free on the disk")
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        task.progress("decrypt" if task.key is None else "encrypt", min(done, total), total)

    salt = os.urandom(32)
    for entry in files:
        target = staging / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.path in task.weights:
            _convert(task, entry.path, target, salt, count)
        else:
            shutil.copyfile(task.directory / entry.path, target)
            count(entry.size)
    made = _sealed(task, staging)
    manifest.write(staging, made)
    if (task.directory / CARD).is_file():
        shutil.copyfile(task.directory / CARD, staging / CARD)
    card.write(staging, made)
    return made


def _convert(task: _Task, name: str, target: Path, salt: bytes, count: container.Count) -> None:
    """Write it in its new form, read that back, and compare."""
    read = hashlib.sha256()

    def noted(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            read.update(piece)
            yield piece

    with task.opened(name) as found, target.open("xb") as file:
        if task.key is None:
            for piece in noted(found.pieces()):
                file.write(piece)
                count(len(piece))
        elif name in task.divided:
            graph = inlined(b"".join(found.pieces()), partial(_external, task, PurePosixPath(name).parent))
            if len(graph) > LARGEST:
                why = f"the weights of graphs within it would make it larger than {LARGEST} bytes"
                raise ModelError(f"{task.shown(name)}: {why}, and encrypted they cannot lie in other files")
            container.write(noted([graph]), len(graph), file, name, task.key, salt, count)
        else:
            container.write(noted(found.pieces()), found.window.size, file, name, task.key, salt, count)
    written = hashlib.sha256()
    staging = target.parents[len(PurePosixPath(name).parts) - 1]
    with encrypted.opened(target, staging, name, task.keys) as found:
        for piece in found.pieces():
            written.update(piece)
    if written.digest() != read.digest():
        raise ModelError(f"{target}: what was written is not what was read; is the disk sound?")


def _external(task: _Task, folder: PurePosixPath, location: str, offset: int, length: int | None) -> bytes:
    """A part of a file of external data."""
    with task.opened((folder / location).as_posix()) as found:
        return found.part(offset, length or found.window.size - offset)


def _sealed(task: _Task, staging: Path) -> Manifest:
    old = task.content
    names = [entry.path for entry in old.files]
    hashes = Hashes().of(staging, names)
    by_hash = {name: FileEntry(name, *hashes[name]) for name in names}
    for entry in old.files:
        if entry.path not in task.weights and entry != by_hash[entry.path]:
            raise ModelError(f"{task.shown(entry.path)}: was written to while it was read")
    version = old.version.partition("+")[0] + (f"+{_MARK}" if task.key else "")
    relation = "encrypted from" if task.key else "decrypted from"
    return replace(
        old,
        version=version,
        created=datetime.now(UTC).replace(microsecond=0),
        created_by=f"sluice {__version__}",
        runtime=manifest.runtime(),
        model=_locked(old.model, task.key),
        parents=(Parent(relation, old.name, old.version, old.digest()),),
        files=tuple(by_hash[name] for name in names),
    )


def _locked(model: Model, key: Key | None) -> Model:
    return replace(model, encryption=container.CIPHER if key else "", key_id=key.id if key else "")
