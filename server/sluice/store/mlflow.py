"""Brings a version from an MLflow model registry, `mlflow://models:/NAME@ALIAS`, `…/NAME/3` or `…/NAME/latest`.

The files of its ONNX flavour are taken, never pickles, code or environments. Where the registry is and who asks is what
MLflow's own environment variables say.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sluice.errors import ModelError, system_reason
from sluice.store import bundle
from sluice.store.blobs import Address, Cache, key_of
from sluice.store.bundle import Bundle
from sluice.store.download import Rules
from sluice.store.mlflowclient import REGISTRY, Asked, Registry, Remote
from sluice.store.placing import Placed
from sluice.store.redaction import shown

if TYPE_CHECKING:
    from sluice.store.sources import Means, Wanted

_SOURCE = re.compile(
    r"mlflow://models:/(?P<name>[^/:@#?]+)(?:/(?P<number>[^/@#?]+)|@(?P<alias>[^/@#?]+))(?:#run=(?P<run>\w+))?"
)
_LONGEST_ABOUT = 10_000
_FORMS = "mlflow://models:/NAME@ALIAS, mlflow://models:/NAME/3 or mlflow://models:/NAME/latest"


class _File(msgspec.Struct, frozen=True):
    path: str  # in the version
    sha256: str


class _Kept(msgspec.Struct, frozen=True):
    """A version as the cache has it."""

    said: dict[str, Any]
    about: str
    files: list[_File]


def pull(source: str, wanted: Wanted, means: Means) -> Placed:
    """Bring the version at `source`; ModelError if it is not there, not whole, or has no ONNX flavour."""
    asked = _asked(source)
    place = _place()
    with _clear_errors(means.cache), ExitStack() as held:
        if means.offline:
            kept, paths = _from_cache(asked, place, means.cache, held)
            said = kept.said
        else:
            registry = Registry(asked, place, means.rules or Rules())
            version = registry.version()
            said = registry.said(version)
            marks = {REGISTRY: shown(place)}
            if (there := bundle.found(wanted, asked.name, said["source"], marks)) is not None:
                return there
            kept, paths = _brought(registry, version, said, means, held)
        files = {file.path: path for file, path in zip(kept.files, paths, strict=True)}
        return bundle.place(Bundle(files, asked.shown, asked.name, said, kept.about), wanted, means.progress)


def _asked(source: str) -> Asked:
    found = _SOURCE.fullmatch(source)
    if found is None:
        raise ModelError(f"{shown(source)}: is no address in an MLflow registry, as {_FORMS}")
    number, alias = found["number"] or "", found["alias"] or ""
    if number and number != "latest" and not (number.isascii() and number.isdigit()):
        number, alias = "", number
    return Asked(found["name"], number, alias, found["run"] or "")


def _place() -> str:
    """Where the registry is."""
    place = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if not place:
        raise ModelError("mlflow://: set MLFLOW_TRACKING_URI to the address of the tracking server")
    return place


# From the cache.


def _key(place: str, asked: str) -> str:
    return key_of(f"{shown(place)} {asked}")


def _from_cache(asked: Asked, place: str, cache: Cache, held: ExitStack) -> tuple[_Kept, list[Path]]:
    known = cache.address(_key(place, asked.shown))
    found = _kept(known.sha256, cache, held) if known is not None else None
    if found is None or (asked.run and not str(found[0].said["source"]).endswith(f"#run={asked.run}")):
        raise ModelError(f"{asked.shown}: is not, or not whole, in the cache, and nothing shall be downloaded")
    return found


def _kept(sha256: str, cache: Cache, held: ExitStack) -> tuple[_Kept, list[Path]] | None:
    """A version all of whose files are there."""
    path = held.enter_context(cache.using(sha256))
    if path is None:
        return None
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except msgspec.MsgspecError:  # of another version of Sluice
        return None
    paths = [held.enter_context(cache.using(file.sha256)) for file in kept.files]
    whole = [path for path in paths if path is not None]
    return (kept, whole) if len(whole) == len(paths) else None


def _brought(
    registry: Registry, version: Any, said: Mapping[str, Any], means: Means, held: ExitStack
) -> tuple[_Kept, list[Path]]:  # fmt: skip
    """The version's files in the cache, downloaded unless they are there."""
    cache, asked = means.cache, registry.asked
    exact = str(said["source"])
    known = cache.address(_key(registry.place, exact))
    sha256 = known.sha256 if known is not None else ""
    found = _kept(sha256, cache, held) if sha256 else None
    if found is None:
        with cache.partial(_key(registry.place, exact)) as place:
            _empty(place)  # what is half there cannot be gone on with
            files, paths = _files(registry, exact, registry.files(version, place), place, (means, held))
            found = _Kept(dict(said), str(version.description or "")[:_LONGEST_ABOUT], files), paths
            listing = place / "listing.json"
            listing.write_bytes(msgspec.json.encode(found[0]))
            sha256 = _sha256(listing)
            held.enter_context(cache.adopt(listing, sha256))
            shutil.rmtree(place)
    for each in (exact, exact.partition("#")[0], asked.shown):  # by number, and as it was asked for
        cache.note(_key(registry.place, each), Address(asked.shown, "", sha256))
    return found


def _files(
    registry: Registry, exact: str, remotes: list[Remote], place: Path, how: tuple[Means, ExitStack]
) -> tuple[list[_File], list[Path]]:
    """Each file in the cache; an earlier attempt may have brought some."""
    means, held = how
    cache = means.cache
    total = sum(remote.size or 0 for remote in remotes)
    before = 0

    def report(step: str, done: int, _: int) -> None:
        means.progress(step, before + done, max(total, before + done))

    files, paths = [], []
    for remote in remotes:
        key = _key(registry.place, f"{exact} {remote.path}")
        known = cache.address(key)
        sha256 = known.sha256 if known is not None else ""
        path = held.enter_context(cache.using(sha256)) if sha256 else None
        if path is None:
            brought = registry.download(remote, place, report)
            sha256 = _sha256(brought)
            path = held.enter_context(cache.adopt(brought, sha256))
            cache.note(key, Address(registry.asked.shown, "", sha256))
        before += remote.size or 0
        files.append(_File(remote.name, sha256))
        paths.append(path)
    means.progress("download", total, total)
    return files, paths


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _empty(directory: Path) -> None:
    """It itself stays: it is locked."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _clear_errors(cache: Cache) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or cache.directory
        raise ModelError(f"{place}: cannot be written or read: {system_reason(error)}") from error
