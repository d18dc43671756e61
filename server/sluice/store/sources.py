"""Brings a version into the repository from where it is: a directory, a package or an ONNX file, here or elsewhere.

What comes over the network goes through the cache, is compared with its sha256 if that is given, and is a version only
when all of it is there and right.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from sluice.errors import ModelError, system_reason
from sluice.store import card, manifest, mlflow, objects, oci, placing, trees, unpacking
from sluice.store.blobs import key_of
from sluice.store.contents import CARD, SIGNATURE, files_of, is_beside
from sluice.store.download import Downloaded, Rules, download
from sluice.store.fetching import Means, fetched
from sluice.store.joining import joined
from sluice.store.manifest import Manifest
from sluice.store.object_systems import SCHEMES
from sluice.store.objects import Store
from sluice.store.package import Progress
from sluice.store.parts import Parts
from sluice.store.placing import Placed
from sluice.store.redaction import shown
from sluice.store.signatures import read_bytes

__all__ = ["Means", "Wanted", "pull"]

_CHUNK = 1 << 20
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_ZIP = b"PK\x03\x04"
_MODEL = "model.onnx"


@dataclass(frozen=True)
class Wanted:
    """Where in which repository the version shall be."""

    models: Path
    name: str | None = None  # None: as its source calls it
    number: str | None = None  # None: the next that is free


def pull(source: str, wanted: Wanted, means: Means) -> Placed:
    """Bring the version at `source`; ModelError if it is not there, not whole, or not what it should be."""
    scheme = _SCHEME.match(source)
    if scheme is None:
        return _local(Path(source), wanted, means.progress)
    if scheme[1].lower() in ("http", "https"):
        return _web(source, wanted, means)
    if scheme[1].lower() in SCHEMES:
        return _store(source, wanted, means)
    if registry := {"mlflow": mlflow.pull, "oci": oci.pull}.get(scheme[1].lower()):
        return registry(source, wanted, means)
    schemes = "https://, http://, hf://, s3://, gs://, az://, mlflow:// or oci://"
    raise ModelError(f"{scheme[1]}://: versions come from a path, {schemes}")


def _local(path: Path, wanted: Wanted, progress: Progress) -> Placed:
    if path.is_dir():
        return _directory(path, wanted, progress)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file or directory")
    try:
        source = str(path.resolve()).encode("utf-8", "replace").decode()
        return _file(path, path.name, wanted, _Origin(str(path), source), progress)
    except OSError as error:
        raise ModelError(f"{error.filename or path}: cannot be read: {system_reason(error)}") from error


def _directory(path: Path, wanted: Wanted, progress: Progress) -> Placed:
    """A version's directory, sealed or not; sealed it must be what its manifest says."""
    content = manifest.read(path)
    names = files_of(path) if content is None else [entry.path for entry in content.files]
    if content is None:
        _must_be_model(path, names, f"`sluice import {path} --name NAME` converts a Hugging Face model")
    place = path.resolve()
    origin = _Origin(str(path), str(place).encode("utf-8", "replace").decode())

    def make(staging: Path, target: Path) -> Manifest:
        if content is not None:
            manifest.verify(path, content)
        return _filled(staging, target, _Files(path, names, content, origin), progress)

    placed = placing.place(wanted.models, wanted.name or _usual(place, content), wanted.number, make, content)
    own = path / SIGNATURE
    return joined(placed, read_bytes(own, str(own)) if content is not None and own.is_file() else None)


@dataclass(frozen=True)
class _Origin:
    shown: str  # in messages
    written: str  # into the manifest


@dataclass(frozen=True)
class _Files:
    """A version's directory that is to be copied."""

    directory: Path
    names: list[str]  # without what lies beside the model
    content: Manifest | None
    origin: _Origin


def _filled(staging: Path, target: Path, files: _Files, progress: Progress) -> Manifest:
    beside = [CARD]  # of what is sealed here: all else would be of another manifest than is written
    if files.content is not None:
        beside = [path.name for path in files.directory.glob("[!.]*") if is_beside(Path(path.name))]
    beside = [name for name in sorted(beside) if (files.directory / name).is_file()]
    _copy(files, staging, [*files.names, *beside], progress)
    if files.content is None:
        said = {"name": target.parent.name, "version": f"{target.name}.0.0", "source": files.origin.written}
        return _sealed(staging, said)
    manifest.verify(staging, files.content)
    return files.content


def _usual(place: PurePath, content: Manifest | None) -> str:
    """What the model is called where it comes from."""
    return content.name if content else place.parent.name if place.name.isdigit() else place.name


def _must_be_model(path: Path, names: list[str], hint: str) -> None:
    try:
        manifest.model_file(path, names)
    except ModelError as error:
        if "config.json" in names:
            raise ModelError(f"{error.message}; {hint}") from error
        raise


def _copy(files: _Files, target: Path, names: Iterable[str], progress: Progress) -> None:
    source = files.directory
    names = list(names)
    total = sum((source / name).stat().st_size for name in names)
    free = shutil.disk_usage(target).free
    if total > free:
        raise ModelError(f"{files.origin.shown}: it takes {total} bytes, and {free} are free on the disk")
    done = 0
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with (source / name).open("rb") as old, place.open("xb") as new:
            while chunk := old.read(_CHUNK):
                new.write(chunk)
                done += len(chunk)
                progress("copy", done, total)


