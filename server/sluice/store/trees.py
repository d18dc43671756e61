"""Brings a version's directory out of an object store: all of its files, through the cache, or none.

What the store lists is looked over before anything is downloaded. With a manifest, files are known by their sha256,
and those that the cache has are not downloaded; without one, the list must be the same at the end.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from sluice.errors import ModelError
from sluice.store import blobs, contents, manifest
from sluice.store.contents import MANIFEST, SIGNATURE
from sluice.store.download import Downloaded
from sluice.store.fetching import Means, clear_errors, fetched, not_in_cache
from sluice.store.manifest import Manifest
from sluice.store.objects import Address, Object
from sluice.store.package import LARGEST_TEXT
from sluice.store.parts import Parts, settle
from sluice.store.reading import read_text

_MOST_FILES = 10_000
_AT_A_TIME = 8  # files; of their parts only as many as there are connections
_SHOWN = 5  # names in one error


@dataclass(frozen=True)
class Tree:
    """What there is of a version in a store, or offline in the cache."""

    address: Address
    content: Manifest | None
    objects: dict[str, Object]  # by name below the directory; none offline
    sha256: dict[str, str] = field(default_factory=dict)  # of those whose it is known

    @property
    def names(self) -> list[str]:
        """Files that a manifest is over."""
        return [name for name in self.objects or self.sha256 if not contents.is_beside(PurePosixPath(name))]


def look(address: Address, parts: Parts, means: Means) -> Tree:
    """What there is; ModelError if it is no version."""
    if means.offline:
        return _remembered(address, means)
    objects = _listed(address, parts)
    content = None
    if MANIFEST in objects:
        parts.expect(objects[MANIFEST].size)
        with _file(address, MANIFEST, objects[MANIFEST], "", parts, means) as path:
            content = manifest.parse(read_text(path, f"{address}/{MANIFEST}"), f"{address}/{MANIFEST}")
    tree = Tree(address, content, objects)
    return tree if content is None else Tree(address, content, objects, _compared(tree, content))


@contextmanager
def brought(tree: Tree, parts: Parts, means: Means) -> Iterator[Path]:
    """A directory with all of its files, to be read and copied; it goes when the caller is done."""
    cache, address = means.cache, f"{tree.address}/"
    with clear_errors(cache), cache.partial(blobs.key_of(address)) as place:
        directory = place / "version"
        shutil.rmtree(directory, ignore_errors=True)  # of a process that was killed
        directory.mkdir()
        try:
            sha256 = _all(tree, directory, parts, means)
            if tree.content is None and tree.objects and _listed(tree.address, parts) != tree.objects:
                raise ModelError(f"{address}: it changes while it is downloaded; try again later")
            yield directory
            if tree.objects:
                _remember(tree.address, sha256, place, means)
        finally:
            shutil.rmtree(place)


def signature(tree: Tree, parts: Parts, means: Means) -> bytes | None:
    """The version's signature alone, if it has one."""
    if SIGNATURE not in (tree.objects or tree.sha256):
        return None
    with clear_errors(means.cache):
        found, sha256 = tree.objects.get(SIGNATURE), tree.sha256.get(SIGNATURE, "")
        with _file(tree.address, SIGNATURE, found, sha256, parts, means) as held:
            return held.read_bytes()


def _listed(address: Address, parts: Parts) -> dict[str, Object]:
    objects = parts.below(address)
    if not objects:
        raise ModelError(f"{address}/: there is nothing")
    if len(objects) > _MOST_FILES:
        raise ModelError(f"{address}/: there are more than {_MOST_FILES} objects; name one version's directory")
    wanted = {}
    for name in sorted(objects):
        path = PurePosixPath(name)
        if contents.is_beside(path):
            if objects[name].size > LARGEST_TEXT:
                raise ModelError(f"{address}/{name}: it has more than 4 MiB")
            if not name.startswith("."):  # which somebody was still writing
                wanted[name] = objects[name]
            continue
        try:
            wanted[contents.name_of_file(name)] = objects[name]
        except ValueError as error:
            raise ModelError(f"{address}/: {error}") from error
        for parent in path.parents:
            if str(parent) in objects:
                raise ModelError(f"{address}/: {parent} is both a file and a directory")
    return wanted


def _compared(tree: Tree, content: Manifest) -> dict[str, str]:
    """The sha256 of each file; ModelError if what is listed cannot be what the manifest says."""
    expected = {entry.path: entry for entry in content.files}
    names = set(tree.names)
    wrong = [f"{path} is missing" for path in sorted(expected.keys() - names)]
    wrong += [f"{name} is not in the manifest" for name in sorted(names - expected.keys())]
    wrong += [
        f"{name} is changed: it has {tree.objects[name].size} bytes, not {expected[name].size}"
        for name in sorted(names & expected.keys())
        if tree.objects[name].size != expected[name].size
    ]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ModelError(f"{tree.address}/ is not what its manifest says: {'; '.join(wrong[:_SHOWN])}{more}")
    return {path: entry.sha256 for path, entry in expected.items()}


def _all(tree: Tree, directory: Path, parts: Parts, means: Means) -> dict[str, str]:
    """Link every file into the directory; their sha256."""
    names = list(tree.objects or tree.sha256)
    parts.expect(sum(found.size for found in tree.objects.values()))
    pool = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="sluice-files")
    tasks = {name: pool.submit(_one, tree, name, directory, parts, means) for name in names}
    try:
        settle(tasks.values())
        return {name: task.result() for name, task in tasks.items()}
    except BaseException:
        parts.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _one(tree: Tree, name: str, directory: Path, parts: Parts, means: Means) -> str:
    found = tree.objects.get(name)
    with _file(tree.address, name, found, tree.sha256.get(name, ""), parts, means) as held:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(held, target)
        except OSError:  # where there are no links
            shutil.copyfile(held, target)
        return held.name


@contextmanager
def _file(
    address: Address, name: str, found: Object | None, sha256: str, parts: Parts, means: Means
) -> Iterator[Path]:  # fmt: skip
    """One file of the version, in the cache."""
    own = address.below(name)
    brought = 0

    def bring(place: Path, validator: str) -> Downloaded | None:
        nonlocal brought
        if found is None or found.validator == validator:
            return None
        brought = found.size
        return parts.download(own, found, place)

    with fetched(str(own), str(own), sha256, means, bring) as held:
        if found is not None and not brought:
            parts.have(found.size)
        yield held


def _remember(address: Address, sha256: dict[str, str], place: Path, means: Means) -> None:
    """Note what the directory held, for those who ask offline."""
    path = place / "list"
    path.write_bytes(msgspec.json.encode(dict(sorted(sha256.items()))))
    name = hashlib.sha256(path.read_bytes()).hexdigest()
    with means.cache.adopt(path, name):
        means.cache.note(blobs.key_of(f"{address}/"), blobs.Address(f"{address}/", "", name))


def _remembered(address: Address, means: Means) -> Tree:
    noted = means.cache.address(blobs.key_of(f"{address}/"))
    if noted is None:
        raise not_in_cache(f"{address}/")
    with means.cache.using(noted.sha256) as path:
        if path is None:
            raise not_in_cache(f"{address}/")
        sha256 = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    content = None
    if MANIFEST in sha256:
        with means.cache.using(sha256[MANIFEST]) as path:
            if path is None:
                raise not_in_cache(f"{address}/")
            content = manifest.parse(read_text(path, f"{address}/{MANIFEST}"), f"{address}/{MANIFEST}")
    return Tree(address, content, {}, sha256)