def _file(path: Path, called: str, wanted: Wanted, origin: _Origin, progress: Progress) -> Placed:
    """A package or an ONNX file, which lies at `path`; what it holds decides, and then what it is called."""
    with path.open("rb") as file:
        begin = file.read(len(_ZIP))
    if begin == _ZIP:
        return unpacking.unpack(path, wanted.models, wanted.number, progress, wanted.name)
    if not called.endswith(".onnx"):
        raise ModelError(f"{origin.shown}: is neither a package nor an ONNX file")
    name = wanted.name or called.removesuffix(".onnx")
    if wanted.name is None and called == _MODEL:
        raise ModelError(f"{origin.shown}: its name does not tell what the model is called; say --name")

    def make(staging: Path, target: Path) -> Manifest:
        _copy(_Files(path.parent, [path.name], None, origin), staging, [path.name], progress)
        (staging / path.name).rename(staging / _MODEL)
        (staging / _MODEL).chmod(0o644)
        return _sealed(staging, {"name": name, "version": f"{target.name}.0.0", "source": origin.written})

    return placing.place(wanted.models, name, wanted.number, make)


def _sealed(staging: Path, said: dict[str, str]) -> Manifest:
    sealed = manifest.seal(staging, **said)
    card.write(staging, sealed)
    return sealed


def _web(source: str, wanted: Wanted, means: Means) -> Placed:
    url, sha256 = _address(source)
    called = PurePosixPath(unquote(urlsplit(url).path)).name

    def bring(place: Path, validator: str) -> Downloaded | None:
        return download(url, place, validator, means.rules, means.progress)

    with fetched(url, shown(url), sha256, means, bring) as path:
        return _fetched_file(path, called, wanted, shown(url), means)


def _fetched_file(path: Path, called: str, wanted: Wanted, origin: str, means: Means) -> Placed:
    """As `_file`, of one that is in the cache."""
    try:
        return _file(path, called, wanted, _Origin(origin, origin), means.progress)
    except ModelError as error:  # which is of the file in the cache
        raise ModelError(error.message.replace(str(path), origin)) from error


def _address(source: str) -> tuple[str, str]:
    """The address without its fragment, and the sha256 that this tells."""
    url, sha256 = _without_sha256(source)
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ModelError(f"{shown(url)!r}: is no address; write other than plain characters as %20")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ModelError(f"{shown(url)}: is no address: {error}") from error
    if "@" in parts.netloc:
        raise ModelError(f"{shown(url)}: names and passwords belong into ~/.netrc, not into addresses")
    if not parts.hostname:
        raise ModelError(f"{shown(url)}: names no host")
    return url, sha256


def _without_sha256(source: str) -> tuple[str, str]:
    url, _, fragment = source.partition("#")
    told = _SHA256.fullmatch(fragment)
    if fragment and not told:
        raise ModelError(f"{shown(url)}: after # stands what the file should be, as #sha256= and 64 hexadecimal digits")
    return url, told[1].lower() if told else ""


def _store(source: str, wanted: Wanted, means: Means) -> Placed:
    """An object is a file, and what there is below a name a directory."""
    text, sha256 = _without_sha256(source)
    address = objects.address_of(text)
    rules = means.rules or Rules()
    with Store(address.scheme, rules.timeout) as store, Parts(store, rules, means.progress) as parts:
        if sha256 and address.is_directory:
            raise ModelError(f"{address}/: #sha256= is what a file should be; a directory's manifest says it of each")
        is_file = not address.is_directory
        found = parts.look(address) if is_file and not (sha256 or means.offline) else None
        is_noted = means.offline and is_file and means.cache.address(key_of(str(address))) is not None
        if sha256 or found or is_noted:
            with fetched(str(address), str(address), sha256, means, parts.bringing(address, found)) as path:
                return _fetched_file(path, PurePosixPath(address.path).name, wanted, str(address), means)
        return _tree(address, wanted, parts, means)


def _tree(address: objects.Address, wanted: Wanted, parts: Parts, means: Means) -> Placed:
    tree = trees.look(address, parts, means)
    content, place = tree.content, PurePosixPath(address.path)
    if content is None:
        hint = "`sluice import DIRECTORY --name NAME` converts a Hugging Face model that is on this machine"
        _must_be_model(Path(f"/{address.scheme}:/{address.path}"), tree.names, hint)
    name = wanted.name or _usual(place, content)
    if content is not None and (there := placing.present(wanted.models, name, wanted.number, content)):
        return joined(there, trees.signature(tree, parts, means))
    with trees.brought(tree, parts, means) as directory:
        files = _Files(directory, tree.names, content, _Origin(f"{address}/", f"{address}/"))

        def make(staging: Path, target: Path) -> Manifest:
            return _filled(staging, target, files, means.progress)

        return placing.place(wanted.models, name, wanted.number, make, content)
